"""Pairing: one batch of concatenated rows for a critic, joint and shuffled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mine_fast.ops._checks import check_floating, check_shuffles, check_two_dimensional
from mine_fast.ops._dispatch import backward_kernel, in_eager_mode, kernel, needs_gradient

_pair = torch.ops.mine_fast.pair.default
_backward = torch.ops.mine_fast.pair_backward.default


def pair(x: Tensor, y: Tensor, key: Tensor, shuffles: int = 1) -> Tensor:
    """One batch of concatenated rows for a critic: the joint pairs, then the pairs of every shuffle.

    Args:
        x: [B, dx], floating.
        y: [B, dy], the dtype and device of x.
        key: int64 [2], from `shuffle_key`.
        shuffles: S.

    Returns:
        [(1 + S) * B, dx + dy]: rows [x_i, y_i], then [x_i, y_partner(i)] shuffle by shuffle.

    Raises:
        ValueError: not 2-D, unequal rows, one row, different devices.
        TypeError: different dtypes, not floating.

    >>> import torch
    >>> from mine_fast import ops
    >>> x, y = torch.zeros(3, 1), torch.arange(3.0)[:, None]
    >>> ops.pair(x, y, ops.shuffle_key(0)).shape
    torch.Size([6, 2])
    """
    check_floating(x=x, y=y)
    check_two_dimensional(x, y)
    check_shuffles(key, x.shape[0], shuffles, x.device)
    if in_eager_mode(x):
        return _Pair.apply(x, y, key, shuffles) if needs_gradient(x, y) else kernel(_pair, x, y, key, shuffles)
    return _pair(x, y, key, shuffles)


class _Pair(torch.autograd.Function):
    """The op as a node of our own; see `_dispatch`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, key: Tensor, shuffles: int) -> Tensor:
        _pair_setup(ctx, (x, y, key, shuffles), None)
        return kernel(_pair, x, y, key, shuffles)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _pair_backward(ctx, grad)


@torch.library.register_fake("mine_fast::pair")
def _(x: Tensor, y: Tensor, key: Tensor, shuffles: int) -> Tensor:
    return x.new_empty((1 + shuffles) * x.shape[0], x.shape[1] + y.shape[1])


@torch.library.register_fake("mine_fast::pair_backward")
def _(grad: Tensor, key: Tensor, x_width: int, shuffles: int) -> tuple[Tensor, Tensor]:
    rows = grad.shape[0] // (1 + shuffles)
    return grad.new_empty(rows, x_width), grad.new_empty(rows, grad.shape[1] - x_width)


def _pair_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, _, key, ctx.shuffles = inputs
    ctx.x_width = x.shape[1]
    ctx.save_for_backward(key)


def _pair_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    grad_x, grad_y = backward_kernel(_backward, grad, ctx.saved_tensors[0], ctx.x_width, ctx.shuffles)
    return grad_x, grad_y, None, None


def _pair_backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, key, _, ctx.shuffles = inputs
    ctx.save_for_backward(key)


def _pair_backward_backward(ctx: Any, grad_x: Tensor, grad_y: Tensor) -> tuple[Tensor, None, None, None]:
    return _pair(grad_x, grad_y, ctx.saved_tensors[0], ctx.shuffles), None, None, None


torch.library.register_autograd("mine_fast::pair", _pair_backward, setup_context=_pair_setup)
torch.library.register_autograd("mine_fast::pair_backward", _pair_backward_backward, setup_context=_pair_backward_setup)
