"""Which folds may be fitted in threads beside each other, and what draws from generators that all threads share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mine_fast.critics import activation_code
from mine_fast.data import ArraySource, PairSource
from mine_fast.default_critics import MLPCritic, StackedCritic
from mine_fast.native import critic_obstacle, network_stacks
from mine_fast.noise import GaussianNoise

if TYPE_CHECKING:
    from mine_fast.loss import DVLoss

__all__ = ["draws_globally", "may_run_in_threads"]


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
    if mine.T is None or type(mine.T) is StackedCritic:
        return True
    if type(mine.T) is MLPCritic:  # whose network is made in the fold
        return activation_code(mine.T.activation()) is not None
    return not draws_globally(mine, engine)
