"""How a critic T(x, y) is scored on joint and marginal pairs.

A critic is a module that gives every row of a batch one score. `paired_scores` takes the shortest way that leaves its
numbers as they are: a stack of layers that reads concatenated rows gets its first layer split over x and y (one
product per row instead of one per pair) and all pairs in one call; a critic that treats rows independently gets one
call on all pairs; anything else (batch normalisation, a function) is called for the joint and the marginal rows apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mine_fast import ops
from mine_fast.modules import is_plain
from mine_fast.noise import GaussianNoise
from mine_fast.separable import SeparableCritic

__all__ = [
    "activation_code",
    "all_scores",
    "call_critic",
    "check_layer_dtype",
    "check_width",
    "critic_layers",
    "explaining",
    "paired_scores",
    "score_matrix",
    "scores_all_pairs",
]

Result = TypeVar("Result")

#: Activation modules that the paired first layer computes, with the name and slope to pass it.
_ACTIVATIONS: dict[type[nn.Module], Callable[..., tuple[str, float]]] = {
    nn.ReLU: lambda m: ("relu", 0.0),
    nn.LeakyReLU: lambda m: ("leaky_relu", m.negative_slope),
    nn.ELU: lambda m: ("elu", m.alpha),
    nn.GELU: lambda m: ("gelu" if m.approximate == "none" else "gelu_tanh", 0.0),
    nn.SiLU: lambda m: ("silu", 0.0),
    nn.Tanh: lambda m: ("tanh", 0.0),
}

#: Modules that map every row on its own: one call on more rows changes no score, nor the distribution of a noisy one.
_ROW_WISE = (nn.Linear, nn.Identity, GaussianNoise, nn.LayerNorm, nn.Sigmoid, nn.Softplus, nn.Flatten, *_ACTIVATIONS)


def activation_code(module: object) -> tuple[int, float] | None:
    """The code (position in `ops.ACTIVATIONS`) and slope of an activation module, or None if it is no such module."""
    describe = _ACTIVATIONS.get(type(module))  # type: ignore[arg-type]
    if describe is None:
        return None
    name, slope = describe(module)
    return ops.ACTIVATIONS.index(name), slope


def critic_layers(critic: object, method: str | None) -> nn.Sequential | None:
    """The stack of row-wise layers by which a critic reads concatenated rows, or None if it is not such a critic."""
    if method != "concat" or type(critic) is not nn.Sequential or not len(critic):
        return None
    row_wise = all(type(module) in _ROW_WISE for module in critic)
    return critic if row_wise and all(map(is_plain, critic.modules())) else None


def scores_all_pairs(critic: object, method: str | None) -> bool:
    """Whether the scores of all pairs of a batch are one product: of a `SeparableCritic` as it is."""
    return method is None and type(critic) is SeparableCritic and all(map(is_plain, critic.modules()))


def call_critic(critic: Callable[..., Tensor], method: str | None, x: Tensor, y: Tensor) -> Tensor:
    """Scores [B] of the pairs (x_i, y_i).

    Raises:
        ValueError: the critic does not fit the widths or device of x and y, or gives more or less than one score a row.
        TypeError: the critic has another dtype than x and y.
    """
    return explaining(_call_critic, critic, method, x, y)


def _call_critic(critic: Callable[..., Tensor], method: str | None, x: Tensor, y: Tensor) -> Tensor:
    scores = critic(torch.cat([x, y], 1)) if method == "concat" else critic(x, y)
    return _one_score_per_row(scores, x.shape[0])


#: What torch says when a critic meets rows that it cannot read, and the error that is.
_MISFITS: dict[str, type[Exception]] = {
    "shapes cannot be multiplied": ValueError,
    "must match the size of tensor": ValueError,
    "must have the same dtype": TypeError,
    "on the same device": ValueError,
    "to have one of the following scalar types": TypeError,  # of an embedding: fit and optimize call T with floats
}


def explaining(
    route: Callable[..., Result], critic: Any, method: str | None, x: Tensor, y: Tensor, *rest: Any
) -> Result:
    """Run a route, turning torch's error about a misfit into one that names T and the data."""
    if torch.compiler.is_compiling():  # a graph has no place for the handler
        return route(critic, method, x, y, *rest)
    try:
        return route(critic, method, x, y, *rest)
    except TypeError as error:
        if method is None and "positional argument" in str(error):
            raise TypeError(
                f"T is called as T(x, z) and cannot take two arguments ({error}); method='concat' calls it as "
                "T(torch.cat([x, z], 1))"
            ) from error
        raise
    except RuntimeError as error:
        for text, kind in _MISFITS.items():
            if text in str(error):
                raise kind(
                    f"T does not fit the data: x is {_described(x)}, y is {_described(y)}, method={method!r}, "
                    f"and torch says: {error}"
                ) from error
        raise


