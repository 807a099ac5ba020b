"""`conditional`: the information that two samples share beyond a third, by the chain rule, with paired errors."""

from __future__ import annotations

import dataclasses
import time
from statistics import NormalDist
from typing import Any

import torch

from mine_fast.arrays import alike, as_pair
from mine_fast.checks import check_progress
from mine_fast.cross_fitting import (
    CrossFit,
    check_rows,
    cross_fit,
    independent_result,
    training_settings,
    used_settings,
)
from mine_fast.data import ArraySource, PairSource
from mine_fast.default_critics import MLPCritic, StackedCritic
from mine_fast.devices import usable_device
from mine_fast.evaluation import CERTIFIED_TAIL_ROWS, ESTIMATE_TAIL_ROWS, over_folds
from mine_fast.flags import below_zero, constants, rare_codes
from mine_fast.jobs import Progress
from mine_fast.loss import DVLoss
from mine_fast.repeats import duplicate_groups
from mine_fast.result import Flag, History, MIResult
from mine_fast.training import ordinary_autograd

__all__ = ["conditional"]

_QUANTITY, _WHOLE, _KNOWN = "I(X;Y|Z)", "I(X;Y,Z)", "I(X;Z)"


def conditional(
    x: Any,
    y: Any,
    z: Any,
    *,
    loss: str = "mine",
    alpha: float = 0.01,
    clip: float = 5.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> MIResult:
    """Estimate the conditional mutual information I(X; Y | Z) = I(X; (Y, Z)) - I(X; Z), with its standard error.

    Both terms are cross-fitted as by `estimate`, on the same folds, batches and shuffles (Cover & Thomas 2006, Theorem
    2.5.2, for the chain rule). They share their rows, so their errors do not add up: every row's influence on one is
    subtracted from its influence on the other before the standard error is taken. Of the arguments of `estimate` there
    are no `n_seeds`, `marginals` and `process_group`: one training of each term on shuffled pairs, in this process.

    A difference of two lower bounds is no lower bound: what the critic of I(X;(Y,Z)) misses makes it too small, what
    that of I(X;Z) misses makes it too large, as it does where z is a code of few rows each (flag "rare_codes"); `parts`
    holds both estimates. The first has more columns to learn from, so
    that most often the difference errs downwards. Where y adds nothing the critics nearly agree, `stderr` is small, and
    that shortfall can be several of it.

    Args:
        x: [N, dx] or [N], numpy, torch, pandas or lists.
        y: [N, dy] or [N].
        z: [N, dz] or [N], what is known already.
        loss: see `MINE`.
        alpha: see `MINE`.
        clip: see `MINE`.
        seed: of the split, the weights, the batches and the shuffles.
        device: where to compute; None: where the data is.
        progress: called as progress(steps done, steps in all, latest validation bound), over both terms.
        settings: fields of `TrainingSettings`: steps, batch_size, learning_rate, folds, ...

    Returns:
        MIResult in nats with `quantity` "I(X;Y|Z)". `stderr` covers the sampling of the held-out rows. `p_value` is
        that of a one-sided z-test, 1 - Phi(mi / stderr): asymptotic, given the critics, and no better than they are.
        (Shuffling y would break its link to z too, and so test another hypothesis.) `lower` starts from I(X;(Y,Z))
        limited to what the rows certify, less I(X;Z) as estimated. `history` holds the differences of the curves.

    Raises:
        ValueError, TypeError: bad data (fewer than 20 rows, or than 4 in a fold) or settings; the message names the
            argument.
        DivergenceError: a critic's scores left the finite numbers.

    >>> import mine_fast, numpy as np
    >>> x, z, noise = np.random.default_rng(0).standard_normal((3, 2000))
    >>> r = mine_fast.conditional(x, x + z + noise, z, steps=200)   # the truth is log(2) / 2
    >>> abs(r.mi - 0.3466) < 4 * r.stderr
    True
    """
    started = time.perf_counter()
    check_progress(progress)
    if device is not None:
        device = usable_device(device)
    with ordinary_autograd(), torch.device("cpu"):
        mine = DVLoss(loss=loss, alpha=alpha, clip=clip, seed=seed)
    x, y, z = _samples(x, y, z)
    resolved = training_settings(settings, len(x))
    check_rows(len(x), resolved)
    flags, degenerate = constants(ArraySource(x, y))
    if degenerate:
        used = used_settings(mine, resolved)
        result = independent_result(len(x), flags, seed, used, time.perf_counter() - started)
        return dataclasses.replace(result, quantity=_QUANTITY)
    whole, known = ArraySource(x, torch.cat([y, z], 1)), ArraySource(x, z)
    # Both terms need the same folds. Copies of (x, y, z) are copies of (x, z), so those groups keep both apart.
    groups = duplicate_groups(known)
    if groups is None:
        groups = duplicate_groups(whole)

    def fit(source: PairSource, name: str, quantity: str, done: int) -> CrossFit:
        def report(step: int, steps: int, bound: float) -> None:
            if progress is not None:
                progress(done * steps + step, 2 * steps, bound)

        fitted = cross_fit(mine, source, groups, seed, device, report, dict(settings), ("x", name))
        return dataclasses.replace(fitted, result=dataclasses.replace(fitted.result, quantity=quantity))

    with ordinary_autograd():
        result = _difference(fit(whole, "(y, z)", _WHOLE, 0), fit(known, "z", _KNOWN, 1))
    return dataclasses.replace(result, seconds=time.perf_counter() - started)


def _samples(x: Any, y: Any, z: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The three samples, [N, d] each, in one dtype and on one device."""
    x_samples, y_samples = as_pair(x, y, recode=True)
    _, z_samples = as_pair(x, z, recode=True, names=("x", "z"))
    y_samples, z_samples = alike(y_samples, z_samples, ("y", "z"))
    return alike(x_samples, y_samples)[0], y_samples, z_samples


def _difference(whole: CrossFit, known: CrossFit) -> MIResult:
    """I(X;(Y,Z)) - I(X;Z) of the same held-out rows."""
    subtracted = [fold.limited(ESTIMATE_TAIL_ROWS) for fold in known.scores]
    # `subtracted` is empty where z is constant and tells nothing.
    mi, stderr = over_folds([fold.limited(ESTIMATE_TAIL_ROWS) for fold in whole.scores], whole.groups, subtracted)
    certified, certified_stderr = over_folds(
        [fold.limited(CERTIFIED_TAIL_ROWS) for fold in whole.scores], whole.groups, subtracted
    )
    parts = (whole.result, known.result)
    return dataclasses.replace(
        whole.result,
        mi=mi,
        stderr=stderr,
        p_value=NormalDist().cdf(-mi / stderr) if stderr > 0 else 1.0,
        flags=(*_flags(parts), *_below_zero(mi, stderr), *_rare_codes(known)),
        history=_curves(whole.result.history, known.result.history),
        fold_mi=tuple(
            a - b for a, b in zip(whole.result.fold_mi, known.result.fold_mi or [0.0] * len(whole.scores), strict=True)
        ),
        joint_scores=whole.result.joint_scores[:0],  # those of the parts are different critics'
        marginal_scores=whole.result.marginal_scores[:0],
        certified_mi=certified,
        certified_stderr=certified_stderr,
        certifiable=whole.result.certifiable - known.result.mi,
        quantity=_QUANTITY,
        parts=parts,
    )


def _flags(parts: tuple[MIResult, MIResult]) -> list[Flag]:
    """Those of both parts: with the part's name, or once where both say the same."""
    whole, known = ({(flag.code, str(flag)): flag for flag in part.flags} for part in parts)
    shared = [flag for key, flag in whole.items() if key in known]
    for part, own, other in ((parts[0], whole, known), (parts[1], known, whole)):
        shared += [Flag(f.code, f"of {part.quantity}: {f}", f.level) for key, f in own.items() if key not in other]
    return shared


def _below_zero(mi: float, stderr: float) -> list[Flag]:
    """Of a difference: it says which critic to better."""
    flag = below_zero(mi, stderr)
    if flag is None:
        return []
    return [
        Flag(
            flag.code,
            f"{_WHOLE} was read far below {_KNOWN}, of which it is no smaller: its critic, of more columns, has learnt "
            "less; give it more rows or steps",
        )
    ]


def _rare_codes(known: CrossFit) -> list[Flag]:
    """Of what is conditioned on, the y of I(X;Z)."""
    if not isinstance(known.critic, MLPCritic | StackedCritic):  # None where z is constant
        return []
    flag = rare_codes("z", known.critic.inputs.y, known.result.n)
    return [] if flag is None else [flag]


def _curves(whole: History, known: History) -> History:
    """The curves of the difference, reading by reading, as far as both go: one that diverged ends there."""
    if not known.steps:
        return whole

    def less(a: Any, b: Any) -> list[list[float]]:
        return [[v - w for v, w in zip(p, q, strict=False)] for p, q in zip(a, b, strict=True)]

    steps = [p[: len(q)] for p, q in zip(whole.steps, known.steps, strict=True)]
    return History(steps, less(whole.train, known.train), less(whole.validation, known.validation))
