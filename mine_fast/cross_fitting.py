"""From rows to an `MIResult`: split into folds, train a critic per fold, score each fold by the one that missed it."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mine_fast.concurrency import fit_memory, fitting_memory, may_run_in_threads
from mine_fast.data import PairSource
from mine_fast.default_critics import MLPCritic, StackedCritic, is_default
from mine_fast.determinism import deterministic
from mine_fast.evaluation import (
    CERTIFIED_TAIL_ROWS,
    ESTIMATE_TAIL_ROWS,
    HeldOutScores,
    over_folds,
    permutation_p_value,
)
from mine_fast.flags import (
    column_flags,
    constants,
    discrete,
    duplicate_rows,
    many_levels,
    reliability_flags,
    training_flags,
)
from mine_fast.fold_fitting import FitParts, Fold, FoldFit, fit_alone, fit_parts, trainings
from mine_fast.jobs import Plan, Progress, Report, Task, run_tasks
from mine_fast.result import Flag, History, MIResult
from mine_fast.settings import TrainingSettings, default_steps
from mine_fast.splitting import split_folds, split_off

if TYPE_CHECKING:
    from mine_fast.loss import DVLoss

__all__ = [
    "CrossFit",
    "CrossFitPlan",
    "check_rows",
    "cross_fit",
    "independent_result",
    "plan_cross_fit",
    "steps_of",
    "training_settings",
    "used_settings",
]

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
        rows: int64 [n], the numbers of each fold's held-out rows.
    """

    result: MIResult
    critic: nn.Module | None
    log_ema: Tensor
    scores: list[HeldOutScores]
    groups: list[Tensor | None]
    rows: list[Tensor]


@dataclass(frozen=True)
class CrossFitPlan(Plan[CrossFit]):
    """The fits of the folds, and what is made of them.

    Attributes:
        parts: the same fits, which hand out their trainings.
    """

    parts: Sequence[Callable[[Report], FitParts]] = ()


def training_settings(given: dict[str, Any], rows: int) -> TrainingSettings:
    """`TrainingSettings` with those given; None keeps a default, an unknown name is an error that lists the known."""
    known = {field.name for field in dataclasses.fields(TrainingSettings)}
    for name in given:
        if name not in known:
            raise TypeError(f"{name} is no setting of fit or estimate; the settings are {', '.join(sorted(known))}")
    return TrainingSettings(**{"steps": default_steps(rows), **{k: v for k, v in given.items() if v is not None}})


def check_rows(rows: int, settings: TrainingSettings) -> None:
    """Refuse fewer rows than there must be to train, to choose and to evaluate."""
    if rows < MINIMUM_ROWS_TO_FIT:
        raise ValueError(f"x and y need at least {MINIMUM_ROWS_TO_FIT} rows to train and to hold out, got {rows}")
    if settings.folds > rows // 4:
        raise ValueError(f"folds must leave at least 4 rows in each, got {settings.folds} folds for {rows} rows")


def used_settings(mine: DVLoss, settings: TrainingSettings) -> dict[str, Any]:
    """What a result says of how it was made."""
    used = {**dataclasses.asdict(settings), "loss": mine.loss, "alpha": mine.alpha, "clip": mine.clip}
    return {**used, "marginals": "all", "shuffles": None} if mine.marginals == "all" else used


def steps_of(mine: DVLoss, settings: TrainingSettings) -> int:
    """Steps of all folds, as progress counts them."""
    return settings.folds * trainings(mine) * settings.steps


def cross_fit(
    mine: DVLoss,
    source: PairSource,
    groups: Tensor | None,
    seed: int,
    device: torch.device | str | None,
    progress: Progress | None,
    given: dict[str, Any],
    names: tuple[str, str] = ("x", "y"),
) -> CrossFit:
    """The work of `MINE.fit`: folds beside each other where they can, see `may_run_in_threads`.

    Args:
        mine: what trains, from its start in every fold.
        source: the rows.
        groups: int64 [N], equal for copies of one measurement, which are kept in one fold; None: no copies.
        seed: see `MINE.fit`.
        device: see `MINE.fit`.
        progress: see `MINE.fit`.
        given: the settings.
        names: what the flags call the two variables.
    """
    settings = training_settings(given, len(source))
    task = Task(
        lambda: plan_cross_fit(mine, source, groups, seed, device, settings, names),
        steps_of(mine, settings),
        alone=not may_run_in_threads(mine, source, device, settings.engine),
        memory_per_fit=fit_memory(len(source), source.x_width, source.y_width, settings),
    )
    [fitted] = run_tasks([task], max_memory=fitting_memory(), progress=progress)
    assert isinstance(fitted, CrossFit)
    return fitted


