"""What the benchmarks of accuracy share: which seeds are reported, one estimate and its cost, a thread per process."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

#: Defaults were chosen on seeds below; figures that are reported are of these and above.
REPORT_SEEDS = 1000

#: What is kept of every estimate.
PER_SEED = ("seeds", "mi", "stderr", "lower_95", "p_value", "cpu_seconds")


def seed_range(text: str) -> range:
    """Of "first-last", or of one seed.

    >>> seed_range("1000-1002"), seed_range("7")
    (range(1000, 1003), range(7, 8))
    """
    first, _, last = text.partition("-")
    found = range(int(first), int(last or first) + 1)
    if not found:
        raise argparse.ArgumentTypeError(f"{text} holds no seed")
    return found


def reported_seeds(text: str) -> range:
    """As `seed_range`, of seeds that no default was chosen on."""
    found = seed_range(text)
    if found[0] < REPORT_SEEDS:
        raise argparse.ArgumentTypeError(f"seeds below {REPORT_SEEDS} are for tuning")
    return found


def add_seeds(parser: argparse.ArgumentParser, count: int, kind: Callable[[str], range] = reported_seeds) -> None:
    """The option --seeds, by default the first `count` that are reported."""
    default = f"{REPORT_SEEDS}-{REPORT_SEEDS + count - 1}"
    parser.add_argument("--seeds", type=kind, default=default, help=f"first-last, or one (default: {default})")


def one_thread() -> None:
    """For this process and those it starts, so that CPU seconds compare; numpy and torch read it when they load."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))


def figures_of(
    estimator: Callable[..., Any], samples: tuple[np.ndarray, ...], seed: int, **settings: Any
) -> tuple[Any, dict[str, float]]:
    """One estimate: its result, and what is kept of it, by `PER_SEED`."""
    start = time.process_time()
    r = estimator(*samples, seed=seed, **settings)
    values = (seed, r.mi, r.stderr, r.lower(0.95), r.p_value, time.process_time() - start)
    return r, dict(zip(PER_SEED, values, strict=True))
