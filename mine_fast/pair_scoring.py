"""Scores of many pairs of the same rows: what is read off held-out rows takes hundreds of pairs of each.

A critic that is known as a function of pairs alone is called on copies of the rows. Where one row's share is the same
in all of its pairs, that is computed once: the factors of a separable or Gaussian critic here, the first layer of a
perceptron by the native engine (see `native.pair_scorer`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["CALL_ROWS", "PairScorer", "by_rows", "factor_scores"]

#: (x [n, ...], y [n, ...], partner int64 [S, n]) -> scores [S, n] of the pairs (x_i, y_partner[s, i]).
PairScorer = Callable[[Tensor, Tensor, Tensor], Tensor]

#: Rows that are made at once for the pairs, and those of them that go through a critic at once: on the CPU the
#: activations of more leave the caches, and a row costs twice as much.
CALL_ROWS, CALL_ROWS_ON_CPU = 65_536, 2048


def _score_rows(score: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Scores [n] of the pairs (x_i, y_i), in calls of at most CALL_ROWS rows."""
    size = CALL_ROWS_ON_CPU if x.device.type == "cpu" else CALL_ROWS
    calls = [score(a, b) for a, b in zip(x.split(size), y.split(size), strict=True)]
    return torch.cat(calls)


def by_rows(score: Callable[[Tensor, Tensor], Tensor]) -> PairScorer:
    """A scorer that calls (x [b, ...], y [b, ...]) -> scores [b] on copies of the rows.

    >>> of_pairs = by_rows(lambda x, y: (10 * x + y)[:, 0])
    >>> of_pairs(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]]), torch.tensor([[0, 1], [1, 0]]))
    tensor([[13., 24.],
            [14., 23.]])
    """

    def of_pairs(x: Tensor, y: Tensor, partner: Tensor) -> Tensor:
        # As many shuffles per call as CALL_ROWS allows: their partners are rows of one small table.
        group = max(1, CALL_ROWS // len(x))
        calls = [
            _score_rows(score, x.repeat(len(p), *(1,) * (x.ndim - 1)), y[p.flatten()]) for p in partner.split(group)
        ]
        return torch.cat(calls).view(partner.shape)

    return of_pairs


def factor_scores(f: Tensor, g: Tensor, partner: Tensor) -> Tensor:
    """Scores [S, n] of f_i . g_partner, of a critic that is a product of rows f and g [n, k].

    >>> f, g = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])
    >>> factor_scores(f, g, torch.tensor([[0, 1], [1, 0]]))
    tensor([[3., 8.],
            [4., 6.]])
    """
    if f.device.type != "cpu" or f.dtype != torch.float32 or torch.is_grad_enabled():
        return by_rows(lambda f_rows, g_rows: (f_rows * g_rows).sum(1))(f, g, partner)
    from mine_fast import _engine

    rows = (side.detach().contiguous().numpy() for side in (f, g))
    return torch.from_numpy(_engine.factor_scores(*rows, partner.numpy()))
