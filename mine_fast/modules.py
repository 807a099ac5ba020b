"""Handling the caller's modules: what they do when called, the mode they are in, the weights they came with."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

__all__ = ["FittedBuffers", "StartingState", "copied_state", "has_parameter_hooks", "in_mode", "is_plain", "kept_state"]


def is_plain(module: nn.Module) -> bool:
    """Whether calling a module does what its class says and no more: it has no hooks and no `forward` of its own."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and "forward" not in vars(module)


def has_parameter_hooks(parameter: nn.Parameter) -> bool:
    """Whether something is called when the gradient of a parameter is computed."""
    return bool(parameter._backward_hooks) or bool(getattr(parameter, "_post_accumulate_grad_hooks", None))


@contextlib.contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put a module into training or evaluation mode within, and give every part its own mode back afterwards."""
    before = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, mode in before:
            part.training = mode


def copied_state(module: nn.Module) -> dict[str, Any]:
    """The state of a module, which training does not change."""
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in module.state_dict().items()
    }


def kept_state(module: nn.Module) -> Callable[[], None]:
    """Remember the state of a module; what puts it back."""
    state = copied_state(module)

    def put_back() -> None:
        module.load_state_dict(state)

    return put_back


class FittedBuffers(nn.Module):
    """A module whose buffers have the sizes of the data that it was fitted to; a state loads whatever those are."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self.named_buffers():
            if prefix + name in state_dict:
                setattr(self, name, buffer.new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


class StartingState:
    """The state of a critic before it was trained on rows that a later fit may hold out, for that fit to start from.

    It counts while the critic is as that training left it: one that was loaded or trained otherwise since starts from
    itself.

    Attributes:
        state: before the training.
        left: after it.
    """

    def __init__(self, critic: nn.Module) -> None:
        self.state = self.left = copied_state(critic)

    def leave(self, critic: nn.Module) -> None:
        """Note how the training left the critic."""
        self.left = copied_state(critic)

    def counts_for(self, critic: nn.Module) -> bool:
        """Whether a critic is as it was left, in whatever dtype and on whatever device it is now."""
        state = critic.state_dict()
        return state.keys() == self.left.keys() and all(
            _same(value, self.left[name]) for name, value in state.items() if isinstance(value, Tensor)
        )


def _same(value: Tensor, left: Any) -> bool:
    """Whether a tensor holds the values of another, NaN included, up to its own dtype."""
    if not isinstance(left, Tensor) or left.shape != value.shape:
        return False
    left = left.to(value)
    return bool(((value == left) | ((value != value) & (left != left))).all())
