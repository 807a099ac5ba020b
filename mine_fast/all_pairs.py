"""The loss of a critic on all pairs of a batch, in memory that does not grow with the pairs.

A perceptron that `ops.all_pairs_loss` knows goes through it. Any other critic is called on tiles, some rows of x with
all rows of y, and what it keeps for the backward is dropped after each tile and made again when its turn comes
(`torch.utils.checkpoint`, which repeats the random numbers of dropout too): two forwards and one backward of every
pair. Memory is that of a tile and of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mine_fast.bounds import fused_name, limited, marginal_value, trained_as_classifier
from mine_fast.critics import call_critic, check_layer_dtype, check_width, critic_layers, explaining
from mine_fast.layer_stack import read_critic
from mine_fast.noise import GaussianNoise
from mine_fast.ops.all_pairs import all_pairs_term
from mine_fast.ops.dv import dv_term
from mine_fast.reference import log_sum_exp, sum_dtype

__all__ = ["all_pairs_loss", "all_pairs_terms", "goes_by_tiles"]

#: Pairs that a critic is called on at once.
TILE_PAIRS = 16_384


def all_pairs_loss(
    critic: Callable[..., Tensor],
    method: str | None,
    x: Tensor,
    y: Tensor,
    loss: str,
    clip: float,
    log_ema: Tensor,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """The loss of the pairs (x_i, y_i) as joint and of all (x_i, y_j), j != i, as marginal ones.

    Args:
        critic: T(x, y) with method None, T(cat([x, y], 1)) with "concat".
        method: None or "concat".
        x: [B, dx]; more dimensions with method None.
        y: [B, dy].
        loss: one of `bounds.LOSSES`. The candidates of a row in "infonce" are all rows, its own among them.
        clip: of "smile".
        log_ema: moving average [] of "mine".
        alpha: see `ops.dv_loss`.

    Returns:
        loss [] and the new log_ema [], in float32 (float64 for float64 scores).

    Raises:
        ValueError: one row; a critic that does not fit, see `call_critic`, or that normalises over the rows of a call.
        TypeError: see `call_critic`.
    """
    if x.shape[0] < 2:
        raise ValueError(f"x and z need at least 2 rows: a batch of {x.shape[0]} has no marginal pairs")
    if (layers := _perceptron(critic, method, loss)) is not None:
        return explaining(_of_perceptron, layers, method, x, y, fused_name(loss), log_ema, alpha)
    _check_independent_rows(critic)
    return explaining(_of_tiles, critic, method, x, y, loss, clip, log_ema, alpha)


def goes_by_tiles(critic: object, method: str | None, loss: str) -> bool:
    """Whether a critic is called on tiles, each made again in the backward, and no op knows it as it is now."""
    return _perceptron(critic, method, loss) is None


def _perceptron(critic: object, method: str | None, loss: str) -> nn.Sequential | None:
    """The layers of a critic that the op computes as it is now: noise draws numbers only in training mode."""
    if fused_name(loss) is None:
        return None
    layers = critic_layers(critic, method)
    if layers is None or any(isinstance(m, GaussianNoise) and m.training and m.std > 0 for m in layers):
        return None
    return None if isinstance(read_critic(layers), str) else layers


def _of_perceptron(
    layers: nn.Sequential, method: str | None, x: Tensor, y: Tensor, loss: str, log_ema: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    stack = read_critic(layers)
    assert not isinstance(stack, str)
    linear = [module for module in layers if isinstance(module, nn.Linear)]
    check_width(linear[0], x.shape[1], y.shape[1])
    check_layer_dtype(linear[0], x)
    log_ema = log_ema.to(sum_dtype(x.dtype))
    weights, biases = [layer.weight for layer in linear], [layer.bias for layer in linear]
    return all_pairs_term(x, y, weights, biases, stack.codes[:-1], stack.slopes[:-1], log_ema, alpha, loss)[:2]


def _check_independent_rows(critic: object) -> None:
    for module in critic.modules() if isinstance(critic, nn.Module) else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"T has {type(module).__name__}, which normalises over the rows of a call; with marginals='all' T is "
                "called on tiles of pairs and would normalise each by itself; use LayerNorm, or marginals='shuffle'"
            )


def all_pairs_terms(
    critic: Callable[..., Tensor], method: str | None, x: Tensor, y: Tensor, loss: str, clip: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a loss needs of the pairs of `all_pairs_loss`, where these are not all that it is of.

    Args:
        critic: see `all_pairs_loss`.
        method: likewise.
        x: likewise.
        y: likewise.
        loss: likewise.
        clip: likewise.

    Returns:
        The joint scores [B]; log sum exp over groups of marginal pairs, [K] ("infonce": log mean exp over the
        candidates of each row, [B]); the sum of softplus over the marginal pairs, [], for losses that train a
        classifier. Differentiable, in float32 (float64 for float64 scores).

    Raises:
        ValueError, TypeError: as `all_pairs_loss`.
    """
    if (layers := _perceptron(critic, method, loss)) is not None:
        start = torch.full((), -math.inf, device=x.device)
        bound, _ = explaining(_of_perceptron, layers, method, x, y, "mine_biased", start, 1.0)
        joint = call_critic(critic, method, x, y).to(bound.dtype)
        return joint, (bound + joint.mean() + math.log(x.shape[0] * (x.shape[0] - 1)))[None], None
    _check_independent_rows(critic)
    joint, terms = explaining(_tile_terms, critic, method, x, y, loss, clip)
    if loss == "infonce":
        return joint, terms[0] - math.log(x.shape[0]), None
    return joint, terms[0], None if fused_name(loss) is not None else terms[1].sum()


