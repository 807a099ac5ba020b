"""What an argument was, in a few words, for error messages."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import numpy as np
from torch import Tensor

__all__ = ["WANTED", "describe", "is_pandas"]

WANTED = "an array, tensor, DataFrame or list of real numbers, [N] or [N, d]"


def describe(value: object) -> str:
    """Say in a few words what an argument was."""
    if isinstance(value, Tensor):
        if value.is_nested:
            return f"a nested {value.dtype} tensor of {value.size(0)} rows"
        return f"a {value.dtype} tensor of shape {list(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"a numpy array of dtype {value.dtype} and shape {list(value.shape)}"
    if is_pandas(value):
        return f"a {type(value).__name__} of shape {list(value.shape)}"  # type: ignore[attr-defined]
    if isinstance(value, (str, bytes, numbers.Number, type(None))):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    if isinstance(value, Sequence):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an object of type {type(value).__module__}.{type(value).__qualname__}"


def is_pandas(value: object) -> bool:
    """Whether a value is a DataFrame or Series: by what it can do, not by its class, as pandas is no dependency."""
    return hasattr(value, "iloc") and hasattr(value, "to_numpy")
