"""Perceptrons: Linear layers with an activation between them, drawn from a generator of one's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from mine_fast.checks import as_integer

__all__ = ["checked_layers", "linear", "perceptron", "widths_in_state"]


def perceptron(
    features: int,
    hidden: Sequence[int],
    activation: type[nn.Module],
    generator: torch.Generator | None = None,
    outputs: int = 1,
) -> nn.Sequential:
    """Linear layers of these widths with an activation between them, on the CPU in float32.

    Weights are torch's own initial distribution, uniform within 1 / sqrt(fan_in), drawn from the generator.
    """
    widths = [features, *hidden]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [linear(fan_in, fan_out, generator), activation()]
    return nn.Sequential(*layers, linear(widths[-1], outputs, generator))


def linear(fan_in: int, fan_out: int, generator: torch.Generator | None) -> nn.Linear:
    """One layer of those."""
    layer: nn.Linear = _Undrawn(fan_in, fan_out, device="cpu", dtype=torch.float32)
    layer.__class__ = nn.Linear  # type: ignore[assignment]
    bound = fan_in**-0.5
    nn.init.uniform_(layer.weight, -bound, bound, generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator)
    return layer


class _Undrawn(nn.Linear):
    """A layer before its weights are drawn.

    torch's own constructor draws them from its global generator. `skip_init`, which does not, takes 0.5 ms a layer, and
    half a second for the first: it passes by a meta device, which imports much of torch.
    """

    def reset_parameters(self) -> None:
        pass


def widths_in_state(state_dict: dict[str, Any], prefix: str) -> list[int]:
    """Inputs, hidden widths and outputs of a perceptron in a state, `prefix` a pattern; [] if it is none."""
    weights = [value for name, value in state_dict.items() if re.fullmatch(prefix + r"\d+\.weight", name)]
    return [weights[0].shape[1], *(weight.shape[0] for weight in weights)] if weights else []


def checked_layers(hidden: Sequence[int], activation: object) -> tuple[int, ...]:
    """The widths as a tuple.

    Raises:
        ValueError, TypeError: no widths, or not widths; not a class of modules.
    """
    widths = tuple(as_integer("hidden", width, least=1) for width in hidden)
    if not widths:
        raise ValueError("hidden must name at least one width, got none: without a hidden layer T is additive")
    if not (isinstance(activation, type) and issubclass(activation, nn.Module)):
        raise TypeError(f"activation must be a class of modules such as torch.nn.SiLU, got {activation!r}")
    return widths
