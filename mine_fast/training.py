"""Training one critic on one split: AdamW with a warmed-up cosine rate, averaged weights, choice on validation rows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mine_fast.data import ArraySource, PairSource
from mine_fast.graphed_steps import GraphedSteps, graph_obstacle
from mine_fast.held_out_pairs import level_of_rows
from mine_fast.native import critic_obstacle, use_engine
from mine_fast.pair_scoring import by_rows
from mine_fast.selection import FoldHistory, Selection
from mine_fast.settings import TrainingSettings
from mine_fast.steps import NativeSteps, Steps, TorchSteps

if TYPE_CHECKING:
    from mine_fast.loss import DVLoss

__all__ = ["fitting_threads", "free_level", "ordinary_autograd", "train_critic"]

#: Reference rows that tell the level of a row of x: to choose a step by, and to read an estimate off. At 2.88 nats a
#: normalised critic (loss "js") lost 0.03 nats by 256 and 0.19 by 64.
LEVEL_ROWS_TO_CHOOSE, LEVEL_ROWS_TO_READ = 64, 256


@contextlib.contextmanager
def ordinary_autograd() -> Iterator[None]:
    """Record gradients, whatever the caller is in: no_grad or inference_mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextlib.contextmanager
def fitting_threads(parameters: int, rows: int) -> Iterator[None]:
    """Keep a small network on one thread while it trains, and give the caller's setting back afterwards.

    Below about 50 million multiply-adds a step, waking a second thread costs more than it computes; where the other
    cores are busy, waiting for it can cost ten times the step.

    Args:
        parameters: of the network.
        rows: that go through it in a step.
    """
    before = torch.get_num_threads()
    if parameters * rows < 50_000_000:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def free_level(
    mine: DVLoss, score: Callable[[Tensor, Tensor], Tensor], source: PairSource, rows: Tensor
) -> Callable[[Tensor], Tensor] | None:
    """What to take from the scores of a row of x before a bound is read off them; None: nothing.

    InfoNCE trains T up to a function of x, which the Donsker-Varadhan bound would pay for: of 0.83 nats between two
    Gaussian columns it read 0.56, and chose an early step, where the function was small.

    Args:
        mine: the loss.
        score: by the critic.
        source: the rows.
        rows: int64, reference rows, none of them among those that are read.
    """
    return level_of_rows(score, source.rows(rows)[1]) if mine.loss == "infonce" else None


def _steps_by(engine: str, native_obstacle: str | None, mine: DVLoss, source: PairSource) -> Callable[..., Steps]:
    if engine == "graph":
        obstacle = graph_obstacle(mine, source)
        if obstacle:
            raise ValueError(f"engine='graph' cannot train this: {obstacle}; engine='torch' can")
        return GraphedSteps
    return NativeSteps if use_engine(engine, native_obstacle) else TorchSteps


def train_critic(
    mine: DVLoss,
    score: Callable[[Tensor, Tensor], Tensor],
    source: PairSource,
    train_rows: Tensor,
    validation_rows: Tensor,
    settings: TrainingSettings,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> FoldHistory:
    """Train a MINE module in place and leave it with the weights that did best on the validation rows.

    Args:
        mine: loss module; mine(x, y) is minus the bound of a batch.
        score: (x, y) -> scores [b] by the critic that `mine` trains.
        source: the rows.
        train_rows: int64, rows to train on.
        validation_rows: int64, rows to choose the step on.
        settings: see `TrainingSettings`.
        seed: of the batch order and the validation shuffles.
        progress: called with (steps done, latest validation bound) at every validation.

    Raises:
        DivergenceError: the loss of a batch or the validation bound is not finite, and was still rising before; see
            `Selection`.
    """
    if not any(p.requires_grad for p in mine.parameters()):
        raise ValueError("T has no trainable parameters")
    if not (mine.training and getattr(mine.T, "training", True)):
        mine.train()  # parts in evaluation mode of a critic in training mode are frozen, and stay so
    obstacle = critic_obstacle(mine)
    if obstacle is None and not isinstance(source, ArraySource):
        obstacle = "the rows are fetched from a dataset, not held in memory"
    steps = _steps_by(settings.engine, obstacle, mine, source)(mine, source, train_rows, settings, seed)
    level = free_level(mine, score, source, train_rows[:LEVEL_ROWS_TO_CHOOSE])
    scorer = steps.score or by_rows(score)
    chosen = Selection(scorer, source, validation_rows, settings, seed, level, progress)

    def validate(step: int, train: float) -> None:
        with steps.averaged() as keep:
            chosen.read(step, train, keep)

    validate(0, math.nan)
    for start in range(0, settings.steps, settings.evaluate_every):
        count = min(settings.evaluate_every, settings.steps - start)
        loss = steps.advance(count)
        validate(start + count, -loss)
        if chosen.history.diverged_at is not None:
            break
    history = chosen.take_best()
    mine.eval()
    return history
