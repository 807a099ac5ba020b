"""Critics T(x, y): the default one, and how any critic is scored on joint and marginal pairs.

A critic is a module that gives every row of a batch one score. `paired_scores` takes the shortest way that leaves its
numbers as they are: a stack of layers that reads concatenated rows gets its first layer split over x and y (one
product per row instead of one per pair) and all pairs in one call; a critic that treats rows independently gets one
call on all pairs; anything else (batch normalisation, a function) is called for the joint and the marginal rows apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mine_fast import ops
from mine_fast.checks import as_integer
from mine_fast.inputs import QuantileInputs
from mine_fast.modules import is_plain
from mine_fast.noise import GaussianNoise

__all__ = ["MLPCritic", "call_critic", "critic_layers", "paired_scores"]

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


class MLPCritic(nn.Module):
    """The default critic: normal-quantile inputs and a perceptron on the concatenated features.

    Args:
        hidden: widths of the hidden layers.
        activation: class of the activation between them.

    Raises:
        ValueError, TypeError: no widths, or not widths; not a class of modules.

    The network is built by `prepare`, which learns the inputs from training rows and so knows their widths.

    >>> import torch, mine_fast
    >>> critic = mine_fast.MLPCritic().prepare(torch.randn(100, 3), torch.randn(100, 1))
    >>> critic(torch.randn(5, 3), torch.randn(5, 1)).shape
    torch.Size([5, 1])
    """

    def __init__(self, hidden: Sequence[int] = (64, 64), activation: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.hidden = tuple(as_integer("hidden", width, least=1) for width in hidden)
        if not self.hidden:
            raise ValueError("hidden must name at least one width, got none: without a hidden layer T is additive")
        if not (isinstance(activation, type) and issubclass(activation, nn.Module)):
            raise TypeError(f"activation must be a class of modules such as torch.nn.SiLU, got {activation!r}")
        self.activation = activation
        self.x_inputs = QuantileInputs()
        self.y_inputs = QuantileInputs()
        self.layers = nn.Sequential()

    def prepare(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> MLPCritic:
        """Learn the inputs from training rows x [N, dx], y [N, dy] and make the network for them.

        The weights are drawn from `generator`, on the CPU; None is torch's global one.
        """
        self.x_inputs.fit(x)
        self.y_inputs.fit(y)
        self._make_layers(self.x_inputs.width + self.y_inputs.width, generator)
        return self.to(x.device)

    def _make_layers(self, features: int, generator: torch.Generator | None = None) -> None:
        widths = [features, *self.hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [_linear(fan_in, fan_out, generator), self.activation()]
        self.layers = nn.Sequential(*layers, _linear(widths[-1], 1, generator))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A critic that was not prepared takes its widths from the state.
        weights = [value for name, value in state_dict.items() if re.fullmatch(prefix + r"layers\.\d+\.weight", name)]
        if not len(self.layers) and weights:
            self.hidden = tuple(weight.shape[0] for weight in weights[:-1])
            self._make_layers(weights[0].shape[1])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def features(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What the network reads of x [N, dx] and y [N, dy]."""
        if not len(self.layers):
            raise ValueError("T: the default critic has no network before prepare(x, y) or fit(x, y)")
        return self.x_inputs(x), self.y_inputs(y)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores [N, 1] of the pairs (x_i, y_i)."""
        return self.layers(torch.cat(self.features(x, y), 1))


def _linear(fan_in: int, fan_out: int, generator: torch.Generator | None) -> nn.Linear:
    """A Linear layer with torch's own initial distribution, uniform within 1 / sqrt(fan_in), from a generator."""
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, device="cpu", dtype=torch.float32)
    bound = fan_in**-0.5
    nn.init.uniform_(layer.weight, -bound, bound, generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator)
    return layer


def critic_layers(critic: object, method: str | None) -> nn.Sequential | None:
    """The stack of row-wise layers by which a critic reads concatenated rows, or None if it is not such a critic."""
    if method != "concat" or type(critic) is not nn.Sequential or not len(critic):
        return None
    row_wise = all(type(module) in _ROW_WISE for module in critic)
    return critic if row_wise and all(map(is_plain, critic.modules())) else None


def call_critic(critic: Callable[..., Tensor], method: str | None, x: Tensor, y: Tensor) -> Tensor:
    """Scores [B] of the pairs (x_i, y_i).

    Raises:
        ValueError: the critic does not fit the widths or device of x and y, or gives more or less than one score a row.
        TypeError: the critic has another dtype than x and y.
    """
    return _explaining(_call_critic, critic, method, x, y)


def _call_critic(critic: Callable[..., Tensor], method: str | None, x: Tensor, y: Tensor) -> Tensor:
    scores = critic(torch.cat([x, y], 1)) if method == "concat" else critic(x, y)
    return _one_score_per_row(scores, x.shape[0])


#: What torch says when a critic meets rows that it cannot read, and the error that is.
_MISFITS: dict[str, type[Exception]] = {
    "shapes cannot be multiplied": ValueError,
    "must match the size of tensor": ValueError,
    "must have the same dtype": TypeError,
    "on the same device": ValueError,
}


def _explaining(
    route: Callable[..., Tensor], critic: Any, method: str | None, x: Tensor, y: Tensor, *rest: Any
) -> Tensor:
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


def check_width(first: nn.Linear, x_width: int, y_width: int) -> None:
    """Refuse rows that the first layer of a critic on concatenated rows cannot read."""
    if first.in_features != x_width + y_width:
        raise ValueError(
            f"T does not fit the data: its first layer reads {first.in_features} columns, "
            f"x and y have {x_width} + {y_width}"
        )


def _described(rows: Tensor) -> str:
    return f"{list(rows.shape)} {rows.dtype} on {rows.device}"


def _one_score_per_row(scores: Tensor, rows: int) -> Tensor:
    if not isinstance(scores, Tensor) or tuple(scores.shape) not in ((rows,), (rows, 1)):
        shape = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"T must give one score per row, shape [{rows}] or [{rows}, 1], got {shape}")
    return scores.reshape(-1)


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
    return _explaining(_paired_scores, critic, method, x, y, key, shuffles)


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
    if first.weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"T does not fit the data: its parameters are {first.weight.dtype}, x is {x.dtype}")
    activation, slope, rest = "identity", 0.0, 1
    if len(layers) > 1 and type(layers[1]) in _ACTIVATIONS:
        (activation, slope), rest = _ACTIVATIONS[type(layers[1])](layers[1]), 2
    hidden = ops.paired_first_layer(x, y, first.weight, first.bias, key, shuffles, activation, slope)
    for layer in list(layers)[rest:]:
        hidden = layer(hidden)
    return _one_score_per_row(hidden, (1 + shuffles) * rows)
