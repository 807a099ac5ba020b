"""The main job, on real input, in under two minutes: what `make demo` runs.

1. an estimate with its error bar on data whose mutual information is known;
2. an estimate on a real table: how much the pixels of a handwritten digit say about its label;
3. the speed of a training step against the eager step that one would write without mine_fast.
"""

from __future__ import annotations

import math
import statistics
import sys
import time

import numpy as np
import torch
from baselines import Step, clean_eager_step, make_critic, mine_fast_step, mine_pytorch_step

import mine_fast


def known_gaussian() -> None:
    rho, rows = 0.9, 3000
    rng = np.random.default_rng(0)
    x = rng.standard_normal(rows)
    y = rho * x + math.sqrt(1 - rho**2) * rng.standard_normal(rows)
    truth = -0.5 * math.log(1 - rho**2)
    print(f"1. Two Gaussian columns, rho = {rho}, {rows} rows; the truth is {truth:.3f} nats")
    report(mine_fast.estimate(x, y), truth)


def digits() -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    counts = np.bincount(labels) / len(labels)
    ceiling = -float(np.sum(counts * np.log(counts)))
    print(
        f"2. scikit-learn's digits, I(image; label), {len(labels)} rows; the ceiling is H(label) = {ceiling:.3f} nats"
    )
    report(mine_fast.estimate(images, labels))


def report(result: mine_fast.MIResult, truth: float | None = None) -> None:
    for line in str(result).splitlines():
        print("   " + line)
    if truth is not None:
        print(
            f"   off the truth by     {result.mi - truth:+.3f} nats ({(result.mi - truth) / result.stderr:+.1f} stderr)"
        )
    print(f"   took                 {result.seconds:.1f} s\n", flush=True)


def speed(x_width: int = 20, y_width: int = 20, hidden: int = 100, layers: int = 2, rows: int = 128) -> None:
    torch.set_num_threads(1)
    print(
        f"3. One training step, CPU time on one thread (critic {x_width}+{y_width} -> {hidden} x {layers} -> 1, "
        f"{rows} rows, Adam), contenders in turn"
    )
    x, y = torch.randn(rows, x_width), torch.randn(rows, y_width)
    steps: dict[str, Step] = {
        name: build(make_critic(x_width, y_width, hidden, layers))
        for name, build in (
            ("mine_fast.MINE as a loss", mine_fast_step),
            ("clean eager torch", clean_eager_step),
            ("mine-pytorch's way", mine_pytorch_step),
        )
    }
    steps["mine-pytorch as shipped (anomaly detection)"] = steps["mine-pytorch's way"]
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(15):
        for name, step in steps.items():
            with torch.autograd.set_detect_anomaly(name.endswith("(anomaly detection)"), check_nan=True):
                step(x, y)
                start = time.process_time()
                for _ in range(20):
                    step(x, y)
                times[name].append((time.process_time() - start) / 20)
    ours = statistics.median(times["mine_fast.MINE as a loss"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"   {name:45s} {median * 1e3:6.2f} ms   {median / ours:5.2f} x ours")


if __name__ == "__main__":
    import warnings

    warnings.filterwarnings("ignore", message="Anomaly Detection has been enabled")
    print(f"mine_fast {mine_fast.__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}\n")
    known_gaussian()
    digits()
    speed()
