"""Reading an estimate off held-out rows: the DV bound, its standard error, and a permutation test.

Nothing here trains. The rows given are rows that neither trained nor selected the critic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mine_fast import ops
from mine_fast.data import PairSource
from mine_fast.errors import DivergenceError

__all__ = ["HeldOutScores", "held_out_scores", "score_rows"]

#: Rows that are shuffled among each other; bounds the memory of a source that does not fit it.
CHUNK_ROWS = 8192

#: Rows that go through a critic at once.
CALL_ROWS = 65_536


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
        return float(_log_mean_exp(self.marginal.flatten()))

    @cached_property
    def weight_as_x(self) -> Tensor:
        """What the pairs of each row of x weigh in the marginal term, [n], mean 1."""
        return torch.exp(_log_mean_exp(self.marginal) - self.log_mean_exp)

    def dv_bound(self) -> float:
        """The DV bound mean(T_joint) - log mean exp(T_marginal), in nats (Belghazi et al. 2018, eq. 6)."""
        return float(self.joint.mean()) - self.log_mean_exp

    def influence(self) -> Tensor:
        """How much each row moves the bound, [n], mean 0: its joint score minus its share of the marginal term.

        The marginal term averages over pairs of rows, a U-statistic; row i enters as x and as y, so the share is
        (mean_s e^T(x_i, y_partner) + mean_s e^T(x_owner, y_i)) / Z - 1 by the delta method and Hoeffding's projection.
        """
        weight_as_y = torch.exp(_log_mean_exp(self.as_y) - self.log_mean_exp)
        psi = self.joint - self.weight_as_x - weight_as_y
        return psi - psi.mean()

    def effective_sample_size(self) -> float:
        """(sum w)^2 / sum w^2 of the marginal weights w = exp T, summed over the shuffles of a row: at most n."""
        return float(self.weight_as_x.sum() ** 2 / (self.weight_as_x**2).sum())


def _log_mean_exp(scores: Tensor) -> Tensor:
    """Over the leading dimension."""
    return torch.logsumexp(scores, 0) - math.log(scores.shape[0])


def score_rows(score: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Scores [n] of the pairs (x_i, y_i), in calls of at most CALL_ROWS rows."""
    calls = [score(a, b) for a, b in zip(x.split(CALL_ROWS), y.split(CALL_ROWS), strict=True)]
    return torch.cat(calls)


@torch.no_grad()
def held_out_scores(
    score: Callable[[Tensor, Tensor], Tensor], source: PairSource, rows: Tensor, seed: int, shuffles: int
) -> HeldOutScores:
    """Score held-out rows, joint and with `shuffles` derangements of y.

    Args:
        score: (x [b, ...], y [b, ...]) -> scores [b].
        source: where the rows are.
        rows: int64 [n], n >= 2.
        seed: names the derangements.
        shuffles: S.
    """
    joint, marginal, as_y = [], [], []
    for chunk, index in enumerate(rows.tensor_split(-(-rows.numel() // CHUNK_ROWS))):
        x, y = source.rows(index)
        n = x.shape[0]
        key = ops.shuffle_key(seed, chunk, device=x.device)
        partner = ops.shuffle_index(n, key, shuffles)
        owner = ops.shuffle_index(n, key, shuffles, inverse=True)
        # As many shuffles per call as CALL_ROWS allows: their partners are rows of one small table.
        group = max(1, CALL_ROWS // n)
        scores = torch.cat(
            [score_rows(score, x.repeat(len(p), *(1,) * (x.ndim - 1)), y[p.flatten()]) for p in partner.split(group)]
        ).view(shuffles, n)
        joint.append(score_rows(score, x, y).double().cpu())
        marginal.append(scores.double().cpu())
        as_y.append(scores.gather(1, owner).double().cpu())
        if not bool(torch.isfinite(joint[-1]).all() and torch.isfinite(marginal[-1]).all()):
            raise DivergenceError(
                "the scores of T on rows that it did not train on are not all finite numbers; lower learning_rate or "
                "scale the inputs"
            )
    return HeldOutScores(torch.cat(joint), torch.cat(marginal, 1), torch.cat(as_y, 1))


def permutation_p_value(folds: list[HeldOutScores]) -> float:
    """The p-value of independence: how often shuffled pairs score as high as the joint ones.

    The shuffles of a key are rotations of one random order, with the identity a group; so if x and y are independent,
    the joint mean is exchangeable with the shuffled means (Hemerik & Goeman, 2018), and the test is exact for one
    fold's critic; over several folds, whose critics saw each other's rows, it is so but for that dependence.
    Resolution: 1 / (S + 1), with at most n - 1 shuffles of the smallest fold's n rows.
    """
    rows = sum(fold.rows for fold in folds)
    # A fold of n rows has n - 1 distinct rotations; counted again they would be draws that were not made.
    distinct = min(min(fold.rows for fold in folds) - 1, folds[0].marginal.shape[0])
    observed = sum(float(fold.joint.sum()) for fold in folds) / rows
    shuffled = torch.stack([fold.marginal[:distinct].sum(1) for fold in folds]).sum(0) / rows  # [S]
    # The same pair is scored to rounding in another batch: what ties up to that counts as a tie.
    tolerance = 1e-5 * max(float(fold.joint.abs().mean()) for fold in folds)
    return (1 + int((shuffled >= observed - tolerance).sum())) / (1 + shuffled.numel())
