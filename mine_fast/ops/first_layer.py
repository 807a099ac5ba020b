"""The paired first layer: Wx x and Wy y once per row, added for the joint pairs and for those of every shuffle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mine_fast.ops._checks import check_floating, check_shuffles, check_slope, check_two_dimensional
from mine_fast.ops._dispatch import (
    autocast_enabled,
    backward_kernel,
    in_eager_mode,
    kernel,
    needs_gradient,
    refuse_second_derivative,
)
from mine_fast.reference import ACTIVATIONS

_first_layer = torch.ops.mine_fast.paired_first_layer.default
_backward = torch.ops.mine_fast.paired_first_layer_backward.default


def paired_first_layer(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    key: Tensor,
    shuffles: int = 1,
    activation: str = "relu",
    slope: float | None = None,
) -> Tensor:
    """The first layer of a critic on concatenated rows, for the joint pairs and those of every shuffle.

    W [x; y] = Wx x + Wy y: both products are computed once per row, then added, shifted by the bias and activated for
    all pairs in one pass. The result is that of `activation(linear(pair(x, y, key, shuffles)))`.

    Args:
        x: [B, dx], floating.
        y: [B, dy].
        weight: [h, dx + dy], as in `torch.nn.Linear`.
        bias: [h], or None.
        key: int64 [2], from `shuffle_key`.
        shuffles: S.
        activation: one of `ACTIVATIONS`.
        slope: negative slope of leaky_relu (default 0.01) or alpha of elu (default 1).

    Returns:
        [(1 + S) * B, h]. The backward recomputes the pre-activations: memory does not grow with S beyond the result.

    Raises:
        ValueError: unknown activation, shapes that do not fit, one row, different devices.
        TypeError: different dtypes, not floating.

    >>> import torch
    >>> from mine_fast import ops
    >>> layer = torch.nn.Linear(3, 8)
    >>> x, y, key = torch.randn(5, 2), torch.randn(5, 1), ops.shuffle_key(0)
    >>> fused = ops.paired_first_layer(x, y, layer.weight, layer.bias, key)
    >>> torch.allclose(fused, torch.relu(layer(ops.pair(x, y, key))), atol=1e-6)
    True
    """
    check_floating(x=x, y=y)
    check_two_dimensional(x, y)
    check_shuffles(key, x.shape[0], shuffles, x.device)
    _check_layer(x, weight, bias, x.shape[1] + y.shape[1])
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if slope is None:
        slope = 0.01 if activation == "leaky_relu" else 1.0
    check_slope(slope)
    code = ACTIVATIONS.index(activation)
    if in_eager_mode(x):
        if needs_gradient(x, y, weight, bias):
            return _PairedFirstLayer.apply(x, y, weight, bias, key, shuffles, code, slope)
        return kernel(_first_layer, *_products(x, y, weight, bias), key, shuffles, code, slope)
    x_part = F.linear(x, weight[:, : x.shape[1]])
    y_part = F.linear(y, weight[:, x.shape[1] :])
    # Under autocast the products come in 16 bits and the bias does not.
    shift = x_part.new_zeros(weight.shape[0]) if bias is None else bias.to(x_part.dtype)
    return _first_layer(x_part, y_part, shift, key, shuffles, code, slope)


def _products(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """X_part [B, h], y_part [B, h] and the bias [h]."""
    x_part = torch.mm(x, weight[:, : x.shape[1]].t())
    y_part = torch.mm(y, weight[:, x.shape[1] :].t())
    return x_part, y_part, weight.new_zeros(weight.shape[0]) if bias is None else bias


class _PairedFirstLayer(torch.autograd.Function):
    """The products and the op as one node of the graph: five fewer, and no zero-filled slices of the weight."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        key: Tensor,
        shuffles: int,
        activation: int,
        slope: float,
    ) -> Tensor:
        x_part, y_part, shift = _products(x, y, weight, bias)
        ctx.save_for_backward(x, y, weight, x_part, y_part, shift, key)
        ctx.arguments = (shuffles, activation, slope)
        return kernel(_first_layer, x_part, y_part, shift, key, shuffles, activation, slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, *parts = ctx.saved_tensors
        width = x.shape[1]
        if torch.is_grad_enabled():
            # create_graph=True: the saved products are constants to autograd. Made again they depend on x, y, weight,
            # and a second derivative is refused instead of silently missing their share.
            parts[:2] = torch.mm(x, weight[:, :width].t()), torch.mm(y, weight[:, width:].t())
        grad_x_part, grad_y_part = backward_kernel(_backward, grad, *parts, *ctx.arguments)
        grad_x = grad_y = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.mm(grad_x_part, weight[:, :width])
        if ctx.needs_input_grad[1]:
            grad_y = torch.mm(grad_y_part, weight[:, width:])
        if ctx.needs_input_grad[2]:
            grad_weight = torch.cat([torch.mm(grad_x_part.t(), x), torch.mm(grad_y_part.t(), y)], 1)
        if ctx.needs_input_grad[3]:
            # Every pair's gradient reaches the bias once, and grad_x_part already sums them by row.
            grad_bias = grad_x_part.sum(0)
        return grad_x, grad_y, grad_weight, grad_bias, None, None, None, None


def _check_layer(x: Tensor, weight: Tensor, bias: Tensor | None, width: int) -> None:
    parameters = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    check_floating(one_dtype=not autocast_enabled(x.device.type), x=x, **parameters)
    if weight.ndim != 2 or weight.shape[1] != width:
        raise ValueError(f"weight must be [h, dx + dy] = [h, {width}], got shape {list(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [h] = [{weight.shape[0]}], got shape {list(bias.shape)}")


@torch.library.register_fake("mine_fast::paired_first_layer")
def _(
    x_part: Tensor, y_part: Tensor, bias: Tensor, key: Tensor, shuffles: int, activation: int, slope: float
) -> Tensor:
    return x_part.new_empty((1 + shuffles) * x_part.shape[0], x_part.shape[1])


@torch.library.register_fake("mine_fast::paired_first_layer_backward")
def _(
    grad: Tensor,
    x_part: Tensor,
    y_part: Tensor,
    bias: Tensor,
    key: Tensor,
    shuffles: int,
    activation: int,
    slope: float,
) -> tuple[Tensor, Tensor]:
    return x_part.new_empty(x_part.shape), y_part.new_empty(y_part.shape)


def _paired_first_layer_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.shuffles, ctx.activation, ctx.slope = inputs
    ctx.save_for_backward(*tensors)


def _paired_first_layer_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, grad_y = _backward(grad, *ctx.saved_tensors, ctx.shuffles, ctx.activation, ctx.slope)
    # Every pair's gradient reaches the bias once, and grad_x already sums them by row.
    grad_bias = grad_x.sum(0) if ctx.needs_input_grad[2] else None
    return grad_x, grad_y, grad_bias, None, None, None, None


torch.library.register_autograd(
    "mine_fast::paired_first_layer", _paired_first_layer_backward, setup_context=_paired_first_layer_setup
)
torch.library.register_autograd(
    "mine_fast::paired_first_layer_backward", refuse_second_derivative("paired_first_layer")
)