def _of_tiles(
    critic: Callable[..., Tensor],
    method: str | None,
    x: Tensor,
    y: Tensor,
    loss: str,
    clip: float,
    log_ema: Tensor,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    rows = x.shape[0]
    joint, terms = _tile_terms(critic, method, x, y, loss, clip)
    if loss == "infonce":
        return (terms[0] - math.log(rows) - joint).mean(), log_ema
    level = log_sum_exp(terms[0], 0) - math.log(rows * (rows - 1))
    fused = fused_name(loss)
    if fused is not None:
        # The term of marginal scores is that of their log-mean-exp, as one score.
        scores = torch.cat([joint, level[None]])
        return dv_term(scores, rows, log_ema.to(joint.dtype), alpha, fused)[:2]
    return trained_as_classifier(joint, marginal_value(level, loss), terms[1].sum() / (rows * (rows - 1))), log_ema


def _tile_terms(
    critic: Callable[..., Tensor], method: str | None, x: Tensor, y: Tensor, loss: str, clip: float
) -> tuple[Tensor, Tensor]:
    """The joint scores [B] and, of every row of x, what `_row_terms` gives, [1 or 2, B]."""
    rows = x.shape[0]
    joint = call_critic(critic, method, x, y)
    joint = joint.to(sum_dtype(joint.dtype))

    def tile(x_rows: Tensor, y: Tensor, begin: int) -> Tensor:
        scores = call_critic(critic, method, *_every_pair(x_rows, y)).view(-1, rows)
        return _row_terms(scores.to(joint.dtype), begin, loss, clip)

    size = max(1, TILE_PAIRS // rows)
    keeps_nothing = torch.is_grad_enabled()
    buffers = _buffers(critic) if keeps_nothing else []
    terms = [
        checkpoint(_with_buffers_as_then(tile, buffers), part, y, begin, use_reentrant=False)
        if keeps_nothing
        else tile(part, y, begin)
        for begin, part in zip(range(0, rows, size), x.split(size), strict=True)
    ]
    return joint, torch.cat(terms, 1)


def _buffers(critic: Callable[..., Tensor]) -> list[tuple[nn.Module, str]]:
    """Where the buffers of a critic are, which a call in training mode may change."""
    if not isinstance(critic, nn.Module) or torch.compiler.is_compiling():
        return []
    found = [
        (module, name)
        for module in critic.modules()
        if module.training
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    if any(isinstance(module, torch.jit.ScriptModule) for module, _ in found):
        raise ValueError(
            "T is a scripted module with buffers, which its calls may change: marginals='all' calls it again in the "
            "backward, and cannot give them back what they held; use marginals='shuffle'"
        )
    return found


def _with_buffers_as_then(
    tile: Callable[..., Tensor], buffers: Sequence[tuple[nn.Module, str]]
) -> Callable[..., Tensor]:
    """A tile that computes the same when it is called again: with copies of the buffers as its first call found them.

    A critic that normalises by an estimate in a buffer (spectral norm) moves that from call to call.
    """
    if not buffers:
        return tile
    then: list[Tensor] = []

    def call(*arguments: Any) -> Tensor:
        if not then:
            then.extend(module.get_buffer(name).clone() for module, name in buffers)
            return tile(*arguments)
        now = [module.get_buffer(name) for module, name in buffers]
        for (module, name), value in zip(buffers, then, strict=True):
            module._buffers[name] = value.clone()
        try:
            return tile(*arguments)
        finally:
            for (module, name), value in zip(buffers, now, strict=True):
                module._buffers[name] = value

    return call


def _every_pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of x [a, ...] and y [B, ...] for each pair, [a * B, ...]; their gradients are sums, without atomics."""
    a, b = x.shape[0], y.shape[0]
    return x[:, None].expand(a, b, *x.shape[1:]).flatten(0, 1), y.expand(a, *y.shape).flatten(0, 1)


def _row_terms(scores: Tensor, begin: int, loss: str, clip: float) -> Tensor:
    """What a loss needs of scores [a, B] of the rows of x from `begin` on.

    Returns:
        [1, a]: log sum exp over the marginal pairs of each row ("infonce": and the joint one); for losses that train a
        classifier [2, a]: and the sum of softplus.
    """
    if loss == "infonce":
        return log_sum_exp(scores, 1)[None]
    x_row = torch.arange(begin, begin + scores.shape[0], device=scores.device)
    is_joint = x_row[:, None] == torch.arange(scores.shape[1], device=scores.device)
    levels = log_sum_exp(limited(scores, loss, clip).masked_fill(is_joint, -math.inf), 1)
    if fused_name(loss) is not None:
        return levels[None]
    return torch.stack([levels, -F.logsigmoid(-scores).masked_fill(is_joint, 0.0).sum(1)])
