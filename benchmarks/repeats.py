"""Rows that come back and values of few rows each: copies of measurements, codes, whole numbers, conditions.

    python benchmarks/repeats.py [--seeds 1000-1009] [--cases "40 codes"]

By the defaults of `mine_fast.estimate` and `mine_fast.conditional`, on one thread. Estimates are written to
benchmarks/results/repeats.json; `python benchmarks/readme_table.py` puts them into docs/coverage.md. Seeds below 1000
are refused: defaults were chosen on those.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import record
from coverage import figures
from prose import wrapped
from sampling import PER_SEED, add_seeds, figures_of, one_thread

Arrays = tuple[np.ndarray[Any, Any], ...]

#: Of a Gaussian pair with correlation 0.8. Rounding to 1/17 of the standard deviation takes less than 0.001 of it.
CORRELATION = 0.8
OF_CORRELATION = -0.5 * math.log(1 - CORRELATION**2)

#: Standard deviation of what a code does not say about a value that belongs to it.
NOISE = 0.3


@dataclass(frozen=True)
class Case:
    """Samples (x, y), or (x, y, z) of which I(X;Y|Z) is asked, and the truth in nats."""

    kind: str
    draw: Callable[[np.random.Generator], Arrays]
    truth: float = 0.0


def copied(rng: np.random.Generator, rows: int, copies: int, partner: str, width: int = 10) -> Arrays:
    """X [rows, width] and a y that is independent of it, each row as often as `copies` says."""
    x, value = rng.standard_normal((rows, width)), rng.standard_normal(rows)
    y = {"label": rng.integers(0, 2, rows), "rounded value": value.round(2), "value": value}[partner]
    return np.repeat(x, copies, 0), np.repeat(y, copies)


def copied_pairs(rng: np.random.Generator, rows: int, copies: int) -> Arrays:
    x, y = correlated(rng, rows)
    return np.repeat(x, copies), np.repeat(y, copies)


def bootstrapped(rng: np.random.Generator, rows: int) -> Arrays:
    x, y = copied(rng, rows, 1, "label")
    chosen = rng.integers(0, rows, rows)
    return x[chosen], y[chosen]


def correlated(rng: np.random.Generator, rows: int) -> Arrays:
    x = rng.standard_normal(rows)
    return x, CORRELATION * x + math.sqrt(1 - CORRELATION**2) * rng.standard_normal(rows)


def counts(rng: np.random.Generator, rows: int, steps: int, both: bool = False) -> Arrays:
    """Whole numbers whose order means something, `steps` to a standard deviation."""
    x, y = correlated(rng, rows)
    return np.round(steps * x), np.round(steps * y) if both else y


def means(codes: int) -> np.ndarray[Any, Any]:
    """What each code stands for: the same in every sample, so that there is one truth."""
    return np.random.default_rng(7).standard_normal(codes)


def coded(rng: np.random.Generator, rows: int, codes: int) -> Arrays:
    """Codes whose order means nothing, and a value about each one's mean."""
    code = rng.integers(0, codes, rows)
    return code, means(codes)[code] + NOISE * rng.standard_normal(rows)


def information_of_codes(codes: int) -> float:
    """I(code; value) = h(mixture of the codes' normal distributions) - h(one of them), by quadrature."""
    at = np.linspace(-7, 7, 28_001)
    density = np.exp(-0.5 * ((at[:, None] - means(codes)) / NOISE) ** 2).mean(1) / (NOISE * math.sqrt(2 * math.pi))
    entropy = -(density * np.log(np.maximum(density, 1e-300))).sum() * (at[1] - at[0])
    return float(entropy) - 0.5 * math.log(2 * math.pi * math.e * NOISE**2)


def conditioned(rng: np.random.Generator, codes: int, rows_per_code: int) -> Arrays:
    """X and y that depend on each other through the code z alone."""
    code = np.repeat(np.arange(codes), rows_per_code)
    mean = rng.standard_normal(codes)[code]
    x, y = (mean + NOISE * rng.standard_normal(code.size) for _ in range(2))
    return x, y, np.array([f"code {c:03d}" for c in code])


