"""Which way an op is called: as a node of ours, below autograd, or as the registered op.

`torch.library.register_autograd` runs Python at every call, also where nothing is differentiated. On a CPU that costs a
small op several times its own time (benchmarks/test_op_overhead.py), so eager calls go around it: to the kernel itself
if no input needs a gradient, else through an `autograd.Function` of ours. The registered op is for graphs, which cannot
trace into that, and for autocast, whose casts must be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "autocast_enabled",
    "backward_kernel",
    "in_eager_mode",
    "kernel",
    "needs_gradient",
    "refuse_second_derivative",
]


def autocast_enabled(device_type: str) -> bool:
    """`torch.is_autocast_enabled`, which is an error for the device of shapes without data."""
    return device_type != "meta" and torch.is_autocast_enabled(device_type)


def in_eager_mode(tensor: Tensor) -> bool:
    """Whether to go around the registered autograd of an op.

    Not inside `torch.func`: a tensor of `vmap` does not say whether it needs a gradient.
    """
    return not (
        torch.compiler.is_compiling()
        or autocast_enabled(tensor.device.type)
        or torch._C._are_functorch_transforms_active()
    )


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether a result of these tensors is part of a graph, backward or (dual tensors) forward."""
    if forward_ad._current_level >= 0:
        return True
    if torch.is_grad_enabled():
        for t in tensors:
            if t is not None and t.requires_grad:
                return True
    return False


def kernel(op: Callable[..., Any], *arguments: Any) -> Any:
    """Call an op below autograd: its result is a constant to it."""
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def backward_kernel(op: Callable[..., Any], *arguments: Any) -> Any:
    """Call a backward op: through its own autograd where that is wanted (create_graph=True), else the kernel alone."""
    return op(*arguments) if torch.is_grad_enabled() else kernel(op, *arguments)


def refuse_second_derivative(name: str) -> Any:
    """The backward of a backward that has none."""

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(
            f"mine_fast.ops.{name} can be differentiated once; "
            f"for second derivatives use mine_fast.reference, the same in plain torch"
        )

    return refuse
