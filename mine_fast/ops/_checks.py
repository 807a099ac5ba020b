"""What the wrappers check, and refuse by name, before a kernel sees its arguments."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor

#: What the kernels compute with.
FLOATING = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def check_integer(name: str, value: object) -> None:
    if type(value) is int:  # asking an abstract class takes longer than some kernels
        return
    if isinstance(value, bool) or not isinstance(value, (numbers.Integral, torch.SymInt)):
        raise TypeError(f"{name} must be an integer, got {describe(value)}")


def check_number(name: str, value: object) -> None:
    if type(value) is float:
        return
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, torch.SymFloat)):
        raise TypeError(f"{name} must be a number, got {describe(value)}")


def check_slope(value: object) -> None:
    check_number("slope", value)
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f"slope must be finite, got {value}")


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
    """What came, for an error message."""
    if not isinstance(value, Tensor):
        return f"{type(value).__name__} {value!r}"
    if value.is_nested:  # asking for its shape can be an error of its own
        return f"a nested {value.dtype} tensor on {value.device}"
    layout = "" if value.layout is torch.strided else f" {value.layout}"
    return f"a{layout} {value.dtype} tensor of shape {list(value.shape)} on {value.device}"


def check_dense(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {describe(tensor)}")
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got {describe(tensor)}")


def check_floating(*, one_dtype: bool = True, **tensors: Tensor) -> None:
    """Refuse what the kernels cannot take: not dense, not of a floating type, or two devices or dtypes at once.

    Under autocast, which brings the operands of a matrix product to one dtype itself, pass one_dtype=False.
    """
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        check_dense(name, tensor)
        if tensor.dtype not in FLOATING:
            raise TypeError(
                f"{name} must be a floating-point tensor, got {describe(tensor)}; the kernels take 16, 32 and 64 bits"
            )
        if tensor is first:
            continue
        if one_dtype and tensor.dtype != first.dtype:
            raise TypeError(f"{name} must have the dtype of {first_name}, {first.dtype}, got {tensor.dtype}")
        if tensor.device != first.device:
            raise ValueError(f"{name} must be on the device of {first_name}, {first.device}, got {tensor.device}")


def check_two_dimensional(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(f"x and y must be [B, dx] and [B, dy], got shapes {list(x.shape)} and {list(y.shape)}")
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"x and y must have equally many rows, got {x.shape[0]} and {y.shape[0]}")