def plan_cross_fit(
    mine: DVLoss,
    source: PairSource,
    groups: Tensor | None,
    seed: int,
    device: torch.device | str | None,
    settings: TrainingSettings,
    names: tuple[str, str] = ("x", "y"),
) -> CrossFitPlan:
    """The fits of the folds, which do not depend on each other, and the result that they make; see `cross_fit`."""
    started = time.perf_counter()
    rows = len(source)
    check_rows(rows, settings)
    flags, degenerate = constants(source, names)
    used = used_settings(mine, settings)
    if degenerate:
        result = independent_result(rows, flags, seed, used, time.perf_counter() - started)
        return CrossFitPlan([], lambda fits: CrossFit(result, None, mine.log_ema, [], [], []))

    flags += [flag for flag in (deterministic(source, seed, names), duplicate_rows(groups)) if flag is not None]
    flags += column_flags(source, is_default(mine.T), seed, names)
    folds = split_folds(rows, settings.folds, seed, groups)

    def parts(k: int, report: Report) -> FitParts:
        others = torch.cat([fold for j, fold in enumerate(folds) if j != k])
        share = round(settings.validation_fraction * others.numel())
        count = min(max(2, share), MAX_VALIDATION_ROWS, others.numel() - 2)
        validation, train = split_off(others, count, groups)
        return fit_parts(mine, Fold(source, train, validation, folds[k], _fold_seed(seed, k), settings, device, report))

    def fit(k: int, report: Report) -> FoldFit:
        return fit_alone(parts(k, report))

    def finish(fits: list[FoldFit]) -> CrossFit:
        critic = fits[0].critic
        found = list(flags)
        if isinstance(critic, MLPCritic | StackedCritic):
            for name, side in zip(names, (critic.inputs.x, critic.inputs.y), strict=True):
                raised = many_levels(name, side.many_levels), discrete(name, side, coded=True)
                found += [flag for flag in raised if flag is not None]
        fold_groups = [None if groups is None else groups[fold] for fold in folds]
        train_groups = [None if groups is None else groups[fit.train_rows] for fit in fits]
        result = _combine(fits, fold_groups, train_groups, found, seed, used, time.perf_counter() - started)
        return CrossFit(result, critic, fits[0].log_ema, [fit.scores for fit in fits], fold_groups, folds)

    every = range(settings.folds)
    return CrossFitPlan(
        [functools.partial(fit, k) for k in every], finish, [functools.partial(parts, k) for k in every]
    )


def _fold_seed(seed: int, fold: int) -> int:
    return (seed * 1_000_003 + fold + 1) % 2**62


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


def _some(scores: Tensor) -> np.ndarray:
    """`KEPT_SCORES` of scores or fewer, evenly, without the memory of the others."""
    return scores[:: max(1, -(-scores.numel() // KEPT_SCORES))].numpy().copy()


def _combine(
    fits: list[FoldFit],
    groups: list[Tensor | None],
    train_groups: list[Tensor | None],
    flags: list[Flag],
    seed: int,
    settings: dict[str, Any],
    seconds: float,
) -> MIResult:
    """The folds' scores as one result; `groups` are those of each fold's rows, `train_groups` of its `train_rows`."""
    folds, train_scores = [fit.scores for fit in fits], [fit.train_scores for fit in fits]
    histories = [fit.history for fit in fits]
    estimated = [fold.limited(ESTIMATE_TAIL_ROWS) for fold in folds]
    mi, stderr = over_folds(estimated, groups)
    certified, certified_stderr = over_folds([fold.limited(CERTIFIED_TAIL_ROWS) for fold in folds], groups)
    rows = sum(fold.rows for fold in folds)
    certifiable = sum(fold.rows / rows * fold.ceiling(CERTIFIED_TAIL_ROWS) for fold in folds)
    joint = torch.cat([fold.joint for fold in folds])
    marginal = torch.cat([fold.marginal.flatten() for fold in folds])
    return MIResult(
        mi=mi,
        stderr=stderr,
        p_value=permutation_p_value(folds, groups, cross_trained=not isinstance(fits[0].critic, StackedCritic)),
        n=rows,
        flags=(
            *flags,
            *reliability_flags(mi, stderr, certifiable, estimated),
            *training_flags(histories, train_scores, train_groups, mi, stderr, settings),
        ),
        history=History(
            steps=[h.steps for h in histories],
            train=[h.train for h in histories],
            validation=[h.validation for h in histories],
        ),
        seed=seed,
        settings=settings,
        fold_mi=tuple(fold.dv_bound() for fold in estimated),
        joint_scores=_some(joint),
        marginal_scores=_some(marginal),
        seconds=seconds,
        certified_mi=certified,
        certified_stderr=certified_stderr,
        certifiable=certifiable,
    )
