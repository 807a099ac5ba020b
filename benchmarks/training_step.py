"""CPU time of one training step with `mine_fast.MINE` as the loss, against the same step written without it.

    python benchmarks/training_step.py

One thread, contenders in turn within one run, medians. Every contender first has to give the same losses and gradients.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import record
import torch
from baselines import check_agreement, clean_eager_step, make_critic, mine_fast_step, mine_pytorch_step
from timing import SIZES, Size, alternate, describe

ANOMALY = "mine-pytorch as shipped (anomaly detection)"


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
        contenders = {name: _runner(step, x, y, name == ANOMALY) for name, step in steps.items()}
        times = alternate(contenders, repeats, seconds=0.02)
    finally:
        torch.set_num_threads(threads)
    return [
        {"contender": name, "size": list(size), "cpu_ms": record.quantiles([1e3 * t for t in taken])}
        for name, taken in times.items()
    ]


def _runner(step: Any, x: torch.Tensor, y: torch.Tensor, anomaly: bool) -> Callable[[int], None]:
    def run(count: int) -> None:
        with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(anomaly):
            warnings.simplefilter("ignore")
            for _ in range(count):
                step(x, y)

    return run


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
