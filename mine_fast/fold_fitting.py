"""The critic of one fold: trained and chosen on the rows that are not held out, then scored on those that are."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mine_fast.arrays import cast
from mine_fast.concurrency import draws_globally
from mine_fast.critics import call_critic
from mine_fast.data import PairSource
from mine_fast.default_critics import MLPCritic, StackedCritic, is_default
from mine_fast.evaluation import HeldOutScores
from mine_fast.held_out_pairs import HeldOutPairs
from mine_fast.inputs import QuantileInputs
from mine_fast.native import pair_scorer
from mine_fast.pair_scoring import PairScorer
from mine_fast.reference import log_mean_exp
from mine_fast.selection import FoldHistory
from mine_fast.separable import SeparableCritic
from mine_fast.settings import TrainingSettings
from mine_fast.stacking import stacking_weights
from mine_fast.training import (
    LEVEL_ROWS_TO_READ,
    fitting_threads,
    free_level,
    train_critic,
)

if TYPE_CHECKING:
    from mine_fast.loss import DVLoss

__all__ = ["FitParts", "Fold", "FoldFit", "ToTrain", "fit_alone", "fit_parts", "train_alone", "trainings"]

#: Marginal pairs per validation row that find the weights of stacked critics.
STACKING_SHUFFLES = 20

#: Marginal pairs per row on which a critic is scored that trained on them.
TRAIN_SHUFFLES = 10


class Fold(NamedTuple):
    """What is to be done for a fold.

    Attributes:
        source: the rows.
        train, validation, held_out: int64 row numbers, by what the rows are for.
        seed: of all that is drawn.
        settings: see `TrainingSettings`.
        given_device: where to compute; None: where a critic's parameters or the rows are.
        report: called with (steps done in this fold, latest validation bound).
    """

    source: PairSource
    train: Tensor
    validation: Tensor
    held_out: Tensor
    seed: int
    settings: TrainingSettings
    given_device: torch.device | str | None
    report: Callable[[int, float], None]

    @property
    def device(self) -> torch.device | str:
        """Where a default critic computes."""
        return self.given_device or self.source.device

    @property
    def rows_read_again(self) -> Tensor:
        """Training rows that the critic is scored on: as many as held out, since the bound depends on their number."""
        return self.train[: self.held_out.numel()]

    def fitting_rows(self) -> tuple[Tensor, Tensor]:
        """Training rows x and y that a default critic learns its inputs from."""
        return self.source.rows(self.train[: QuantileInputs.max_rows])

    def generator(self) -> torch.Generator:
        """Draws the first weights."""
        return torch.Generator("cpu").manual_seed(self.seed)


class FoldFit(NamedTuple):
    """What came of a fold.

    Attributes:
        critic: T(x, y) on rows.
        log_ema: its moving average.
        history: the curves.
        scores: on the held-out rows.
        train_scores: on as many rows that it trained on, if there are as many.
        train_rows: int64, the numbers of those.
    """

    critic: nn.Module
    log_ema: Tensor
    history: FoldHistory
    scores: HeldOutScores
    train_scores: HeldOutScores
    train_rows: Tensor


def trainings(mine: DVLoss) -> int:
    """How many networks are trained per fold."""
    return 2 if _stacks(mine) else 1


def _stacks(mine: DVLoss) -> bool:
    # InfoNCE leaves every critic a function of x of its own, so that scores do not add up.
    return (mine.T is None or isinstance(mine.T, StackedCritic)) and mine.loss != "infonce"


class ToTrain(NamedTuple):
    """A training that a fit waits for.

    Attributes:
        loss: trains in place.
        rows: what it reads.
        fold: which of the rows, and the settings.
        report: called with (steps done in the fold, latest validation bound).
    """

    loss: DVLoss
    rows: PairSource
    fold: Fold
    report: Callable[[int, float], None]


#: A fit that hands out its trainings, is sent their histories, and returns what came of the fold.
FitParts = Generator[ToTrain, FoldHistory, FoldFit]


def fit_parts(mine: DVLoss, fold: Fold) -> FitParts:
    """Fit the critic of a fold: a copy of the caller's or, without one, a new `StackedCritic`.

    Args:
        mine: whose critic and loss; left as it is.
        fold: the rows and settings.
    """
    return _fit_stack(mine, fold) if _stacks(mine) else _fit_given(mine, fold)


def fit_alone(parts: FitParts) -> FoldFit:
    """Go through a fit, each training by itself."""
    try:
        wanted = next(parts)
        while True:
            wanted = parts.send(train_alone(wanted))
    except StopIteration as end:
        fitted: FoldFit = end.value
        return fitted


def _fit_given(mine: DVLoss, fold: Fold) -> FitParts:
    """Train a copy of the caller's critic, from its weights before any training on rows that are held out now."""
    loss = mine.at_start(fold.seed)
    critic, transform = _critic_on_rows(loss, fold)
    rows = fold.source.map(transform)
    history = yield ToTrain(loss, rows, fold, fold.report)
    score = _scorer(loss)
    level = free_level(loss, score, rows, fold.train[:LEVEL_ROWS_TO_READ])
    of_pairs = pair_scorer(loss, fold.settings.engine)
    scores, train_scores = (read(of_pairs, rows, fold, level) for read in (_held_out, _trained_on))
    return FoldFit(critic, loss.log_ema, history, scores, train_scores, fold.rows_read_again)


