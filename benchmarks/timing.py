"""The sizes that steps are timed at, and the timing of contenders in turn."""

from __future__ import annotations

import time
from collections.abc import Callable

#: (x columns, y columns, hidden, hidden layers, rows)
Size = tuple[int, int, int, int, int]
SIZES: tuple[Size, ...] = ((1, 1, 100, 2, 500), (20, 20, 100, 2, 128), (2, 25, 400, 3, 256), (784, 256, 512, 2, 512))


def describe(size: Size) -> str:
    x_width, y_width, hidden, layers, rows = size
    return f"critic {x_width}+{y_width} -> {hidden} x {layers} -> 1, {rows} rows, Adam"


def alternate(contenders: dict[str, Callable[[int], object]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """CPU seconds per step of each contender in each round; all contenders in every round.

    Args:
        contenders: each makes as many steps as it is told.
        rounds: readings of each.
        seconds: of CPU time per contender and round.
    """
    counts = {}
    for name, run in contenders.items():
        run(2)
        begin = time.process_time()
        run(3)
        counts[name] = max(1, int(seconds / max(1e-6, (time.process_time() - begin) / 3)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            begin = time.process_time()
            run(counts[name])
            times[name].append((time.process_time() - begin) / counts[name])
    return times
