"""Reading an estimate off held-out rows: the DV bound, its standard error, what it certifies, a permutation test.

Nothing here trains. The rows given are rows that neither trained nor selected the critic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mine_fast.reference import log_mean_exp

__all__ = [
    "HeldOutScores",
    "influence_variance",
    "over_folds",
    "permutation_p_value",
]

#: Rows that the marginal term of an estimate must rest on, as `HeldOutScores.limited` counts them. What happens less
#: often than once in n rows may weigh anything, so no more than ln(n) can be claimed (McAllester & Stratos 2020).
ESTIMATE_TAIL_ROWS = 1.0

#: The same for a lower bound, whose error bar has to hold too: over 10 rows the marginal term's relative standard error
#: is at most 1 / sqrt(10). The exact critic's lower(0.95) is then above the truth in 5% of samples or fewer, from 25
#: rows and for up to 16.6 nats; over 1 or 5 rows it is so more often where rows are few.
CERTIFIED_TAIL_ROWS = 10.0

#: Combinations of rotations that are made of either half of the folds in the permutation test: four folds use all 200
#: of theirs, six 63 of each, which combine to 6e10.
TOTALS = 250_000

#: Variance of the total score of independent rows over that of its rotations, where each fold's critic is linear in the
#: others: their total is sum_{j != k} <S_j, S_k>, each product twice, 4 K (K - 1) / 2 for the 2 K (K - 1) / 2 counted.
CROSS_TRAINED_VARIANCE = 2.0


@dataclass(frozen=True)
class HeldOutScores:
    """A critic's scores on held-out rows, in float64 on the CPU.

    Attributes:
        joint: [n], T(x_i, y_i).
        marginal: [S, n], T(x_i, y_j) with j the partner of i in shuffle s.
        as_y: [S, n], the same scores ordered by j, the row of y.
    """

    joint: Tensor
    marginal: Tensor
    as_y: Tensor

    @property
    def rows(self) -> int:
        """The number n of held-out rows."""
        return self.joint.numel()

    @cached_property
    def log_mean_exp(self) -> float:
        """Log mean exp of all marginal scores."""
        return float(log_mean_exp(self.marginal.flatten()))

    @cached_property
    def weight_as_x(self) -> Tensor:
        """What the pairs of each row of x weigh in the marginal term, [n], mean 1."""
        return torch.exp(log_mean_exp(self.marginal) - self.log_mean_exp)

    def dv_bound(self) -> float:
        """The DV bound mean(T_joint) - log mean exp(T_marginal), in nats (Belghazi et al. 2018, eq. 6)."""
        return float(self.joint.mean()) - self.log_mean_exp

    def influence(self) -> Tensor:
        """How much each row moves the bound, [n], mean 0: its joint score minus its share of the marginal term.

        The marginal term averages over pairs of rows, a U-statistic; row i enters as x and as y, so the share is
        (mean_s e^T(x_i, y_partner) + mean_s e^T(x_owner, y_i)) / Z - 1 by the delta method and Hoeffding's projection.
        """
        weight_as_y = torch.exp(log_mean_exp(self.as_y) - self.log_mean_exp)
        psi = self.joint - self.weight_as_x - weight_as_y
        return psi - psi.mean()

    def variance(self, groups: Tensor | None = None) -> float:
        """The variance of the bound from the sampling of the rows: that of their influence, over n.

        Args:
            groups: int64 [n], equal for copies of one measurement, which move the bound together; None: no copies.
        """
        return influence_variance(self.influence(), groups)

    def effective_sample_size(self) -> float:
        """(sum w)^2 / sum w^2 of the marginal weights w = exp T, summed over the shuffles of a row: at most n."""
        return float(self.weight_as_x.sum() ** 2 / (self.weight_as_x**2).sum())

    def ceiling(self, tail_rows: float) -> float:
        """The largest bound of `limited(tail_rows)`, in nats: ln(n / tail_rows), over at most half the rows."""
        return math.log(self.rows / min(tail_rows, 0.5 * self.rows))

    def limited(self, tail_rows: float) -> HeldOutScores:
        """The scores of the critic min(T, u), with u such that its marginal term rests on `tail_rows` of the rows.

        The DV bound of any critic is one on the information, min(T, u) among them. u solves
        mean exp(min(T_marginal, u) - u) = tail_rows / n: as much weight as if that many of the n rows scored u and the
        others nothing. So the bound is at most u - log mean exp = ln(n / tail_rows), and no weight is more than
        n / tail_rows times their mean, which keeps the relative standard error of the marginal term below
        1 / sqrt(tail_rows).
        """
        level = self._level(math.exp(-self.ceiling(tail_rows)))
        return HeldOutScores(*(scores.clamp(max=level) for scores in (self.joint, self.marginal, self.as_y)))

    def _level(self, share: float) -> float:
        """The u at which mean exp(min(T_marginal, u) - u), which falls in u, is `share`."""
        scores = self.marginal.flatten().numpy()
        wanted = share * scores.size
        # Each score at or above u counts as one of the `wanted`: u is among so many of the highest, or right below.
        count = min(int(wanted) + 1, scores.size)
        ordered = np.partition(scores, scores.size - count)
        lower, upper = ordered[:-count], np.sort(ordered[-count:])
        most = lower.max(initial=-math.inf)
        weight = most + math.log(np.exp(lower - most).sum()) if lower.size else -math.inf
        below = np.logaddexp.accumulate(np.concatenate([[weight], upper]))  # of those before
        above = np.arange(count, 0, -1)  # as many scores are at or above each
        first = int((np.exp(below[:-1] - upper) + above > wanted).sum())  # u is at most this score, the next if any
        # Between two scores the condition reads exp(below - u) + above = wanted.
        rest = wanted - (count - first)
        return float(below[first]) - math.log(rest) if rest > 0 else float(upper[first])


def influence_variance(influence: Tensor, groups: Tensor | None = None) -> float:
    """The variance of an estimate that every row moves by its `influence` [n] over n.

    Args:
        influence: [n], mean 0.
        groups: see `HeldOutScores.variance`.

    >>> influence_variance(torch.tensor([1.0, -1.0]))
    1.0
    """
    rows = influence.numel()
    if groups is not None:
        _, group_of = torch.unique(groups, return_inverse=True)
        influence = torch.zeros(int(group_of.max()) + 1, dtype=influence.dtype).index_add_(0, group_of, influence)
    measurements = influence.numel()
    return float((influence**2).sum()) / rows**2 * measurements / max(1, measurements - 1)  # Bessel's


def over_folds(
    folds: Sequence[HeldOutScores], groups: Sequence[Tensor | None], known: Sequence[HeldOutScores] = ()
) -> tuple[float, float]:
    """The mean of the folds' bounds, weighted by their rows, and its standard error.

    Every row is held out once, and the folds' errors are treated as independent; they are so given the critics. That
    the critics of other trainings would differ is not counted.

    Args:
        folds: scores of every fold.
        groups: see `HeldOutScores.variance`, of every fold.
        known: scores of the same rows by critics whose bounds are subtracted; the influences are so row by row. Empty:
            nothing.
    """
    rows = sum(fold.rows for fold in folds)
    mi = variance = 0.0
    for k, fold in enumerate(folds):
        bound, influence, share = fold.dv_bound(), fold.influence(), fold.rows / rows
        if known:
            bound, influence = bound - known[k].dv_bound(), influence - known[k].influence()
        mi += share * bound
        variance += share**2 * influence_variance(influence, groups[k])
    return mi, math.sqrt(variance)


def permutation_p_value(
    folds: Sequence[HeldOutScores], groups: Sequence[Tensor | None] = (), cross_trained: bool = False
) -> float:
    """The p-value of independence: how often shuffled pairs score as high as the joint ones.

    Within a fold, the shuffles of a key are rotations of one random order by random distinct shifts, and the pairs as
    they came are the rotation by 0. Every fold may be rotated on its own, so the rotations of the folds combine to a
    set of orders of all rows, and the p-value is the share of it whose total score reaches the observed one, ties
    counted against. No order is drawn: the totals of one half of the folds are sorted, and those of the other half are
    looked up among them. If x and y are independent, the scores in the set are exchangeable given the critics, as it is
    drawn alike from any of its members, and so the share is a p-value (Hemerik & Goeman 2018,
    doi 10.1007/s11749-017-0571-1). It is exact for critics that saw none of these rows.

    Critics that were trained on each other's folds are given some of what they find: what two folds share by chance is
    learnt from either and found in the other, so that it counts twice, where the rotations count it as two things. The
    variance of the total is then up to twice that of the rotated ones (`CROSS_TRAINED_VARIANCE`): without a correction,
    p <= 0.05, 0.01, 0.001 came in 9.3%, 2.6% and 0.24% of 837 samples of 568 independent normal rows, four folds and a
    linear critic of 3 + 3 features. With it, the observed total's distance from the mean of the rotated ones is divided
    by the root, which holds the level of any critics and costs about a third of the power. A stack of critics drops
    what says nothing on validation rows, and needs none: benchmarks/coverage.py counts its small p-values.

    Copies of rows score together as they came, and apart once they are rotated. Of n rows in groups of m_g copies the
    variance of the total is sum m_g^2 / n times that of the rotated ones, and is corrected for in the same way.

    Args:
        folds: scores of every fold.
        groups: see `HeldOutScores.variance`, of every fold; empty: no copies.
        cross_trained: whether each fold's critic was trained on the others, by itself.

    Returns:
        At least one in min(n, S + 1)^K, of K folds of n rows and S shuffles: 6e-10 for four of 200 rows and 199
        shuffles. Of many folds not all rotations are used, see `TOTALS`.
    """
    halves = folds[: -(-len(folds) // 2)], folds[-(-len(folds) // 2) :]
    most = int(TOTALS ** (1 / len(halves[0])) + 1e-9)
    first, second = (_totals(half, max(2, most)) for half in halves)
    # Equal pairs scored in another batch differ by rounding of float32, and are ties all the same. Beside the rounding
    # of a score, the spread of the scores counts, not their size: a constant in T moves no pair against another.
    joint = torch.cat([fold.joint for fold in folds])
    tolerance = 1e-5 * float(joint.std()) + torch.finfo(torch.float32).eps * float(joint.abs().mean())
    observed, centre = first[0] + second[0], first.mean() + second.mean()
    variance = CROSS_TRAINED_VARIANCE if cross_trained and len(folds) > 1 else 1.0
    copies = [torch.unique(one, return_counts=True)[1] for one in groups if one is not None]
    if copies:
        variance *= float((torch.cat(copies) ** 2).sum()) / joint.numel()
    observed = centre + (observed - centre) / math.sqrt(variance)
    threshold = observed - joint.numel() * tolerance
    below = torch.searchsorted(second.sort().values, threshold - first)
    reaching = first.numel() * second.numel() - int(below.sum())
    return max(1, reaching) / (first.numel() * second.numel())


def _totals(folds: Sequence[HeldOutScores], most: int) -> Tensor:
    """Total scores of all combinations of the folds' rotations, `most` of each; first the pairs as they came."""
    totals = torch.zeros(1, dtype=torch.float64, device="cpu")
    for fold in folds:
        # A fold of n rows has n - 1 distinct rotations; counted again they would weigh more than the identity. Where
        # folds are so many that two of each are too much, the last stay as they came.
        distinct = fold.marginal[: min(fold.rows, most, TOTALS // totals.numel()) - 1]
        sums = torch.cat([fold.joint.sum()[None], distinct.sum(1)])
        totals = (totals[:, None] + sums).flatten()
    return totals