def _critic_on_rows(loss: DVLoss, fold: Fold) -> tuple[nn.Module, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """A fold's critic, put into a loss that has not trained, and what maps rows to what the loss reads.

    An `MLPCritic` reads features that do not change while it trains, so they are computed once, and its network is
    trained on them directly. A critic of the caller's reads the rows in its own dtype.
    """
    if is_default(loss.T):
        critic = loss.T if isinstance(loss.T, MLPCritic) else MLPCritic()
        critic.prepare(*fold.fitting_rows(), fold.generator()).to(fold.device)
        loss.T, loss.method = critic.layers, "concat"
        loss.to(fold.device)
        return critic, lambda x, y: critic.features(x.to(fold.device), y.to(fold.device))
    like = next(loss.T.parameters(), None) if isinstance(loss.T, nn.Module) else None
    if like is None:
        raise TypeError(f"T must be a torch.nn.Module with parameters to be trained, got {type(loss.T).__name__}")
    loss.to(fold.given_device or like.device)
    like = next(loss.T.parameters())
    return loss.T, lambda x, y: (cast(x, like, "x"), cast(y, like, "y"))


def _fit_stack(mine: DVLoss, fold: Fold) -> FitParts:
    """Train the networks of a `StackedCritic`, each on its features, and weigh the critics on the validation rows."""
    critic = StackedCritic().prepare(*fold.fitting_rows(), fold.generator()).to(fold.device)
    features = fold.source.map(lambda x, y: critic.inputs(x.to(fold.device), y.to(fold.device)))
    histories, losses = [], []
    for i, (network, x_width, y_width) in enumerate(critic.networks()):
        loss = mine.at_start(fold.seed)
        loss.T, loss.method = network, None if isinstance(network, SeparableCritic) else "concat"
        loss.to(fold.device)

        def read(x: Tensor, y: Tensor, widths: tuple[int, int] = (x_width, y_width)) -> tuple[Tensor, Tensor]:
            return x[:, : widths[0]], y[:, : widths[1]]

        def progress(step: int, bound: float, done: int = i * fold.settings.steps) -> None:
            fold.report(done + step, bound)

        histories.append((yield ToTrain(loss, features.map(read), fold, progress)))
        losses.append(loss)

    critic.eval()
    with torch.no_grad():
        read_by_all = features.map(critic.with_factors)
    members = critic.members(pair_scorer(losses[0], fold.settings.engine))
    log_ema = _weigh(critic, members, read_by_all, fold)
    history = max(histories, key=lambda h: max(h.validation))
    history.diverged_at = next((h.diverged_at for h in histories if h.diverged_at is not None), None)

    def score(x: Tensor, y: Tensor, partner: Tensor) -> Tensor:
        return critic.score(members, x, y, partner)

    scores, train_scores = (scored(score, read_by_all, fold) for scored in (_held_out, _trained_on))
    return FoldFit(critic, log_ema, history, scores, train_scores, fold.rows_read_again)


def _weigh(critic: StackedCritic, members: list[PairScorer], rows: PairSource, fold: Fold) -> Tensor:
    """Fix the constants and weights of the critics on the validation rows; the log mean exp of the sum there, []."""
    pairs = HeldOutPairs(rows, fold.validation, fold.seed, STACKING_SHUFFLES)
    scores = [pairs.scores(score) for score in members]
    critic.offsets = critic.weights.new_tensor([s.log_mean_exp for s in scores])
    # Where none of n pairs fell, the joint probability is about 1 / n (Laplace's rule), and no ratio to be known lower.
    critic.floor.fill_(-math.log(fold.train.numel()))
    joint, marginal = torch.stack([s.joint for s in scores]), torch.stack([s.marginal.flatten() for s in scores])
    critic.ceiling = joint.amax(1).to(critic.offsets) - critic.offsets
    joint, marginal = critic.limited(joint), critic.limited(marginal)
    weights = stacking_weights(joint, marginal)
    critic.weights.copy_(weights)
    return log_mean_exp(weights @ marginal)


def train_alone(wanted: ToTrain) -> FoldHistory:
    """Make a training by itself; see `train_critic`."""
    loss, rows, fold, report = wanted
    settings = fold.settings
    loss.shuffles = settings.shuffles
    batch = min(settings.batch_size, fold.train.numel())
    parameters = sum(p.numel() for p in loss.parameters())
    draws = draws_globally(loss, settings.engine)
    seeded = _seeded(fold.seed, loss.log_ema.device) if draws else contextlib.nullcontext()
    with seeded, fitting_threads(parameters, (1 + loss.partners(batch)) * batch):
        return train_critic(loss, _scorer(loss), rows, fold.train, fold.validation, settings, fold.seed, report)


def _held_out(
    score: PairScorer,
    rows: PairSource,
    fold: Fold,
    level: Callable[[Tensor], Tensor] | None = None,
) -> HeldOutScores:
    # A million pairs settle the marginal term; fewer than 20 shuffles leave it noisy, 199 are enough to test with.
    shuffles = fold.settings.evaluation_shuffles or min(199, max(20, 1_000_000 // len(fold.source)))
    return HeldOutPairs(rows, fold.held_out, fold.seed, shuffles).scores(score, level)


def _trained_on(
    score: PairScorer,
    rows: PairSource,
    fold: Fold,
    level: Callable[[Tensor], Tensor] | None = None,
) -> HeldOutScores:
    return HeldOutPairs(rows, fold.rows_read_again, fold.seed, TRAIN_SHUFFLES).scores(score, level)


def _scorer(loss: DVLoss) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: call_critic(loss.T, loss.method, x, y)


#: Held by the fit that has seeded torch's global generators: there is one set of them for all threads.
_generators = threading.RLock()


def _free_generators() -> None:
    """In a process that was forked while a thread held them: that thread is not there to let them go."""
    global _generators
    _generators = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_generators)


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (dropout) within, and give back the caller's afterwards."""
    with _generators, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
