"""CPU time of one training step with `mine_fast.MINE` as the loss, against the same step written without it.

    python benchmarks/training_step.py

One thread, contenders in turn within one run, medians. Every contender first has to give the same losses and gradients.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import record
import torch
from baselines import check_agreement, clean_eager_step, make_critic, mine_fast_step, mine_pytorch_step

#: (x columns, y columns, hidden, hidden layers, rows)
Size = tuple[int, int, int, int, int]
SIZES: tuple[Size, ...] = ((1, 1, 100, 2, 500), (20, 20, 100, 2, 128), (2, 25, 400, 3, 256), (784, 256, 512, 2, 512))

ANOMALY = "mine-pytorch as shipped (anomaly detection)"


def describe(size: Size) -> str:
    x_width, y_width, hidden, layers, rows = size
    return f"critic {x_width}+{y_width} -> {hidden} x {layers} -> 1, {rows} rows, Adam"


def measure_step(size: Size, repeats: int = 15) -> list[dict[str, Any]]:
    """One row per contender, ours first: CPU milliseconds a step."""
    x_width, y_width, hidden, layers, rows = size
    builders = {
        "mine_fast.MINE as a loss": mine_fast_step,
        "clean eager torch": clean_eager_step,
        "mine-pytorch's way": mine_pytorch_step,
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps = {name: build(make_critic(x_width, y_width, hidden, layers)) for name, build in builders.items()}
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(3 * rows, x_width, generator=generator)
        y = torch.randn(3 * rows, y_width, generator=generator)
        check_agreement(steps, x, y)
        x, y = x[:rows], y[:rows]
        steps[ANOMALY] = steps["mine-pytorch's way"]
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(repeats):
            for name, step in steps.items():
                times[name].append(_milliseconds(step, x, y, name == ANOMALY))
    finally:
        torch.set_num_threads(threads)
    return [{"contender": name, "size": list(size), "cpu_ms": record.quantiles(taken)} for name, taken in times.items()]


def _milliseconds(step: Any, x: torch.Tensor, y: torch.Tensor, anomaly: bool) -> float:
    """CPU time a step, over as many as fill about 20 ms."""
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(anomaly):
        warnings.simplefilter("ignore")
        start = time.process_time()
        step(x, y)
        count = max(1, round(0.02 / max(time.process_time() - start, 1e-4)))
        start = time.process_time()
        for _ in range(count):
            step(x, y)
        return 1e3 * (time.process_time() - start) / count


def main() -> None:
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        print(describe(size))
        measured = measure_step(size)
        ours = measured[0]["cpu_ms"]["median"]
        for row in measured:
            print(
                f"  {row['contender']:45s} {row['cpu_ms']['median']:7.3f} ms  {row['cpu_ms']['median'] / ours:5.2f} x"
            )
        rows += measured
    print(record.write("training_step", rows, about="CPU ms of a training step, one thread, contenders in turn"))


if __name__ == "__main__":
    main()
