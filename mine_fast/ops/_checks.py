"""What the wrappers check, and refuse by name, before a kernel sees its arguments."""

from __future__ import annotations

import numbers
from typing import Any

import torch
from torch import Tensor


def check_integer(name: str, value: object) -> None:
    if not isinstance(value, (numbers.Integral, torch.SymInt)):
        raise TypeError(f"{name} must be an integer, got {describe(value)}")


def check_key(key: Tensor) -> None:
    if not isinstance(key, Tensor) or key.dtype != torch.int64 or key.numel() != 2:
        raise TypeError(f"key must be an int64 tensor (seed, offset) from shuffle_key(), got {describe(key)}")


def check_shuffles(key: Tensor, rows: int, shuffles: int, device: torch.device | None = None) -> None:
    check_key(key)
    if device is not None and key.device != device:
        raise ValueError(f"key must be on the device of the data, {device}, got {describe(key)}")
    check_integer("shuffles", shuffles)
    if shuffles < 1:
        raise ValueError(f"shuffles must be at least 1, got {shuffles}")
    if rows == 1:
        raise ValueError("a batch of one row cannot be shuffled: it has no other row to meet; got 1 row")


def describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {list(value.shape)} on {value.device}"
    return f"{type(value).__name__} {value!r}"


def check_floating(*, one_dtype: bool = True, **tensors: Tensor) -> None:
    """Refuse what the kernels cannot take: not a real floating tensor, or two devices or dtypes at once.

    Under autocast, which brings the operands of a matrix product to one dtype itself, pass one_dtype=False.
    """
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch tensor, got {describe(tensor)}")
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{name} must be a floating-point tensor, got {describe(tensor)}")
        if one_dtype and tensor.dtype != first.dtype:
            raise TypeError(f"{name} must have the dtype of {first_name}, {first.dtype}, got {tensor.dtype}")
        if tensor.device != first.device:
            raise ValueError(f"{name} must be on the device of {first_name}, {first.device}, got {tensor.device}")


def check_two_dimensional(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(f"x and y must be [B, dx] and [B, dy], got shapes {list(x.shape)} and {list(y.shape)}")
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"x and y must have equally many rows, got {x.shape[0]} and {y.shape[0]}")


def in_eager_mode(tensor: Tensor) -> bool:
    """Whether to run an op as an `autograd.Function` of ours.

    Behind `register_autograd` a small op costs 20 us more forward and 35 us more backward, a tenth of a training step.
    The registered op is for graphs, which cannot trace into the other, and for autocast, whose casts must be seen.
    """
    return not torch.compiler.is_compiling() and not torch.is_autocast_enabled(tensor.device.type)


def refuse_second_derivative(name: str) -> Any:
    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(
            f"mine_fast.ops.{name} can be differentiated once; "
            f"for second derivatives use mine_fast.reference, the same in plain torch"
        )

    return refuse
