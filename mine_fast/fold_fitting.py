"""The critic of one fold: trained and chosen on the rows that are not held out, then scored on those that are."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mine_fast.arrays import cast
from mine_fast.critics import call_critic, critic_layers
from mine_fast.data import PairSource
from mine_fast.default_critics import MLPCritic, StackedCritic, is_default
from mine_fast.evaluation import HeldOutScores, held_out_scores
from mine_fast.inputs import QuantileInputs
from mine_fast.stacking import stacking_weights
from mine_fast.training import (
    LEVEL_ROWS_TO_READ,
    FoldHistory,
    TrainingSettings,
    fitting_threads,
    free_level,
    train_critic,
)

if TYPE_CHECKING:
    from mine_fast.loss import DVLoss

__all__ = ["Fold", "FoldFit", "fit_fold", "trainings"]

#: Marginal pairs per validation row that find the weights of stacked critics.
STACKING_SHUFFLES = 20


class Fold(NamedTuple):
    """The rows of a fold by what they are for, int64 row numbers each, and its seed."""

    train: Tensor
    validation: Tensor
    held_out: Tensor
    seed: int


class FoldFit(NamedTuple):
    """What came of a fold: the critic T(x, y) on rows, its moving average, the curves, and its scores held out."""

    critic: nn.Module
    log_ema: Tensor
    history: FoldHistory
    scores: HeldOutScores


def trainings(mine: DVLoss) -> int:
    """How many networks are trained per fold."""
    return 2 if _stacks(mine) else 1


def _stacks(mine: DVLoss) -> bool:
    # InfoNCE leaves every critic a function of x of its own, so that scores do not add up.
    return (mine.T is None or isinstance(mine.T, StackedCritic)) and mine.loss != "infonce"


def fit_fold(
    mine: DVLoss,
    source: PairSource,
    fold: Fold,
    settings: TrainingSettings,
    device: torch.device | str | None,
    report: Callable[[int, float], None],
) -> FoldFit:
    """Fit the critic of a fold: a copy of the caller's or, without one, a new `StackedCritic`.

    Args:
        mine: whose critic, loss and settings; left as it is.
        source: the rows.
        fold: which rows are for what.
        settings: see `TrainingSettings`.
        device: where to compute; None: where T's parameters or the rows are.
        report: called with (steps done in this fold, latest validation bound).
    """
    fit = _fit_stack if _stacks(mine) else _fit_given
    return fit(mine, source, fold, settings, device, report)


def _fit_given(
    mine: DVLoss,
    source: PairSource,
    fold: Fold,
    settings: TrainingSettings,
    device: torch.device | str | None,
    report: Callable[[int, float], None],
) -> FoldFit:
    """Train a copy of the caller's critic, from its weights before any training on rows that are held out now."""
    loss = mine.at_start(fold.seed)
    critic, transform = _critic_on_rows(loss, source, fold, device)
    rows = source.map(transform)
    history = _train(loss, rows, fold, settings, report)
    score = _scorer(loss)
    level = free_level(loss, score, rows, fold.train[:LEVEL_ROWS_TO_READ])
    return FoldFit(critic, loss.log_ema, history, _held_out(score, rows, fold, settings, len(source), level))


