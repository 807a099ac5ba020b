"""The Donsker-Varadhan loss of a perceptron on all pairs of a batch, in memory that does not grow with the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mine_fast import all_pairs_tiles
from mine_fast.ops._checks import check_floating, check_slope, check_two_dimensional
from mine_fast.ops._dispatch import (
    autocast_enabled,
    backward_kernel,
    kernel,
    needs_gradient,
    refuse_second_derivative,
)
from mine_fast.ops.dv import DVTerm, as_log_ema, check_dv_arguments
from mine_fast.reference import ACTIVATIONS, LOSSES, sum_dtype
from mine_fast.threads import allowed_threads

_all_pairs = torch.ops.mine_fast.all_pairs.default
_backward = torch.ops.mine_fast.all_pairs_backward.default


def all_pairs_loss(
    x: Tensor,
    y: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activation: str | Sequence[str] = "relu",
    slope: float | Sequence[float] | None = None,
    log_ema: Tensor | None = None,
    alpha: float = 0.01,
    loss: str = "mine",
) -> DVTerm:
    """`dv_loss` of a perceptron on concatenated rows with every row of x paired with every other row of y.

        joint      T(x_i, y_i), B scores
        marginal   T(x_i, y_j) for all j != i, B (B - 1) scores

    The first layer's products are made once per row, W [x; y] = Wx x + Wy y; later layers run over tiles of pairs, the
    backward of a tile right after its forward, or after a second forward where there is no kernel. Beyond inputs and
    gradients, memory is O(B h) with h the widest layer. Float32 on the CPU runs in the native engine (csrc/engine), on
    several threads unless torch is set to one; everything else runs in plain torch.

    Args:
        x: [B, dx], floating, B at least 2. 16-bit rows and layers are computed in float32.
        y: [B, dy].
        weights: of every Linear layer, [out, in]: the first [h, dx + dy], the last [1, in]; two or more.
        biases: of every layer, [out], or None.
        activation: of the hidden layers, one of `ACTIVATIONS` for all or one for each.
        slope: negative slope of leaky_relu (default 0.01) or alpha of elu (default 1), for all or for each.
        log_ema: see `dv_loss`.
        alpha: see `dv_loss`.
        loss: see `dv_loss`.

    Returns:
        DVTerm in float32 (float64 for float64 x). The loss is differentiable, once, in x, y, weights and biases; its
        gradient is computed with it.

    Raises:
        ValueError: one row, shapes that do not fit, unknown activation or loss, alpha outside (0, 1], several devices.
        TypeError: different dtypes, not floating, not dense.

    >>> import torch
    >>> from mine_fast import ops
    >>> first, last = torch.nn.Linear(2, 16), torch.nn.Linear(16, 1)
    >>> x, y = torch.randn(50, 1), torch.randn(50, 1)
    >>> term = ops.all_pairs_loss(x, y, [first.weight, last.weight], [first.bias, last.bias])
    >>> term.loss.backward()
    >>> joint = last(torch.relu(first(torch.cat([x, y], 1))))
    >>> torch.allclose(term.joint_mean, joint.mean(), atol=1e-6)
    True
    """
    check_floating(x=x, y=y)
    check_two_dimensional(x, y)
    if x.shape[0] < 2:
        raise ValueError(f"x and y need at least 2 rows: {x.shape[0]} cannot be paired with others")
    check_dv_arguments(alpha, loss)
    _check_layers(x, weights, biases, x.shape[1] + y.shape[1])
    codes, slopes = _activations(activation, slope, len(weights) - 1)
    log_ema = as_log_ema(log_ema, x.device, sum_dtype(x.dtype))
    value, new_log_ema, statistics = all_pairs_term(x, y, weights, biases, codes, slopes, log_ema, alpha, loss)
    joint_mean, log_mean_exp, _ = statistics.unbind()
    return DVTerm(value, new_log_ema, joint_mean, log_mean_exp)


def all_pairs_term(
    x: Tensor,
    y: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: list[int],
    slopes: list[float],
    log_ema: Tensor,
    alpha: float,
    loss: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """`all_pairs_loss` for arguments that are known to be right, activations by their codes.

    Returns:
        As `dv_term`; only the loss is differentiable.
    """
    dtype, width = log_ema.dtype, x.shape[1]
    layers = [
        t.to(dtype)
        for weight, bias in zip(weights, biases, strict=True)
        for t in (weight, weight.new_zeros(weight.shape[0]) if bias is None else bias)
    ]
    first, shift, *later = layers
    # Autocast may make them in 16 bits.
    x_part = F.linear(x.to(dtype), first[:, :width], shift).to(dtype)
    y_part = F.linear(y.to(dtype), first[:, width:]).to(dtype)
    code, wanted = LOSSES.index(loss), needs_gradient(x_part, y_part, *later)
    if not torch.compiler.is_compiling():
        if wanted:
            return _AllPairs.apply(x_part, y_part, activations, slopes, log_ema, alpha, code, *later)
        return kernel(_all_pairs, x_part, y_part, later, activations, slopes, log_ema, alpha, code, False)[:3]
    value, new_log_ema, statistics, _ = _all_pairs(
        x_part, y_part, later, activations, slopes, log_ema.detach(), alpha, code, wanted
    )
    return value, new_log_ema.detach(), statistics.detach()


class _AllPairs(torch.autograd.Function):
    """The op as a node of our own; see `_dispatch`."""

    @staticmethod
    def forward(
        ctx: Any,
        x_part: Tensor,
        y_part: Tensor,
        activations: list[int],
        slopes: list[float],
        log_ema: Tensor,
        alpha: float,
        loss: int,
        *later: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        value, new_log_ema, statistics, gradient = kernel(
            _all_pairs, x_part, y_part, later, activations, slopes, log_ema, alpha, loss, True
        )
        ctx.save_for_backward(gradient, x_part, y_part, *later)
        ctx.mark_non_differentiable(new_log_ema, statistics)
        return value, new_log_ema, statistics

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
        x_part, y_part, *later = _parts(ctx, grad)
        return x_part, y_part, None, None, None, None, None, *later


def _parts(ctx: Any, grad: Tensor) -> list[Tensor]:
    """The gradient of every tensor that the op was given."""
    gradient, *inputs = ctx.saved_tensors
    # The gradient is a constant to autograd. With its inputs beside it, a second derivative is refused instead of
    # silently missing their share.
    flat = backward_kernel(_backward, grad, gradient, inputs)
    parts = flat.split([t.numel() for t in inputs])
    return [part.view(t.shape) for part, t in zip(parts, inputs, strict=True)]


def _check_layers(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], width: int) -> None:
    if len(weights) < 2 or len(biases) != len(weights):
        raise ValueError(
            f"weights and biases must have one entry for each of two or more layers, got {len(weights)} weights and "
            f"{len(biases)} biases"
        )
    parameters = {f"weights[{i}]": weight for i, weight in enumerate(weights)}
    parameters |= {f"biases[{i}]": bias for i, bias in enumerate(biases) if bias is not None}
    check_floating(one_dtype=not autocast_enabled(x.device.type), x=x, **parameters)
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        out = "1" if i == len(weights) - 1 else "h"
        if weight.ndim != 2 or weight.shape[1] != width or (out == "1" and weight.shape[0] != 1):
            raise ValueError(f"weights[{i}] must be [{out}, {width}], got shape {list(weight.shape)}")
        width = weight.shape[0]
        if width == 0:
            raise ValueError(f"weights[{i}] must have outputs, got shape {list(weight.shape)}")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"biases[{i}] must be [{width}], got shape {list(bias.shape)}")


def _activations(
    activation: str | Sequence[str], slope: float | Sequence[float] | None, hidden: int
) -> tuple[list[int], list[float]]:
    """Codes and slopes, an entry for each hidden layer."""
    names = [activation] * hidden if isinstance(activation, str) else list(activation)
    for name in names:
        if name not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    if slope is None:
        slope = [0.01 if name == "leaky_relu" else 1.0 for name in names]
    slopes = list(slope) if isinstance(slope, Sequence) else [slope] * hidden
    for value in slopes:
        check_slope(value)
    if len(names) != hidden or len(slopes) != hidden:
        raise ValueError(
            f"activation and slope must have one entry for each of the {hidden} hidden layers, got {len(names)} and "
            f"{len(slopes)}"
        )
    return [ACTIVATIONS.index(name) for name in names], [float(value) for value in slopes]


@torch.library.impl("mine_fast::all_pairs", "CPU")
def _(
    x_part: Tensor,
    y_part: Tensor,
    later: list[Tensor],
    activations: list[int],
    slopes: list[float],
    log_ema: Tensor,
    alpha: float,
    loss: int,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if x_part.dtype != torch.float32:  # which is all that the engine computes in
        return all_pairs_tiles.all_pairs(
            x_part, y_part, later, activations, slopes, log_ema, alpha, loss, with_gradient
        )
    from mine_fast import _engine

    hidden = [bias.numel() for bias in (x_part[0], *later[1:-2:2])]
    flat = torch.cat([t.detach().reshape(-1) for t in later])
    *values, gradient = _engine.all_pairs(
        _array(x_part),
        _array(y_part),
        flat.numpy(),
        hidden,
        activations,
        slopes,
        float(log_ema),
        alpha,
        loss,
        with_gradient,
        allowed_threads(),
    )
    value, new_log_ema, statistics = (log_ema.new_tensor(v) for v in (values[0], values[1], values[2:]))
    return value, new_log_ema, statistics, torch.from_numpy(gradient)


def _array(rows: Tensor) -> np.ndarray:
    return rows.detach().contiguous().numpy()


@torch.library.register_fake("mine_fast::all_pairs")
def _(x_part: Tensor, y_part: Tensor, later: list[Tensor], *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, _, log_ema, _, _, with_gradient = rest
    size = sum(t.numel() for t in (x_part, y_part, *later)) if with_gradient else 0
    return log_ema.new_empty(()), log_ema.new_empty(()), log_ema.new_empty(3), x_part.new_empty(size)


@torch.library.register_fake("mine_fast::all_pairs_backward")
def _(grad: Tensor, gradient: Tensor, inputs: list[Tensor]) -> Tensor:
    return gradient.new_empty(gradient.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x_part, y_part, later, *_, with_gradient = inputs
    if with_gradient:
        ctx.save_for_backward(output[3], x_part, y_part, *later)


def _registered_backward(ctx: Any, grad: Tensor, *unused: Tensor | None) -> tuple[Any, ...]:
    if not ctx.saved_tensors:
        raise RuntimeError("all_pairs was called with with_gradient=False: its loss has no gradient")
    x_part, y_part, *later = _parts(ctx, grad)
    return x_part, y_part, later, None, None, None, None, None, None


torch.library.register_autograd("mine_fast::all_pairs", _registered_backward, setup_context=_setup)
torch.library.register_autograd("mine_fast::all_pairs_backward", refuse_second_derivative("all_pairs_loss"))
