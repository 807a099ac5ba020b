"""The main job, on real input, in under two minutes: what `make demo` runs.

1. an estimate with its error bar on data whose mutual information is known;
2. an estimate on a real table: how much the pixels of a handwritten digit say about its label;
3. the speed of a training step against the eager step that one would write without mine_fast.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from timing import describe
from training_step import measure_step

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


def speed() -> None:
    size = (20, 20, 100, 2, 128)
    print(f"3. One training step on one thread, contenders in turn; {describe(size)}")
    rows = measure_step(size)
    ours = rows[0]["cpu_ms"]["median"]
    for row in rows:
        median = row["cpu_ms"]["median"]
        print(f"   {row['contender']:45s} {median:6.2f} ms   {median / ours:5.2f} x ours")


if __name__ == "__main__":
    print(f"mine_fast {mine_fast.__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}\n")
    known_gaussian()
    digits()
    speed()
