"""How far `mine_fast.estimate` is from the truth, and what it costs, by its defaults: the first table of the README.

    python benchmarks/calibration.py [--runs 20]

How often the error statements hold is counted over many more samples by coverage.py. Data with known mutual
information, fresh for every run. The defaults were chosen on seeds below 1000; the figures are from seeds 1000 and
above.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import record
import torch
from sampling import REPORT_SEEDS

import mine_fast

Sample = tuple[np.ndarray, np.ndarray, float]


def gaussian(rng: np.random.Generator, rows: int, rho: float, width: int) -> Sample:
    x = rng.standard_normal((rows, width))
    y = rho * x + math.sqrt(1 - rho**2) * rng.standard_normal((rows, width))
    return x, y, -0.5 * width * math.log(1 - rho**2)


def student(rng: np.random.Generator, rows: int) -> Sample:
    """A bivariate-block Student-t with one degree of freedom, 2 + 2 columns, identity scale."""
    z = rng.standard_normal((rows, 4)) / np.sqrt(rng.chisquare(1, rows))[:, None]
    return z[:, :2], z[:, 2:], 0.432


def sine(rng: np.random.Generator, rows: int) -> Sample:
    """Y = sin(4 pi x) + 0.3 noise, x uniform; the truth by numerical integration."""
    x = rng.uniform(size=rows)
    return x, np.sin(4 * np.pi * x) + 0.3 * rng.standard_normal(rows), 0.862


CASES: dict[str, Callable[[np.random.Generator], Sample]] = {
    "gaussian 1-d, rho 0.9, N=3000": lambda rng: gaussian(rng, 3000, 0.9, 1),
    "independent 1-d, N=3000": lambda rng: gaussian(rng, 3000, 0.0, 1),
    "gaussian 20-d, rho 0.5, N=10000": lambda rng: gaussian(rng, 10_000, 0.5, 20),
    "student 2+2, df 1, N=10000": lambda rng: student(rng, 10_000),
    "sin(4 pi x) + 0.3 noise, N=10000": lambda rng: sine(rng, 10_000),
}


def measure(name: str, draw: Callable[[np.random.Generator], Sample], runs: int) -> dict[str, object]:
    results, truth, seconds = [], math.nan, []
    for run in range(runs):
        x, y, truth = draw(np.random.default_rng(REPORT_SEEDS + run))
        start = time.process_time()
        results.append(mine_fast.estimate(x, y, seed=REPORT_SEEDS + run))
        seconds.append(time.process_time() - start)
    error = np.array([r.mi - truth for r in results])
    stderr = np.array([r.stderr for r in results])
    return {
        "case": name,
        "truth": round(truth, 4),
        "mean_error": round(float(error.mean()), 4),
        "sd_of_estimate": round(float(error.std(ddof=1)), 4),
        "mean_stderr": round(float(stderr.mean()), 4),
        "within_5_percent": float(np.mean(np.abs(error) < 0.05 * truth)) if truth > 0 else None,
        "within_2_stderr": float(np.mean(np.abs(error) < 2 * stderr)),
        "largest_absolute_error": round(float(np.abs(error).max()), 4),
        "lower_95_below_truth": float(np.mean([r.lower(0.95) < truth for r in results])),
        "p_below_0.05": float(np.mean([r.p_value < 0.05 for r in results])),
        "cpu_seconds": {key: round(value, 2) for key, value in record.quantiles(seconds).items()},
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="samples of each case")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for name, draw in CASES.items():
        rows.append(measure(name, draw, options.runs))
        print(rows[-1], flush=True)
        record.write("calibration", rows, about="accuracy and coverage of estimate(x, y), defaults, one thread; nats")


if __name__ == "__main__":
    main()
