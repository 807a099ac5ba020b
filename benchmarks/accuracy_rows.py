"""Rows of the accuracy benchmark: one per case, size and estimator, each seed's estimate and what they come to."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from contenders import Estimate

Row = dict[str, Any]


def new_row(case: str, rows: int, estimator: str, truth: float, tuned: bool, **about: str) -> Row:
    return {
        "case": case,
        "rows": rows,
        "estimator": estimator,
        "truth": round(truth, 5),
        "tuned": tuned,
        **about,
        **{name: [] for name in ("seeds", "mi", "stderr", "lower_95", "cpu_seconds")},
    }


def add(row: Row, seed: int, estimate: Estimate | None, seconds: float) -> None:
    """Put in a seed's estimate, None where there was none, and work out the row's figures anew."""
    row["seeds"].append(seed)
    for name, value in asdict(estimate or Estimate(math.nan)).items():
        row[name].append(round(value, 5) if value is not None and math.isfinite(value) else None)
    row["cpu_seconds"].append(round(seconds, 3))
    row.update(figures(row))


def figures(row: Row) -> Row:
    """What a row's estimates come to; those that are not finite are counted in `failed` and left out of the errors."""
    truth = row["truth"]
    error = np.array([mi - truth for mi in row["mi"] if mi is not None])
    bars = [(mi, bar) for mi, bar in zip(row["mi"], row["stderr"], strict=True) if None not in (mi, bar)]
    lower = [value for value in row["lower_95"] if value is not None]

    def rounded(value: float) -> float:
        return round(float(value), 5)

    return {
        "failed": row["mi"].count(None),
        "mean_error": rounded(error.mean()) if len(error) else None,
        "mean_absolute_error": rounded(np.abs(error).mean()) if len(error) else None,
        "sd_of_estimate": rounded(error.std(ddof=1)) if len(error) > 1 else None,
        "within_0.1": rounded(np.sum(np.abs(error) <= 0.1) / len(row["mi"])),
        "mean_stderr": rounded(np.mean([bar for _, bar in bars])) if bars else None,
        "within_2_stderr": rounded(np.mean([abs(mi - truth) <= 2 * bar for mi, bar in bars])) if bars else None,
        "lower_95_above_truth": rounded(np.mean([value > truth for value in lower])) if lower else None,
        "mean_cpu_seconds": rounded(np.mean(row["cpu_seconds"])),
    }


def summarise(rows: Sequence[Row], cases: Collection[str]) -> list[Row]:
    """Per estimator, over those of `cases` that it ran on; the means give each case the same weight.

    A wild estimate rules a mean: `median_absolute_error` says how far a usual case is off.
    """
    chosen = [row for row in rows if row["case"] in cases]
    summaries = []
    for estimator in dict.fromkeys(row["estimator"] for row in chosen):
        own = [row for row in chosen if row["estimator"] == estimator]
        scored = [row for row in own if row["mean_absolute_error"] is not None]
        covered = [row["within_2_stderr"] for row in own if row["within_2_stderr"] is not None]
        above = [row["lower_95_above_truth"] for row in own if row["lower_95_above_truth"] is not None]
        errors = [row["mean_absolute_error"] for row in scored]
        worst = max(scored, key=lambda row: row["mean_absolute_error"], default=None)
        summaries.append(
            {
                "estimator": estimator,
                "cases": [row["case"] for row in own],
                "seeds": max(len(row["seeds"]) for row in own),
                "failed": sum(row["failed"] for row in own),
                "mean_absolute_error": float(np.mean(errors)) if errors else None,
                "median_absolute_error": float(np.median(errors)) if errors else None,
                "worst_case": worst and worst["case"],
                "worst_error": worst and worst["mean_error"],
                "within_0.1": float(np.mean([row["within_0.1"] for row in own])),
                "within_2_stderr": float(np.mean(covered)) if covered else None,
                "lower_95_above_truth": float(np.mean(above)) if above else None,
                "mean_cpu_seconds": float(np.mean([row["mean_cpu_seconds"] for row in own])),
            }
        )
    return summaries


def describe(summary: Row) -> str:
    """One line for a terminal."""
    if summary["mean_absolute_error"] is None:
        return f"{summary['estimator']:14s} no finite estimate"
    return (
        f"{summary['estimator']:14s} {len(summary['cases']):3d} cases, mean |error| "
        f"{summary['mean_absolute_error']:.3f} (median {summary['median_absolute_error']:.3f}), within 0.1 nats "
        f"{summary['within_0.1']:.0%}, worst {summary['worst_error']:+.3f} ({summary['worst_case']}), "
        f"{summary['failed']} failed, {summary['mean_cpu_seconds']:.1f} s"
    )
