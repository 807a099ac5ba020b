"""The numbers that a run leaves: written whole or not at all, and put together over seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mine_fast.files import write_text
from mine_fast.plain_json import plain

__all__ = ["aggregate", "read_json", "write_json"]


def write_json(path: Path, value: Any) -> None:
    """Write a file that is, whenever something stops the writing, the old one or the new one."""
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """What a file holds, or None if there is no file."""
    return json.loads(path.read_text()) if path.is_file() else None


def aggregate(runs: Sequence[Any]) -> Any:
    """The metrics of several seeds as one: every number becomes its mean, its standard deviation and its values.

    Lists of one length are put together element by element; what is no number and the same in all stays as it is; what
    is not in all of them, or None in one, is listed under "values".

    >>> aggregate([{"error": 1.0, "rho": [0.1, 0.2]}, {"error": 3.0, "rho": [0.1, 0.2]}])
    {'error': {'mean': 2.0, 'sd': 1.414..., 'values': [1.0, 3.0]}, 'rho': [0.1, 0.2]}
    """
    first = runs[0]
    if all(run == first for run in runs) and not _is_number(first):
        if isinstance(first, dict):  # numbers inside want their spread, zero as it is
            return {key: aggregate([run[key] for run in runs]) for key in first}
        return first
    if all(map(_is_number, runs)):
        spread = statistics.stdev(runs) if len(runs) > 1 else None
        return {"mean": statistics.fmean(runs), "sd": spread, "values": list(runs)}
    if all(isinstance(run, dict) for run in runs):
        keys = dict.fromkeys(key for run in runs for key in run)
        return {key: aggregate([run.get(key) for run in runs]) for key in keys}
    if all(isinstance(run, list) and len(run) == len(first) for run in runs):
        items = [aggregate(list(column)) for column in zip(*runs, strict=True)]
        if items and all(isinstance(item, dict) and set(item) == {"mean", "sd", "values"} for item in items):
            return {
                "mean": [item["mean"] for item in items],
                "sd": [item["sd"] for item in items],
                "values": list(runs),
            }
        return items
    return {"values": list(runs)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
