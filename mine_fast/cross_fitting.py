"""From rows to an `MIResult`: split into folds, train a critic per fold, score each fold by the one that missed it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mine_fast.arrays import cast
from mine_fast.critics import MLPCritic, call_critic, critic_layers
from mine_fast.data import PairSource
from mine_fast.determinism import deterministic
from mine_fast.evaluation import (
    CERTIFIED_TAIL_ROWS,
    ESTIMATE_TAIL_ROWS,
    HeldOutScores,
    held_out_scores,
    permutation_p_value,
)
from mine_fast.flags import constants, duplicate_rows, many_levels, reliability_flags
from mine_fast.inputs import QuantileInputs
from mine_fast.repeats import duplicate_groups
from mine_fast.result import Flag, History, MIResult
from mine_fast.splitting import split_folds, split_off
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

__all__ = ["CrossFit", "Progress", "cross_fit", "independent_result"]

#: progress(steps done, steps in all, latest validation bound)
Progress = Callable[[int, int, float], None]

#: Fewer rows leave a fold without enough to train, to choose and to evaluate.
MINIMUM_ROWS_TO_FIT = 20

#: More rows choose a step no better, and are scored again at every validation.
MAX_VALIDATION_ROWS = 8192

#: Scores kept on the result for its histograms.
KEPT_SCORES = 10_000


@dataclass(frozen=True)
class CrossFit:
    """A result, and what it was read off.

    Attributes:
        result: the estimate.
        critic: the first fold's; None: a variable is constant, nothing had to be trained, and the lists are empty.
        log_ema: of the first fold.
        scores: of every fold's held-out rows, which are the same for the same number of rows, seed, folds and copies.
        groups: int64 [n] of the rows of each fold, equal for copies of one measurement; None: no copies.
    """

    result: MIResult
    critic: nn.Module | None
    log_ema: Tensor
    scores: list[HeldOutScores]
    groups: list[Tensor | None]


def training_settings(given: dict[str, Any]) -> TrainingSettings:
    """`TrainingSettings` with those given; None keeps a default, an unknown name is an error that lists the known."""
    known = {field.name for field in dataclasses.fields(TrainingSettings)}
    for name in given:
        if name not in known:
            raise TypeError(f"{name} is no setting of fit or estimate; the settings are {', '.join(sorted(known))}")
    return TrainingSettings(**{name: value for name, value in given.items() if value is not None})


def cross_fit(
    mine: DVLoss,
    source: PairSource,
    seed: int,
    device: torch.device | str | None,
    progress: Progress | None,
    given: dict[str, Any],
    names: tuple[str, str] = ("x", "y"),
    copies: PairSource | None = None,
) -> CrossFit:
    """The work of `MINE.fit`.

    Args:
        mine: what trains, from its start in every fold.
        source: the rows.
        seed: see `MINE.fit`.
        device: see `MINE.fit`.
        progress: see `MINE.fit`.
        given: the settings.
        names: what the flags call the two variables.
        copies: as many rows, copies of which are kept in one fold; None: `source`.
    """
    settings = training_settings(given)
    started = time.perf_counter()
    rows = len(source)
    if rows < MINIMUM_ROWS_TO_FIT:
        raise ValueError(f"x and y need at least {MINIMUM_ROWS_TO_FIT} rows to train and to hold out, got {rows}")
    if settings.folds > rows // 4:
        raise ValueError(f"folds must leave at least 4 rows in each, got {settings.folds} folds for {rows} rows")
    flags, degenerate = constants(source, names)
    used = {**dataclasses.asdict(settings), "loss": mine.loss, "alpha": mine.alpha, "clip": mine.clip}
    if degenerate:
        result = independent_result(rows, flags, seed, used, time.perf_counter() - started)
        return CrossFit(result, None, mine.log_ema, [], [])

    groups = duplicate_groups(source if copies is None else copies)
    flags += [flag for flag in (deterministic(source, seed, names), duplicate_rows(groups)) if flag is not None]
    folds = split_folds(rows, settings.folds, seed, groups)
    first: tuple[nn.Module, Tensor] | None = None
    histories: list[FoldHistory] = []
    scores: list[HeldOutScores] = []
    for k, held_out in enumerate(folds):
        others = torch.cat([fold for j, fold in enumerate(folds) if j != k])

        def report(step: int, bound: float, done: int = k * settings.steps) -> None:
            if progress is not None:
                progress(done + step, len(folds) * settings.steps, bound)

        critic, log_ema, history, held_out_score = _fit_fold(
            mine, source, others, held_out, groups, settings, _fold_seed(seed, k), device, report
        )
        if first is None:
            first = critic, log_ema
        histories.append(history)
        scores.append(held_out_score)
    fold_groups = [None if groups is None else groups[fold] for fold in folds]
    assert first is not None
    if isinstance(first[0], MLPCritic):
        inputs = ((names[0], first[0].x_inputs), (names[1], first[0].y_inputs))
        flags += [flag for name, read in inputs if (flag := many_levels(name, read.many_levels))]
    result = _combine(histories, scores, fold_groups, flags, seed, used, time.perf_counter() - started)
    return CrossFit(result, *first, scores, fold_groups)


def _fold_seed(seed: int, fold: int) -> int:
    return (seed * 1_000_003 + fold + 1) % 2**62


def _fit_fold(
    mine: DVLoss,
    source: PairSource,
    others: Tensor,
    held_out: Tensor,
    groups: Tensor | None,
    settings: TrainingSettings,
    seed: int,
    device: torch.device | str | None,
    report: Callable[[int, float], None],
) -> tuple[nn.Module, Tensor, FoldHistory, HeldOutScores]:
    """Train on `others` (a part of which chooses the step) and score `held_out`."""
    share = round(settings.validation_fraction * others.numel())
    count = min(max(2, share), MAX_VALIDATION_ROWS, others.numel() - 2)
    validation, train = split_off(others, count, groups)
    loss = mine.at_start(seed)
    loss.shuffles = settings.shuffles
    critic, transform = _fold_critic(loss, source, train, seed, device)
    fold_source = source.map(transform)

    def score(x: Tensor, y: Tensor) -> Tensor:
        return call_critic(loss.T, loss.method, x, y)

    # A million pairs settle the marginal term; fewer than 20 shuffles leave it noisy, 199 resolve p = 0.005.
    shuffles = settings.evaluation_shuffles or min(199, max(20, 1_000_000 // len(source)))
    parameters = sum(p.numel() for p in loss.parameters())
    # A stack of layers draws nothing from torch's global generators.
    seeded = contextlib.nullcontext() if critic_layers(loss.T, loss.method) else _seeded(seed, loss.log_ema.device)
    with seeded, fitting_threads(parameters, (1 + settings.shuffles) * settings.batch_size):
        history = train_critic(loss, score, fold_source, train, validation, settings, seed, report)
        level = free_level(loss, score, fold_source, train[:LEVEL_ROWS_TO_READ])
        scores = held_out_scores(score, fold_source, held_out, seed, shuffles, level)
        return critic, loss.log_ema, history, scores


#: Held by the fit that has seeded torch's global generators: there is one set of them for all threads.
_generators = threading.RLock()


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (dropout) within, and give back the caller's afterwards."""
    with _generators, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _fold_critic(
    loss: DVLoss, source: PairSource, train: Tensor, seed: int, device: torch.device | str | None
) -> tuple[nn.Module, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """A fold's critic, put into a loss that has not trained, and what maps rows to what the loss reads.

    The default critic reads features that do not change while it trains, so they are computed once, and its network is
    trained on them directly. A critic of the caller's reads the rows in its own dtype.
    """
    if loss.T is None or isinstance(loss.T, MLPCritic):
        default = MLPCritic() if loss.T is None else loss.T
        x, y = source.rows(train[: QuantileInputs.max_rows])
        default.prepare(x, y, torch.Generator("cpu").manual_seed(seed))
        default.to(device or source.device)
        loss.T, loss.method = default.layers, "concat"
        loss.to(device or source.device)
        return default, lambda x, y: default.features(*_moved(x, y, device))
    like = next(loss.T.parameters(), None) if isinstance(loss.T, nn.Module) else None
    if like is None:
        raise TypeError(f"T must be a torch.nn.Module with parameters to be trained, got {type(loss.T).__name__}")
    loss.to(device or like.device)
    like = next(loss.T.parameters())
    return loss.T, lambda x, y: (cast(x, like, "x"), cast(y, like, "y"))


def _moved(x: Tensor, y: Tensor, device: torch.device | str | None) -> tuple[Tensor, Tensor]:
    return (x, y) if device is None else (x.to(device), y.to(device))


def independent_result(rows: int, flags: list[Flag], seed: int, settings: dict[str, Any], seconds: float) -> MIResult:
    """A constant is independent of everything: MI is 0, known without an error."""
    return MIResult(
        mi=0.0,
        stderr=0.0,
        p_value=1.0,
        n=rows,
        flags=tuple(flags),
        history=History(steps=[], train=[], validation=[]),
        seed=seed,
        settings=settings,
        fold_mi=(),
        joint_scores=np.zeros(0),
        marginal_scores=np.zeros(0),
        seconds=seconds,
    )


def _combine(
    histories: list[FoldHistory],
    folds: list[HeldOutScores],
    groups: list[Tensor | None],
    flags: list[Flag],
    seed: int,
    settings: dict[str, Any],
    seconds: float,
) -> MIResult:
    """The folds' scores as one result; `groups` are those of the rows of each fold."""
    estimated = [fold.limited(ESTIMATE_TAIL_ROWS) for fold in folds]
    mi, stderr = _over_folds(estimated, groups)
    certified, certified_stderr = _over_folds([fold.limited(CERTIFIED_TAIL_ROWS) for fold in folds], groups)
    rows = sum(fold.rows for fold in folds)
    certifiable = sum(fold.rows / rows * fold.ceiling(CERTIFIED_TAIL_ROWS) for fold in folds)
    joint = torch.cat([fold.joint for fold in folds])
    marginal = torch.cat([fold.marginal.flatten() for fold in folds])
    marginal = marginal[:: max(1, marginal.numel() // KEPT_SCORES)]
    return MIResult(
        mi=mi,
        stderr=stderr,
        p_value=permutation_p_value(folds, seed),
        n=rows,
        flags=(*flags, *reliability_flags(mi, stderr, certifiable, estimated)),
        history=History(
            steps=[h.steps for h in histories],
            train=[h.train for h in histories],
            validation=[h.validation for h in histories],
        ),
        seed=seed,
        settings=settings,
        fold_mi=tuple(fold.dv_bound() for fold in estimated),
        joint_scores=joint[:: max(1, joint.numel() // KEPT_SCORES)].numpy(),
        marginal_scores=marginal.numpy(),
        seconds=seconds,
        certified_mi=certified,
        certified_stderr=certified_stderr,
        certifiable=certifiable,
    )


def _over_folds(folds: list[HeldOutScores], groups: list[Tensor | None]) -> tuple[float, float]:
    """The mean of the folds' bounds, weighted by their rows, and its standard error.

    Every row is held out once, and the folds' errors are treated as independent; they are so given the critics. That
    the critics of other trainings would differ is not counted.
    """
    shares = [fold.rows / sum(fold.rows for fold in folds) for fold in folds]
    mi = sum(share * fold.dv_bound() for share, fold in zip(shares, folds, strict=True))
    variance = sum(s**2 * fold.variance(g) for s, fold, g in zip(shares, folds, groups, strict=True))
    return mi, math.sqrt(variance)
