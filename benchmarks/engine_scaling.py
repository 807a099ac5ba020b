"""How the CPU time of a training step grows with the batch, the width, the columns and the rows, one at a time.

    python benchmarks/engine_scaling.py [--rounds 7]       writes results/engine_scaling.json
    python benchmarks/engine_scaling.py --plot             and docs/scaling.png from it

From a critic 10+10 -> 128 x 2 -> 1 on batches of 256 of 4000 rows: the native engine, clean eager torch and the step's
matrix products alone, alternately in one run on one thread. Losses and gradients are compared first (see engine_step).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import baselines
import record
import torch
from engine_step import RATE, data_of, products_of, relu_engine, validate
from timing import alternate
from torch_path import TorchRun

BASE = {"batch": 256, "hidden": 128, "columns": 10, "rows": 4000}
GRID = {
    "batch": (64, 128, 256, 512, 1024, 2048, 4096),
    "hidden": (16, 32, 64, 128, 256, 512),
    "columns": (1, 4, 16, 64, 256),
    "rows": (1000, 4000, 16_000, 64_000, 256_000),
}
LAYERS = 2
LABELS = {
    "batch": "rows of a batch, B",
    "hidden": "width of the layers, h",
    "columns": "columns of x and of y",
    "rows": "rows of the data, N",
}


def measure(at: dict[str, int], options: argparse.Namespace) -> dict[str, float]:
    """CPU ms of a step of each contender."""
    columns, hidden, batch = at["columns"], at["hidden"], at["batch"]
    x, y = data_of(columns, columns, max(at["rows"], batch))
    size = (columns, columns, hidden, LAYERS, batch)
    critic = baselines.make_critic(*size[:4])
    engine = relu_engine(size, critic)
    zeros = [0.0] * LAYERS
    torch_run = TorchRun(columns, columns, [hidden] * LAYERS, [1] * LAYERS, zeros, 0, 0.01, 0)
    validate(engine, torch_run, x, y, batch)
    eager, products = baselines.clean_eager_step(critic, RATE), products_of(*size)
    rows = x.numpy(), y.numpy()

    def run_eager(count: int) -> None:
        for _ in range(count):
            index = torch.randint(len(x), (batch,))
            eager(x[index], y[index])

    contenders: dict[str, Callable[[int], object]] = {
        "engine": lambda count: engine.train(*rows, count, batch, 1, RATE, threads=1),
        "eager": run_eager,
        "products": lambda count: [products() for _ in range(count)],
    }
    times = alternate(contenders, options.rounds, options.seconds)
    return {f"{name}_ms": statistics.median(values) * 1e3 for name, values in times.items()}


def plot(document: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(GRID), figsize=(15, 3.8), sharey=True, layout="constrained")
    styles = {"eager": ("#d95f02", "clean eager torch"), "engine": ("#1b6ca8", "native engine"),
              "products": ("#8c8c8c", "matrix products alone")}  # fmt: skip
    for axis, (name, values) in zip(axes, GRID.items(), strict=True):
        rows = [row for row in document["rows"] if row["varied"] == name]
        for contender, (color, label) in styles.items():
            axis.plot(
                values, [row[f"{contender}_ms"] for row in rows], color=color, label=label, marker="o", markersize=4
            )
        axis.set(xscale="log", yscale="log", xlabel=LABELS[name])
        axis.set_xticks(values, [f"{value // 1000}k" if value >= 10_000 else str(value) for value in values])
        axis.minorticks_off()
        axis.grid(True, which="major", linewidth=0.4)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].set_ylabel("CPU ms of a step, one thread")
    axes[0].legend(frameon=False)
    figure.suptitle("A training step from 10+10 -> 128 x 2 -> 1, B = 256, N = 4000, one thing varied at a time")
    figure.savefig(record.ROOT / "docs" / "scaling.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.05, help="of CPU time per contender and round")
    parser.add_argument("--plot", action="store_true", help="draw what was measured before")
    options = parser.parse_args()
    path = record.RESULTS / "engine_scaling.json"
    if not options.plot:
        torch.set_num_threads(1)
        rows = []
        for varied, values in GRID.items():
            for value in values:
                rows.append({"varied": varied, "value": value, **measure({**BASE, varied: value}, options)})
                print(rows[-1], flush=True)
        about = "CPU ms of a training step as one thing grows, one thread, contenders in turn"
        path = record.write("engine_scaling", rows, about=about)
    plot(json.loads(path.read_text()))


if __name__ == "__main__":
    main()