def _critic_on_rows(
    loss: DVLoss, source: PairSource, fold: Fold, device: torch.device | str | None
) -> tuple[nn.Module, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """A fold's critic, put into a loss that has not trained, and what maps rows to what the loss reads.

    An `MLPCritic` reads features that do not change while it trains, so they are computed once, and its network is
    trained on them directly. A critic of the caller's reads the rows in its own dtype.
    """
    if is_default(loss.T):
        critic = loss.T if isinstance(loss.T, MLPCritic) else MLPCritic()
        critic.prepare(*_fitting_rows(source, fold), _generator(fold))
        critic.to(device or source.device)
        loss.T, loss.method = critic.layers, "concat"
        loss.to(device or source.device)
        return critic, lambda x, y: critic.features(*_moved(x, y, device))
    like = next(loss.T.parameters(), None) if isinstance(loss.T, nn.Module) else None
    if like is None:
        raise TypeError(f"T must be a torch.nn.Module with parameters to be trained, got {type(loss.T).__name__}")
    loss.to(device or like.device)
    like = next(loss.T.parameters())
    return loss.T, lambda x, y: (cast(x, like, "x"), cast(y, like, "y"))


def _fit_stack(
    mine: DVLoss,
    source: PairSource,
    fold: Fold,
    settings: TrainingSettings,
    device: torch.device | str | None,
    report: Callable[[int, float], None],
) -> FoldFit:
    """Train the two perceptrons of a `StackedCritic`, each on its features, and weigh them on the validation rows."""
    critic = StackedCritic().prepare(*_fitting_rows(source, fold), _generator(fold))
    critic.to(device or source.device)
    features = source.map(lambda x, y: critic.inputs(*_moved(x, y, device)))
    histories = []
    for i, (network, x_width, y_width) in enumerate(critic.networks()):
        loss = mine.at_start(fold.seed)
        loss.T, loss.method = network, "concat"
        loss.to(device or source.device)

        def read(x: Tensor, y: Tensor, widths: tuple[int, int] = (x_width, y_width)) -> tuple[Tensor, Tensor]:
            return x[:, : widths[0]], y[:, : widths[1]]

        def progress(step: int, bound: float, done: int = i * settings.steps) -> None:
            report(done + step, bound)

        histories.append(_train(loss, features.map(read), fold, settings, progress))

    log_ema = _weigh(critic, features, fold)
    critic.eval()
    history = max(histories, key=lambda h: max(h.validation))
    scores = _held_out(critic.score_features, features, fold, settings, len(source))
    return FoldFit(critic, log_ema, history, scores)


def _weigh(critic: StackedCritic, features: PairSource, fold: Fold) -> Tensor:
    """Fix the constants and weights of the critics on the validation rows; the log mean exp of the sum there, []."""
    scores = [
        held_out_scores(score, features, fold.validation, fold.seed, STACKING_SHUFFLES) for score in critic.members()
    ]
    critic.offsets = critic.weights.new_tensor([s.log_mean_exp for s in scores])
    # Where none of n pairs fell, the joint probability is about 1 / n (Laplace's rule), and no ratio to be known lower.
    critic.floor.fill_(-math.log(fold.train.numel()))
    joint, marginal = torch.stack([s.joint for s in scores]), torch.stack([s.marginal.flatten() for s in scores])
    critic.ceiling = joint.amax(1).to(critic.offsets) - critic.offsets
    joint, marginal = critic.limited(joint), critic.limited(marginal)
    weights = stacking_weights(joint, marginal)
    critic.weights.copy_(weights)
    return torch.logsumexp(weights @ marginal, 0) - math.log(marginal.shape[1])


def _train(
    loss: DVLoss,
    rows: PairSource,
    fold: Fold,
    settings: TrainingSettings,
    report: Callable[[int, float], None],
) -> FoldHistory:
    loss.shuffles = settings.shuffles
    parameters = sum(p.numel() for p in loss.parameters())
    # A stack of layers draws nothing from torch's global generators.
    seeded = contextlib.nullcontext() if critic_layers(loss.T, loss.method) else _seeded(fold.seed, loss.log_ema.device)
    with seeded, fitting_threads(parameters, (1 + settings.shuffles) * settings.batch_size):
        return train_critic(loss, _scorer(loss), rows, fold.train, fold.validation, settings, fold.seed, report)


def _held_out(
    score: Callable[[Tensor, Tensor], Tensor],
    rows: PairSource,
    fold: Fold,
    settings: TrainingSettings,
    total: int,
    level: Callable[[Tensor], Tensor] | None = None,
) -> HeldOutScores:
    # A million pairs settle the marginal term; fewer than 20 shuffles leave it noisy, 199 are enough to test with.
    shuffles = settings.evaluation_shuffles or min(199, max(20, 1_000_000 // total))
    return held_out_scores(score, rows, fold.held_out, fold.seed, shuffles, level)


def _scorer(loss: DVLoss) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: call_critic(loss.T, loss.method, x, y)


def _fitting_rows(source: PairSource, fold: Fold) -> tuple[Tensor, Tensor]:
    return source.rows(fold.train[: QuantileInputs.max_rows])


def _generator(fold: Fold) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(fold.seed)


def _moved(x: Tensor, y: Tensor, device: torch.device | str | None) -> tuple[Tensor, Tensor]:
    return (x, y) if device is None else (x.to(device), y.to(device))


#: Held by the fit that has seeded torch's global generators: there is one set of them for all threads.
_generators = threading.RLock()


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (dropout) within, and give back the caller's afterwards."""
    with _generators, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
