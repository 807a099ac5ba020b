"""Stacks of Linear layers as the native engine and the op on all pairs know them: widths, activations, noise."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from mine_fast.critics import activation_code
from mine_fast.noise import GaussianNoise

__all__ = ["Stack", "read_stack"]


@dataclass
class Stack:
    """What lies between the Linear layers of a critic, an entry for each hidden layer."""

    input_noise: float = 0.0
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
    if before is not nn.Linear or layers[-1].out_features != 1:
        return "T does not end in a Linear layer with one output"
    if len(stack.codes) == 1:
        return "T has no hidden layer"
    return Stack(stack.input_noise, stack.codes[:-1], stack.slopes[:-1], stack.noise[:-1])