def check_width(first: nn.Linear, *widths: int) -> None:
    """Refuse rows that the first layer of a critic on them, concatenated, cannot read."""
    if first.in_features != sum(widths):
        read = f"x and y have {widths[0]} + {widths[1]}" if len(widths) == 2 else f"the rows have {widths[0]}"
        raise ValueError(f"T does not fit the data: its first layer reads {first.in_features} columns, {read}")


def check_layer_dtype(layer: nn.Linear, x: Tensor) -> None:
    """Refuse rows of another dtype than a layer's, unless autocast sees to it."""
    if layer.weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"T does not fit the data: its parameters are {layer.weight.dtype}, x is {x.dtype}")


def _described(rows: Tensor) -> str:
    return f"{list(rows.shape)} {rows.dtype} on {rows.device}"


def _one_score_per_row(scores: Tensor, rows: int) -> Tensor:
    if not isinstance(scores, Tensor) or tuple(scores.shape) not in ((rows,), (rows, 1)):
        shape = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"T must give one score per row, shape [{rows}] or [{rows}, 1], got {shape}")
    return scores.reshape(-1)


def all_scores(critic: SeparableCritic, x: Tensor, y: Tensor) -> Tensor:
    """Scores of the joint rows and of all other pairs, [B + B (B - 1)], joint first.

    Raises:
        ValueError, TypeError: a critic that does not fit; see `call_critic`.
    """
    return explaining(lambda critic, method, x, y: critic.all_pairs(x, y), critic, None, x, y)


def score_matrix(critic: SeparableCritic, x: Tensor, y: Tensor) -> Tensor:
    """Scores [B, B] of every row of x with every row of y, the joint ones on the diagonal.

    Raises:
        ValueError, TypeError: a critic that does not fit; see `call_critic`.
    """

    def product(critic: SeparableCritic, method: None, x: Tensor, y: Tensor) -> Tensor:
        f, g = critic.factors(x, y)
        return f @ g.T

    return explaining(product, critic, None, x, y)


def paired_scores(
    critic: Callable[..., Tensor], method: str | None, x: Tensor, y: Tensor, key: Tensor, shuffles: int
) -> Tensor:
    """Scores of the joint rows and of their marginal shuffles, [(1 + S) * B], joint first.

    Args:
        critic: T(x, y) with method None, T(cat([x, y], 1)) with "concat".
        method: None or "concat".
        x: [B, dx]; more dimensions with method None.
        y: [B, dy].
        key: from `ops.shuffle_key`.
        shuffles: S.

    Raises:
        ValueError, TypeError: one row, or a critic that does not fit; see `call_critic`.
    """
    return explaining(_paired_scores, critic, method, x, y, key, shuffles)


def _paired_scores(
    critic: Callable[..., Tensor], method: str | None, x: Tensor, y: Tensor, key: Tensor, shuffles: int
) -> Tensor:
    rows = x.shape[0]
    layers = critic_layers(critic, method)
    if layers is None:
        shuffled = ops.marginal_shuffle(y, key, shuffles).flatten(0, 1)  # [S * B, ...]
        joint = _call_critic(critic, method, x, y)
        repeated = x if shuffles == 1 else x.repeat(shuffles, *(1,) * (x.ndim - 1))
        return torch.cat([joint, _call_critic(critic, method, repeated, shuffled)])
    first = layers[0]
    if not isinstance(first, nn.Linear):
        return _one_score_per_row(layers(ops.pair(x, y, key, shuffles)), (1 + shuffles) * rows)
    check_width(first, x.shape[1], y.shape[1])
    check_layer_dtype(first, x)
    activation, slope, rest = "identity", 0.0, 1
    if len(layers) > 1 and type(layers[1]) in _ACTIVATIONS:
        (activation, slope), rest = _ACTIVATIONS[type(layers[1])](layers[1]), 2
    hidden = ops.paired_first_layer(x, y, first.weight, first.bias, key, shuffles, activation, slope)
    for layer in list(layers)[rest:]:
        hidden = layer(hidden)
    return _one_score_per_row(hidden, (1 + shuffles) * rows)
