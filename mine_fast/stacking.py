"""Combining critics: the weights at which several score best together on rows that chose none of them.

T = sum_m w_m T_m is a critic like any other, and the DV bound is concave in w: Newton's method finds the best weights
in a few steps (stacking: Wolpert 1992). A critic that fits badly gets little weight, an overconfident one is shrunk.
The weights are not negative (Breiman 1996) and sum to 1 at most: critics of one dependence score much alike, and
without that a few rows are fitted by large weights of either sign, or by scores blown up.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["stacking_weights"]

#: Weight of the squared distance from no critic at all, in nats: what decides between critics that say the same.
RIDGE = 1e-3


def stacking_weights(joint: Tensor, marginal: Tensor) -> Tensor:
    """Weights [M], w >= 0 and sum w <= 1, that maximise mean(w . joint) - log mean exp(w . marginal) - RIDGE |w|^2.

    Args:
        joint: [M, n], scores of M critics on joint pairs, float64.
        marginal: [M, m], on marginal pairs.

    >>> _ = torch.manual_seed(0)
    >>> joint, marginal = torch.randn(1000, dtype=torch.float64) + 1, torch.randn(20_000, dtype=torch.float64)
    >>> w = stacking_weights(torch.stack([1.5 * joint, -joint]), torch.stack([1.5 * marginal, -marginal]))
    >>> abs(float(w[0]) - 1 / 1.5) < 0.05, float(w[1])   # x + c is the log density ratio of N(1, 1) to N(0, 1)
    (True, 0.0)
    """
    # A critic that is worse than none fits some rows by chance, and others not at all.
    alone = joint.mean(1) - torch.logsumexp(marginal, 1) + math.log(marginal.shape[1])
    useful = (alone > 0).nonzero().flatten().tolist()
    weights = _not_negative(joint, marginal, useful, total=None)
    return weights if float(weights.sum()) <= 1 else _not_negative(joint, marginal, useful, total=1.0)


def _not_negative(joint: Tensor, marginal: Tensor, kept: list[int], total: float | None) -> Tensor:
    """The weights of the given sum, or of any: critics that would get a negative one are left out, worst first."""
    weights, kept = joint.new_zeros(joint.shape[0]), list(kept)
    while kept:
        found = _maximum(joint[kept], marginal[kept], total)
        if bool((found >= 0).all()):
            weights[kept] = found
            break
        del kept[int(found.argmin())]
    return weights


def _maximum(joint: Tensor, marginal: Tensor, total: float | None) -> Tensor:
    """The weights of either sign, by Newton's method; of a given sum, by its steps along that."""

    def objective(w: Tensor) -> float:
        bound = (w @ joint).mean() - torch.logsumexp(w @ marginal, 0) + math.log(marginal.shape[1])
        return float(bound - RIDGE * (w @ w))

    count = joint.shape[0]
    w = joint.new_full((count,), (total or 0.0) / count)
    value = objective(w)
    system = joint.new_ones(count + 1, count + 1)  # the curvature, bordered by the multiplier of the sum
    system[-1, -1] = 0
    for _ in range(50):
        tilted = torch.softmax(w @ marginal, 0)
        mean = marginal @ tilted
        gradient = joint.mean(1) - mean - 2 * RIDGE * w
        curvature = (marginal * tilted) @ marginal.T - torch.outer(mean, mean)
        curvature.diagonal().add_(2 * RIDGE)
        if total is None:
            step = torch.linalg.solve(curvature, gradient)
        else:
            system[:-1, :-1] = curvature
            step = torch.linalg.solve(system, torch.cat([gradient, gradient.new_zeros(1)]))[:-1]
        while (ahead := objective(w + step)) < value and float(step.abs().max()) > 1e-9:
            step = step / 2
        if ahead - value < 1e-9:
            break
        w, value = w + step, ahead
    return w
