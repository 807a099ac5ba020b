"""Combining critics: the weights at which several score best together on rows that chose none of them.

T = sum_m w_m T_m is a critic like any other, and the DV bound is concave in w: Newton's method finds the best weights
in a few steps (stacking: Wolpert 1992). A critic that fits badly gets little weight, an overconfident one is shrunk.
Weights are not negative (Breiman 1996): critics of one dependence score much alike, and without that few rows are
fitted by large weights of either sign.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["stacking_weights"]

#: Weight of the squared distance from no critic at all, in nats: what decides between critics that say the same.
RIDGE = 1e-3


def stacking_weights(joint: Tensor, marginal: Tensor) -> Tensor:
    """Weights [M], none negative, that maximise mean(w . joint) - log mean exp(w . marginal) - RIDGE |w|^2.

    Args:
        joint: [M, n], scores of M critics on joint pairs, float64.
        marginal: [M, m], on marginal pairs.

    >>> _ = torch.manual_seed(0)
    >>> joint, marginal = torch.randn(1000, dtype=torch.float64) + 1, torch.randn(20_000, dtype=torch.float64)
    >>> w = stacking_weights(torch.stack([joint, -joint]), torch.stack([marginal, -marginal]))
    >>> abs(float(w[0]) - 1) < 0.1, float(w[1])   # x is the log density ratio of N(1, 1) to N(0, 1), up to a constant
    (True, 0.0)
    """
    weights = joint.new_zeros(joint.shape[0])
    kept = list(range(joint.shape[0]))
    while kept:
        found = _maximum(joint[kept], marginal[kept])
        if bool((found >= 0).all()):
            weights[kept] = found
            break
        del kept[int(found.argmin())]
    return weights


def _maximum(joint: Tensor, marginal: Tensor) -> Tensor:
    """The weights of either sign, by Newton's method."""

    def objective(w: Tensor) -> float:
        bound = (w @ joint).mean() - torch.logsumexp(w @ marginal, 0) + math.log(marginal.shape[1])
        return float(bound - RIDGE * (w @ w))

    w = joint.new_zeros(joint.shape[0])
    value = objective(w)
    for _ in range(50):
        tilted = torch.softmax(w @ marginal, 0)
        mean = marginal @ tilted
        gradient = joint.mean(1) - mean - 2 * RIDGE * w
        curvature = (marginal * tilted) @ marginal.T - torch.outer(mean, mean)
        curvature.diagonal().add_(2 * RIDGE)
        step = torch.linalg.solve(curvature, gradient)
        while (ahead := objective(w + step)) < value and float(step.abs().max()) > 1e-9:
            step = step / 2
        if ahead - value < 1e-9:
            break
        w, value = w + step, ahead
    return w
