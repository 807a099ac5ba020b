"""The loss of all pairs of a batch and its gradient in plain torch, tile by tile: any device, float32 and float64.

What `reference.all_pairs` says, without its B^2 activations, and what csrc/engine/all_pairs.h does for float32 on the
CPU. A tile is some rows of x with all rows of y. A first pass over the tiles finds the log normaliser, a second one the
gradient, with every pair's weight known: no running reference, and no value that the host has to wait for. Sums over
tiles are float64 where the device has it.

Memory is O(B x widest layer) and that of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mine_fast.reference import ACTIVATIONS, LOSSES, activate, activation_derivative, dv_term, log_sum_exp

__all__ = ["all_pairs"]

#: Pairs of a tile: as many as a processor's cache holds of a layer of some 100 units, and as a GPU needs to be busy.
_CPU_PAIRS, _DEVICE_PAIRS = 4096, 65_536


def all_pairs(x_part: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The op of csrc/library.cpp, with its arguments; call it below autograd."""
    with torch.autocast(x_part.device.type, enabled=False):
        return _all_pairs(x_part, *rest)


def _all_pairs(
    x_part: Tensor,
    y_part: Tensor,
    later: Sequence[Tensor],
    activations: Sequence[int],
    slopes: Sequence[float],
    log_ema: Tensor,
    alpha: float,
    loss: int,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = x_part.shape[0]
    critic = _Critic(x_part, y_part, later, [ACTIVATIONS[code] for code in activations], slopes)
    joint, row_levels = [], []
    for begin, end in _tiles(x_part):
        scores = critic.scores(begin, end)
        diagonal = _diagonal(scores, begin)
        joint.append(diagonal.clone())
        diagonal.fill_(-math.inf)
        row_levels.append(log_sum_exp(scores, 1))
    # The term of marginal scores is that of their log-mean-exp, as one score.
    levels = torch.cat(row_levels).to(_widest_dtype(x_part))
    log_mean_exp = log_sum_exp(levels, 0) - math.log(rows * (rows - 1))
    scores = torch.cat([torch.cat(joint).to(levels.dtype), log_mean_exp[None]])
    value, new_log_ema, statistics = dv_term(scores, rows, log_ema.to(levels.dtype), alpha, LOSSES[loss])
    gradient = x_part.new_empty(0)
    if with_gradient:
        critic.start_gradient()
        log_weight = statistics[2] + math.log(rows * (rows - 1))
        for begin, end in _tiles(x_part):
            weights = torch.exp(critic.scores(begin, end) - log_weight.to(x_part.dtype))
            _diagonal(weights, begin).fill_(-1 / rows)
            critic.add_gradient(begin, end, weights)
        gradient = critic.gradient()
    value, statistics = value.to(log_ema.dtype), statistics.to(log_ema.dtype)
    # A copy: losses without an average give back the one that came, and the schema of the op knows no alias.
    return value, new_log_ema.to(log_ema.dtype, copy=True), statistics, gradient


def _tiles(x_part: Tensor) -> Iterator[tuple[int, int]]:
    """Row ranges of x that make a tile with all rows of y."""
    rows = x_part.shape[0]
    size = max(1, (_CPU_PAIRS if x_part.device.type == "cpu" else _DEVICE_PAIRS) // rows)
    for begin in range(0, rows, size):
        yield begin, min(begin + size, rows)


def _diagonal(tile: Tensor, begin: int) -> Tensor:
    """The joint pairs of a tile [a, B] whose first row of x is `begin`: a view [a]."""
    return tile[:, begin:].diagonal()


def _widest_dtype(like: Tensor) -> torch.dtype:
    """What many tiles are added up in: float64, which only MPS does not have."""
    return like.dtype if like.device.type == "mps" else torch.float64


class _Critic:
    """Layers after the first one's products, and the sums of their gradient."""

    def __init__(
        self,
        x_part: Tensor,
        y_part: Tensor,
        later: Sequence[Tensor],
        activations: Sequence[str],
        slopes: Sequence[float],
    ) -> None:
        self.x_part, self.y_part = x_part, y_part
        self.weights, self.biases = later[::2], later[1::2]
        self.activations = list(zip(activations, slopes, strict=True))

    def scores(self, begin: int, end: int) -> Tensor:
        """Scores of a tile, [a, B]; what its backward needs is kept until the next one."""
        rows = self.x_part.shape[0]
        before = (self.x_part[begin:end, None] + self.y_part).view((end - begin) * rows, -1)
        self.before, self.hidden = [before], [activate(before, *self.activations[0])]
        for weight, bias, activation in zip(self.weights[:-1], self.biases[:-1], self.activations[1:], strict=True):
            before = F.linear(self.hidden[-1], weight, bias)
            self.before.append(before)
            self.hidden.append(activate(before, *activation))
        return F.linear(self.hidden[-1], self.weights[-1], self.biases[-1]).view(end - begin, rows)

    def start_gradient(self) -> None:
        """Set all sums to zero."""
        dtype = _widest_dtype(self.x_part)
        self.x_sums, self.y_sums = (torch.zeros_like(part, dtype=dtype) for part in (self.x_part, self.y_part))
        self.weight_sums, self.bias_sums = (
            [torch.zeros_like(t, dtype=dtype) for t in tensors] for tensors in (self.weights, self.biases)
        )

    def add_gradient(self, begin: int, end: int, weights: Tensor) -> None:
        """Add the gradient of sum(weights * scores) of the tile last scored; weights [a, B]."""
        grad = weights.reshape(-1, 1)
        for layer in reversed(range(len(self.weights))):
            self.weight_sums[layer] += grad.t() @ self.hidden[layer]
            self.bias_sums[layer] += grad.sum(0)
            grad = (grad @ self.weights[layer]) * activation_derivative(self.before[layer], *self.activations[layer])
        by_pair = grad.view(end - begin, *self.y_part.shape)
        self.x_sums[begin:end] += by_pair.sum(1)
        self.y_sums += by_pair.sum(0)

    def gradient(self) -> Tensor:
        """All sums, [2 B h + P], in the order of the op's arguments."""
        layers = [t for pair in zip(self.weight_sums, self.bias_sums, strict=True) for t in pair]
        return torch.cat([t.flatten() for t in (self.x_sums, self.y_sums, *layers)]).to(self.x_part.dtype)