COPIES, CODES, WHOLE, GIVEN = "copies of rows", "codes", "whole numbers", "I(X;Y|Z), z a code"
CASES = {
    "300 rows and labels, 4 times": Case(COPIES, partial(copied, rows=300, copies=4, partner="label")),
    "300 rows and rounded values, 4 times": Case(COPIES, partial(copied, rows=300, copies=4, partner="rounded value")),
    "150 rows and values, 4 times": Case(COPIES, partial(copied, rows=150, copies=4, partner="value")),
    "200 numbers and labels, 3 times": Case(COPIES, partial(copied, rows=200, copies=3, partner="label", width=1)),
    "bootstrap of 300 rows and labels": Case(COPIES, partial(bootstrapped, rows=300)),
    "500 correlated pairs, twice": Case(COPIES, partial(copied_pairs, rows=500, copies=2), OF_CORRELATION),
    "150 codes in 1000 rows": Case(CODES, partial(coded, rows=1000, codes=150), information_of_codes(150)),
    "250 codes in 1000 rows": Case(CODES, partial(coded, rows=1000, codes=250), information_of_codes(250)),
    "120 codes in 400 rows": Case(CODES, partial(coded, rows=400, codes=120), information_of_codes(120)),
    "30 to a sd, in 1000 rows": Case(WHOLE, partial(counts, rows=1000, steps=30), OF_CORRELATION),
    "17 to a sd, both sides, in 300 rows": Case(WHOLE, partial(counts, rows=300, steps=17, both=True), OF_CORRELATION),
}
CASES |= {
    f"{codes} codes of {rows} rows": Case(GIVEN, partial(conditioned, codes=codes, rows_per_code=rows))
    for codes, rows in ((40, 5), (40, 8), (40, 10), (40, 20), (200, 6))
}


def measured(name: str, seeds: range) -> dict[str, Any]:
    import mine_fast

    case = CASES[name]
    row: dict[str, Any] = {"kind": case.kind, "case": name, "truth": round(case.truth, 5)}
    row |= {column: [] for column in PER_SEED}
    flags = Counter[str]()
    for seed in seeds:
        samples = case.draw(np.random.default_rng(seed))
        r, found = figures_of(mine_fast.estimate if len(samples) == 2 else mine_fast.conditional, samples, seed)
        for column, value in found.items():
            row[column].append(round(value, 5))
        flags.update({flag.code for flag in r.flags})
    row["rows"] = len(samples[0])
    row["flags"] = dict(sorted(flags.items()))
    return row | figures(row)


def section(document: dict[str, Any], machine: str) -> str:
    """The part of docs/coverage.md."""
    runs = len(document["rows"][0]["seeds"])
    lines = [
        "## Rows that come back, values of few rows",
        "",
        wrapped(
            "From `benchmarks/results/repeats.json`, which `python benchmarks/repeats.py` measures; "
            f"{machine}. {runs} samples each, nats. Of copies the truth is that of the rows that were copied; flags "
            "are counted over the samples."
        ),
        "",
        "| | case | truth | mean | sd | mean stderr | lower(0.95) above the truth | p <= 0.05 | flags |",
        "|---" * 9 + "|",
    ]
    for row in document["rows"]:
        mean = row["mean_error"] + row["truth"]
        cells = [row["kind"].replace("|", "\\|"), row["case"], f"{row['truth']:.3f}", f"{mean:.3f}"]
        cells += [f"{row[figure]:.3f}" for figure in ("sd_of_estimate", "mean_stderr")]
        cells += [f"{round(row[figure] * runs)} of {runs}" for figure in ("lower_95_above_truth", "p_up_to_0.05")]
        cells.append(", ".join(f"`{code}` {count}" for code, count in row["flags"].items()))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_seeds(parser, 10)
    parser.add_argument("--cases", default="", help="only those whose names have this in them; nothing is written")
    options = parser.parse_args()
    one_thread()
    import torch

    torch.set_num_threads(1)
    rows = []
    for name in CASES:
        if options.cases in name:
            rows.append(measured(name, options.seeds))
            print(name, {key: rows[-1][key] for key in ("truth", "mean_error", "sd_of_estimate", "flags")}, flush=True)
    if not options.cases:
        record.write("repeats", rows, about="repeated rows and values, one thread; nats")


if __name__ == "__main__":
    main()
