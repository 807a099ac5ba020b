"""The ops on devices that have no kernel of ours, by the plain torch of `mine_fast.reference`.

Registered below the kernels for every backend: a CUDA tensor lands here where the CUDA part was not built (with one
warning, since a user who has a GPU wants to know), and so does any other accelerator of torch.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mine_fast import _library, all_pairs_tiles, reference
from mine_fast.reference import ACTIVATIONS, LOSSES


def marginal_shuffle_backward(grad: Tensor, key: Tensor) -> Tensor:
    """Grad [S, B, ...] -> [B, ...]: gathered by the inverse index and summed over the shuffles."""
    owner = reference.shuffle_index(key, grad.shape[1], grad.shape[0], inverse=True)  # [S, B]
    shuffle = torch.arange(grad.shape[0], device=grad.device)[:, None]
    return _sum(grad[shuffle, owner])


def _sum(blocks: Tensor) -> Tensor:
    """Sum over the leading dimension, in fp32 for 16-bit types as the kernels do."""
    return blocks.sum(0, dtype=reference.sum_dtype(blocks.dtype)).to(blocks.dtype)


def pair_backward(grad: Tensor, key: Tensor, x_width: int, shuffles: int) -> tuple[Tensor, Tensor]:
    """Grad [(1 + S) * B, dx + dy] -> grad_x [B, dx], grad_y [B, dy]."""
    blocks = grad.unflatten(0, (1 + shuffles, -1)) if grad.numel() else grad.new_zeros(1 + shuffles, 0, grad.shape[1])
    return _sum(blocks[..., :x_width]), _aligned_sum(blocks[..., x_width:], key)


def _aligned_sum(blocks: Tensor, key: Tensor) -> Tensor:
    """Sum blocks [1 + S, B, w] of joint and shuffled rows by the row of y that they were made from."""
    owner = reference.shuffle_index(key, blocks.shape[1], blocks.shape[0] - 1, inverse=True)
    shuffle = torch.arange(1, blocks.shape[0], device=blocks.device)[:, None]
    return _sum(torch.cat([blocks[:1], blocks[shuffle, owner]]))


def paired_first_layer(
    x_part: Tensor, y_part: Tensor, bias: Tensor, key: Tensor, shuffles: int, activation: int, slope: float
) -> Tensor:
    """`reference.paired_first_layer` with the activation by its code."""
    return reference.paired_first_layer(x_part, y_part, bias, key, shuffles, ACTIVATIONS[activation], slope)


def paired_first_layer_backward(
    grad: Tensor,
    x_part: Tensor,
    y_part: Tensor,
    bias: Tensor,
    key: Tensor,
    shuffles: int,
    activation: int,
    slope: float,
) -> tuple[Tensor, Tensor]:
    """Grad [(1 + S) * B, h] -> grad_x [B, h], grad_y [B, h]."""
    before = reference.paired_first_layer(x_part, y_part, bias, key, shuffles, "identity")
    through = grad * reference.activation_derivative(before, ACTIVATIONS[activation], slope)
    blocks = through.view(1 + shuffles, *x_part.shape)
    return _sum(blocks), _aligned_sum(blocks, key)


def dv_term(scores: Tensor, joint_rows: int, log_ema: Tensor, alpha: float, loss: int) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.dv_term` with the loss by its code; the log-EMA as a tensor of its own."""
    value, new_log_ema, statistics = reference.dv_term(scores, joint_rows, log_ema, alpha, LOSSES[loss])
    return value, new_log_ema.clone(), statistics


def dv_term_backward(grad: Tensor, scores: Tensor, joint_rows: int, statistics: Tensor) -> Tensor:
    """-grad / N for the N joint scores, grad * exp(t - log_normaliser) / M for the M marginal ones: [N + M]."""
    marginal = scores[joint_rows:].to(statistics.dtype)
    weight = torch.exp(marginal - statistics[2]) * grad / marginal.numel()
    joint = (-grad / joint_rows).expand(joint_rows)
    return torch.cat([joint, weight]).to(scores.dtype)


def all_pairs_backward(grad: Tensor, gradient: Tensor, inputs: list[Tensor]) -> Tensor:
    """The gradient of the loss times that of what it went into; the inputs say what it depends on."""
    return grad * gradient


_FALLBACKS: dict[str, Callable[..., Any]] = {
    "advance_key": reference.advance_key,
    "shuffle_index": reference.shuffle_index,
    "marginal_shuffle": reference.marginal_shuffle,
    "marginal_shuffle_backward": marginal_shuffle_backward,
    "pair": reference.pair,
    "pair_backward": pair_backward,
    "paired_first_layer": paired_first_layer,
    "paired_first_layer_backward": paired_first_layer_backward,
    "dv_term": dv_term,
    "dv_term_backward": dv_term_backward,
    "all_pairs": all_pairs_tiles.all_pairs,
    "all_pairs_backward": all_pairs_backward,
}

#: Ops whose way on a GPU is plain torch: large products, which it runs well.
_NO_CUDA_KERNEL = frozenset({"all_pairs", "all_pairs_backward"})


@functools.cache
def _warn_slow_cuda() -> None:
    warnings.warn(
        f"mine_fast has no CUDA kernels here ({_library.CUDA_MISSING}): CUDA tensors run on plain torch, slowly. "
        "Reinstall where nvcc and a CUDA build of torch are found; `mine-fast info` shows what was built.",
        stacklevel=2,
    )


def _with_warning(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any) -> Any:
        if any(isinstance(a, Tensor) and a.is_cuda for a in args):
            _warn_slow_cuda()
        return function(*args)

    return run


def register() -> None:
    """Register every fallback; called once, by `mine_fast.ops`."""
    for name, function in _FALLBACKS.items():
        registered = function if name in _NO_CUDA_KERNEL else _with_warning(function)
        torch.library.impl(f"mine_fast::{name}", "CompositeExplicitAutograd")(registered)
