"""Which folds may be fitted in threads beside each other, and how much memory each of them takes."""

from __future__ import annotations

import os

import torch

from mine_fast.critics import activation_code
from mine_fast.data import ArraySource, PairSource
from mine_fast.default_critics import MLPCritic, StackedCritic
from mine_fast.loss import DVLoss
from mine_fast.modules import is_plain
from mine_fast.native import critic_obstacle, network_stacks
from mine_fast.noise import GaussianNoise
from mine_fast.pair_scoring import CALL_ROWS
from mine_fast.settings import TrainingSettings

__all__ = ["draws_globally", "fit_memory", "fitting_memory", "may_run_in_threads"]


def draws_globally(loss: DVLoss, engine: str) -> bool:
    """Whether training may draw from torch's global generators: dropout, and noise that the engine does not draw.

    Args:
        loss: with the critic that trains.
        engine: see `TrainingSettings`.
    """
    stacks = network_stacks(loss)
    if not stacks:
        return True
    noisy = any(isinstance(module, GaussianNoise) for stack in stacks for module in stack)
    return noisy and (engine == "torch" or critic_obstacle(loss) is not None)


def may_run_in_threads(mine: DVLoss, source: PairSource, device: torch.device | str | None, engine: str) -> bool:
    """Whether the folds of a fit can train at the same time.

    Not on a GPU, which has one queue for all; not from a dataset or with a critic that has code of its own, which may
    not be meant for several threads; not where they would share torch's generators.
    """
    parameter = next(mine.parameters(), None)
    computes_on = torch.device(device or (source.device if parameter is None else parameter.device))
    if not isinstance(source, ArraySource) or {source.device.type, computes_on.type} != {"cpu"}:
        return False
    if type(mine).forward is not DVLoss.forward or not all(map(is_plain, mine.modules())):
        return False
    if mine.T is None or type(mine.T) is StackedCritic:
        return True
    if type(mine.T) is MLPCritic:  # whose network is made in the fold
        return activation_code(mine.T.activation()) is not None
    return not draws_globally(mine, engine)


def fit_memory(rows: int, x_width: int, y_width: int, settings: TrainingSettings) -> int:
    """Bytes that a running fit of one fold takes at most, beside the data: measured, and rounded up.

    Its features, made in float64; the pairs that go through the critic at once; the scores of the held-out rows.

    Args:
        rows: N.
        x_width: columns of x.
        y_width: columns of y.
        settings: of the fit.
    """
    features = rows * (80 * (x_width + y_width) + 1000)
    pairs = min(CALL_ROWS, 8 * rows) * 4 * 64 * 6
    scores = max(2_000_000, 20 * rows) // settings.folds * 8 * 6
    return features + pairs + scores


def fitting_memory() -> int:
    """Bytes that fits may take together where the caller sets no limit: half of what is free, as far as one can tell.

    >>> fitting_memory() > 1e6
    True
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        try:
            free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (AttributeError, ValueError, OSError):
            free = 4 << 30
    return free // 2
