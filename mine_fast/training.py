"""Training one critic on one split: AdamW with a warmed-up cosine rate, averaged weights, choice on validation rows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mine_fast.checks import as_integer, as_number
from mine_fast.data import ArraySource, PairSource
from mine_fast.graphed_steps import GraphedSteps, graph_obstacle
from mine_fast.held_out_pairs import level_of_rows
from mine_fast.native import critic_obstacle, use_engine
from mine_fast.pair_scoring import by_rows
from mine_fast.selection import FoldHistory, Selection
from mine_fast.steps import NativeSteps, Steps, TorchSteps

if TYPE_CHECKING:
    from mine_fast.loss import DVLoss

__all__ = ["TrainingSettings", "default_steps", "free_level", "train_critic"]

#: Reference rows that tell the level of a row of x: to choose a step by, and to read an estimate off. At 2.88 nats a
#: normalised critic (loss "js") lost 0.03 nats by 256 and 0.19 by 64.
LEVEL_ROWS_TO_CHOOSE, LEVEL_ROWS_TO_READ = 64, 256


@dataclass(frozen=True)
class TrainingSettings:
    """How a critic is trained; every field can be passed to `MINE.fit` and `mine_fast.estimate`.

    Attributes:
        steps: optimiser steps per network and fold. `fit` and `estimate` make fewer of few rows where none are given:
            300 up to 1000 rows, 600 from 4000 (see `default_steps`).
        batch_size: joint rows per step.
        learning_rate: peak of the schedule (linear warm-up over a tenth of the steps, then a cosine to zero).
        shuffles: marginal pairs per row and step.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm.
        averaging: decay of the moving average of the weights, which is what is validated and returned.
        evaluate_every: steps between validations; the best one, the start included, is kept.
        validation_fraction: share of a fold's training rows that choose the step and train nothing.
        folds: K of the cross-fitting: K critics, each evaluated on the K-th of the rows that it never saw.
        evaluation_shuffles: derangements of the held-out rows; None: as many as give about 10^6 pairs, 20 to 199.
        engine: "auto" trains by the native engine where it can (see `mine_fast.native`) and by torch elsewhere;
            "native" or "torch" insist. "graph" replays the steps of a critic on a GPU from a CUDA graph, as "auto" does
            for the critics that `estimate_many` and its like stack there (docs/benchmarks.md says what a GPU has run).

    Raises:
        ValueError: a number outside its range, such as 0 steps, one fold or an averaging of 1; an unknown engine.
        TypeError: a field that is no number, or no whole one where counts are meant.

    >>> import mine_fast
    >>> mine_fast.TrainingSettings(steps=300, folds=5).batch_size
    256
    """

    steps: int = 600
    batch_size: int = 256
    learning_rate: float = 1e-2
    shuffles: int = 2
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    averaging: float = 0.98
    evaluate_every: int = 50
    validation_fraction: float = 0.2
    folds: int = 4
    evaluation_shuffles: int | None = None
    engine: str = "auto"

    def __post_init__(self) -> None:
        use_engine(self.engine, None)  # refuses an unknown one; obstacles show when there is a critic
        for name, least in (("steps", 1), ("batch_size", 2), ("shuffles", 1), ("evaluate_every", 1), ("folds", 2)):
            object.__setattr__(self, name, as_integer(name, getattr(self, name), least))
        for name in ("learning_rate", "max_grad_norm", "validation_fraction", "averaging", "weight_decay"):
            object.__setattr__(self, name, as_number(name, getattr(self, name)))
        for name, low, high in (
            ("learning_rate", 0.0, math.inf),
            ("max_grad_norm", 0.0, math.inf),
            ("validation_fraction", 0.0, 1.0),
        ):
            if not low < getattr(self, name) < high:
                raise ValueError(f"{name} must be in ({low:g}, {high:g}), got {getattr(self, name)!r}")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging must be in [0, 1), got {self.averaging!r}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay!r}")
        if self.evaluation_shuffles is not None:
            shuffles = as_integer("evaluation_shuffles", self.evaluation_shuffles, least=1)
            object.__setattr__(self, "evaluation_shuffles", shuffles)


def default_steps(rows: int) -> int:
    """Optimiser steps for N rows: 300 sqrt(N / 1000), from 300 to 600.

    More of few rows is learnt by heart: over eleven distributions that are hard to learn, 300 steps left a mean error
    of 0.089 nats at N = 1000 and of 0.041 at N = 3000, 600 left 0.091 and 0.038.

    >>> default_steps(200), default_steps(2000), default_steps(10_000)
    (300, 424, 600)
    """
    return round(min(max(300 * math.sqrt(rows / 1000), 300), 600))


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
