"""Several trainings on the same rows as one result: their mean, and an error bar that counts how far they differ."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mine_fast.cross_fitting import CrossFit
from mine_fast.evaluation import CERTIFIED_TAIL_ROWS, ESTIMATE_TAIL_ROWS, influence_variance
from mine_fast.result import Flag, MIResult

__all__ = ["Training", "combine_trainings", "training_of"]


class Training(NamedTuple):
    """What the mean over trainings needs of one.

    Attributes:
        result: its own.
        influence: [2, N], of every row on its estimate and on its certified bound; None where nothing was trained.
        groups: int64 [N], equal for copies of one measurement; None: no copies.
    """

    result: MIResult
    influence: Tensor | None
    groups: Tensor | None


def training_of(fitted: CrossFit) -> Training:
    """The training that a cross-fit was, without its scores."""
    if not fitted.scores:
        return Training(fitted.result, None, None)
    rows = torch.cat(fitted.rows)
    influence = torch.stack(
        [
            torch.cat([fold.limited(tail).influence() for fold in fitted.scores])
            for tail in (ESTIMATE_TAIL_ROWS, CERTIFIED_TAIL_ROWS)
        ]
    )
    by_row = torch.empty_like(influence).index_copy_(1, rows, influence)
    if fitted.groups[0] is None:
        return Training(fitted.result, by_row, None)
    groups = torch.cat([fold for fold in fitted.groups if fold is not None])
    return Training(fitted.result, by_row, torch.empty_like(groups).index_copy_(0, rows, groups))


def combine_trainings(trainings: Sequence[Training]) -> MIResult:
    """The mean of the estimates; see `estimate` for its error and p-value."""
    results = [training.result for training in trainings]
    first, count = results[0], len(results)
    influences = [training.influence for training in trainings if training.influence is not None]
    settings = {**first.settings, "n_seeds": count}
    if not influences:  # a variable is constant: there is nothing that could differ
        return dataclasses.replace(first, settings=settings, trainings=tuple(results), training_spread=0.0)
    certified = [r.mi if r.certified_mi is None else r.certified_mi for r in results]
    sampling = [influence_variance(psi, trainings[0].groups) for psi in torch.stack(influences).mean(0)]
    spread, certified_spread = statistics.stdev(r.mi for r in results), statistics.stdev(certified)
    # p_(k) n / k is a p-value whatever the dependence of n of them (Rueger 1978); the median's is twice it at most.
    middle = (count + 1) // 2
    return dataclasses.replace(
        first,
        mi=statistics.fmean(r.mi for r in results),
        stderr=math.sqrt(sampling[0] + spread**2 / count),
        p_value=min(1.0, sorted(r.p_value for r in results)[middle - 1] * count / middle),
        flags=_flags(results),
        certified_mi=statistics.fmean(certified),
        certified_stderr=math.sqrt(sampling[1] + certified_spread**2 / count),
        certifiable=statistics.fmean(r.certifiable for r in results),
        seconds=sum(r.seconds for r in results),
        settings=settings,
        trainings=tuple(results),
        training_spread=spread,
    )


def _flags(results: Sequence[MIResult]) -> tuple[Flag, ...]:
    """Those of all trainings: those of a code as the first training that raises it has them."""
    kept: list[Flag] = []
    for result in results:
        known = {flag.code for flag in kept}
        kept += [flag for flag in result.flags if flag.code not in known]
    return tuple(kept)
