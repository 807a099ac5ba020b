"""Stacks of Linear layers as the native engine and the op on all pairs know them: widths, activations, noise."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from mine_fast.critics import activation_code
from mine_fast.noise import GaussianNoise

__all__ = ["Stack", "read_critic", "read_stack"]


@dataclass
class Stack:
    """Linear layers and what lies between them, an entry for each; the last is linear.

    Attributes:
        input_noise: standard deviation of noise in front of the first.
        widths: outputs of each layer.
        codes: of the activation behind each.
        slopes: of the activations.
        noise: standard deviation of the noise behind each.
    """

    input_noise: float = 0.0
    widths: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    slopes: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)


def read_stack(layers: nn.Sequential) -> Stack | str:
    """[noise], then Linear, [activation], [noise] any number of times, then Linear; or why it is not that."""
    stack = Stack()
    before: type[nn.Module] | None = None
    for module in layers:
        kind = type(module)
        if isinstance(module, nn.Linear):
            if module.bias is None:
                return "a Linear layer of T has no bias"
            stack.widths.append(module.out_features)
            stack.codes.append(0)
            stack.slopes.append(0.0)
            stack.noise.append(0.0)
        elif isinstance(module, GaussianNoise) and before is not GaussianNoise:
            if stack.noise:
                stack.noise[-1] = module.std
            else:
                stack.input_noise = module.std
        elif before is nn.Linear and (code := activation_code(module)) is not None:
            stack.codes[-1], stack.slopes[-1] = code
        else:
            return (
                f"T has {kind.__name__} where the engine knows Linear, one activation after it, and GaussianNoise "
                "after that or in front"
            )
        before = kind
    return stack if before is nn.Linear else "T does not end in a Linear layer"


def read_critic(layers: nn.Sequential) -> Stack | str:
    """A stack of layers that is a critic of pairs: with a hidden layer, and one output."""
    stack = read_stack(layers)
    if isinstance(stack, str):
        return stack
    if stack.widths[-1] != 1:
        return "T does not end in a Linear layer with one output"
    return stack if len(stack.widths) > 1 else "T has no hidden layer"
