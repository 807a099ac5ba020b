"""Arrays of any make, as tensors the rest of the package can trust: real, finite, a row per observation."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "MINIMUM_ROWS",
    "WANTED",
    "alike",
    "as_floating",
    "as_pair",
    "as_samples",
    "cast",
    "check_finite",
    "describe",
]

#: A single row has no other row to be paired with.
MINIMUM_ROWS = 2

#: For error messages.
WANTED = "an array, tensor, DataFrame or list of real numbers, [N] or [N, d]"


def as_samples(value: object, name: str, *, allow_nd: bool = False) -> Tensor:
    """Check one sample and return it as a floating tensor with a row per observation.

    Args:
        value: numpy array, torch tensor, pandas DataFrame or Series, or nested list of numbers, [N] or [N, d].
        name: what error messages call it.
        allow_nd: also accept [N, d1, d2, ...] (images, sequences), kept in that shape.

    Returns:
        [N, d] ([N, 1] for 1-D input), detached, on the device it came on; it may share memory with `value`. float64
        and float32 are kept (ranks must not lose precision), half and bfloat16 become float32, integers and booleans
        float64.

    Raises:
        TypeError: None, text, objects, complex numbers, dates, a dict, or anything else that is no array of numbers.
        ValueError: 0-d, more than 2-D, no columns, fewer than two rows, NaN or infinite values.

    >>> as_samples([1, 2, 3], "x")
    tensor([[1.],
            [2.],
            [3.]], dtype=torch.float64)
    >>> as_samples([0.5, float("nan")], "x")
    Traceback (most recent call last):
    ...
    ValueError: x must be finite, got 1 value that is NaN or infinite, at row 1, column 0 (nan); drop or impute it
    """
    samples = as_floating(value, name)
    _check_shape(samples, name, value, allow_nd)
    samples = samples.reshape(-1, 1) if samples.ndim == 1 else samples
    if math.prod(samples.shape[1:]) == 0:
        raise ValueError(f"{name} must have at least one column, got {describe(value)}")
    if len(samples) < MINIMUM_ROWS:
        hint = ": rows are observations, is it transposed?" if len(samples) and samples.shape[-1] > 1 else ""
        raise ValueError(f"{name} needs at least {MINIMUM_ROWS} rows, got {len(samples)} ({describe(value)}){hint}")
    check_finite(samples, name)
    return samples


def as_pair(x: object, y: object, *, allow_nd: bool = False) -> tuple[Tensor, Tensor]:
    """Check two samples whose rows belong together.

    Args:
        x: [N] or [N, dx], anything `as_samples` takes.
        y: [N] or [N, dy], the same.
        allow_nd: see `as_samples`.

    Returns:
        x [N, dx] and y [N, dy] on one device, in the wider of their dtypes.

    Raises:
        TypeError: as `as_samples`, or two tensors of different floating dtypes.
        ValueError: as `as_samples`, or unequal lengths, or two devices.

    >>> x, y = as_pair([0.1, 0.2, 0.3], [[1, 2], [3, 4], [5, 6]])
    >>> x.shape, y.shape
    (torch.Size([3, 1]), torch.Size([3, 2]))
    >>> as_pair([1.0, 2.0], [1.0, 2.0, 3.0])
    Traceback (most recent call last):
    ...
    ValueError: x and y must have the same number of rows, got 2 rows in x and 3 in y
    """
    tensors = [value for value in (x, y) if isinstance(value, Tensor) and value.is_floating_point()]
    if len(tensors) == 2 and tensors[0].dtype != tensors[1].dtype:
        raise TypeError(
            f"x and y must be tensors of one dtype, got {tensors[0].dtype} for x and {tensors[1].dtype} for y; "
            f"convert one with .to(dtype)"
        )
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        _check_one_device(x, y)  # before the values: those of a meta tensor cannot be looked at
    x_samples = as_samples(x, "x", allow_nd=allow_nd)
    y_samples = as_samples(y, "y", allow_nd=allow_nd)
    if len(x_samples) != len(y_samples):
        raise ValueError(
            f"x and y must have the same number of rows, got {len(x_samples)} rows in x and {len(y_samples)} in y"
        )
    return alike(x_samples, y_samples)


def alike(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """On one device, which is checked, and in the wider of the two dtypes."""
    _check_one_device(x, y)
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)


def _check_one_device(x: Tensor, y: Tensor) -> None:
    if x.device != y.device:
        raise ValueError(
            f"x and y must be on one device, got x on {x.device} and y on {y.device}; move one with .to(device)"
        )


def cast(samples: Tensor, like: Tensor, name: str) -> Tensor:
    """Finite samples in the dtype and on the device of a critic's parameters.

    Raises:
        ValueError: values beyond that dtype.
    """
    result = samples.to(like)
    if result.dtype != samples.dtype and not bool(torch.isfinite(result).all()):
        raise ValueError(f"{name} has values beyond {like.dtype}, the dtype of T's parameters; scale it")
    return result


def describe(value: object) -> str:
    """Say in a few words what an argument was, for error messages."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {list(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"a numpy array of dtype {value.dtype} and shape {list(value.shape)}"
    if _is_pandas(value):
        return f"a {type(value).__name__} of shape {list(value.shape)}"  # type: ignore[attr-defined]
    if isinstance(value, (str, bytes, numbers.Number, type(None))):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    if isinstance(value, Sequence):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an object of type {type(value).__module__}.{type(value).__qualname__}"


def check_finite(samples: Tensor, name: str, rows: Tensor | None = None) -> None:
    """Refuse NaN and infinity.

    Args:
        samples: floating [N, ...].
        name: what error messages call it.
        rows: int64 [N], the numbers that error messages call the rows by; by default their positions.

    Raises:
        ValueError: with the number of such values and the place of the first.
    """
    if samples.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(samples))).all()):
        return  # aminmax propagates NaN, needs no mask, and reads the data once
    bad = ~torch.isfinite(samples)
    count = int(bad.sum())
    first = [int(i) for i in bad.nonzero()[0]]
    found = float(samples[tuple(first)])
    row = first[0] if rows is None else int(rows[first[0]])
    place = f"row {row}, column {first[1]}" if len(first) == 2 else f"index {[row, *first[1:]]}"
    amount = (
        "1 value that is NaN or infinite, at" if count == 1 else f"{count} values that are NaN or infinite, first at"
    )
    raise ValueError(
        f"{name} must be finite, got {amount} {place} ({found}); drop or impute {'it' if count == 1 else 'them'}"
    )


def _check_shape(samples: Tensor, name: str, value: object, allow_nd: bool) -> None:
    if samples.ndim == 0:
        raise ValueError(f"{name} must be [N] or [N, d], got a single number, {describe(value)}")
    if samples.ndim > 2 and not allow_nd:
        raise ValueError(f"{name} must be [N] or [N, d], got {describe(value)}; flatten it with .reshape(len(x), -1)")


def _is_pandas(value: object) -> bool:
    # By what it can do, not by its class: pandas is no dependency.
    return hasattr(value, "iloc") and hasattr(value, "to_numpy")


def as_floating(value: object, name: str) -> Tensor:
    """Convert to float32 or float64 as `as_samples` does, of whatever shape and values.

    Raises:
        TypeError: what holds no real numbers.
        ValueError: rows of unequal length.
    """
    if isinstance(value, (list, tuple)) and value and all(isinstance(row, Tensor) for row in value):
        try:
            value = torch.stack(list(value))
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"{name} must have rows of one shape and dtype, got {describe(value)} tensors that differ"
            ) from error
    if isinstance(value, Tensor):
        return _from_tensor(value, name)
    return torch.from_numpy(_from_array(_as_array(value, name), name))


def _from_tensor(value: Tensor, name: str) -> Tensor:
    if value.is_complex():
        raise TypeError(f"{name} must be real, got {describe(value)}; stack its .real and .imag as columns")
    if value.layout != torch.strided or value.is_quantized:
        raise TypeError(f"{name} must be a dense tensor, got {describe(value)} with layout {value.layout}")
    if value.is_inference():
        value = value.clone()  # to an ordinary tensor, which a backward may save
    if value.dtype in (torch.float32, torch.float64):
        return value.detach()
    return value.detach().to(torch.float32 if value.is_floating_point() else torch.float64)


def _as_array(value: object, name: str) -> np.ndarray:
    if _is_pandas(value):
        return _from_pandas(value, name)
    if isinstance(value, np.ma.MaskedArray):
        return np.ma.filled(value.astype(np.float64), np.nan) if value.dtype.kind in "biuf" else value.data
    is_text = isinstance(value, (str, bytes, bytearray))
    if is_text or not (hasattr(value, "__array__") or isinstance(value, (Sequence, numbers.Number))):
        raise TypeError(f"{name} must be {WANTED}, got {describe(value)}")
    try:
        return np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} must have rows of one length, got {describe(value)} ({error})") from error


def _from_pandas(value: Any, name: str) -> np.ndarray:
    """Convert by dtype kind, so that nullable and Arrow columns count as the numbers they hold, their gaps as NaN."""
    is_frame = hasattr(value, "columns")
    if value.size == 0:
        return np.empty(value.shape)
    columns = zip(value.columns, value.dtypes, strict=True) if is_frame else [(value.name, value.dtype)]
    narrow = True
    for label, dtype in columns:
        kind = getattr(dtype, "kind", "O")
        if kind not in "biuf":
            hints = {"M": "; subtract a start and convert to seconds", "m": "; convert it to seconds"}
            hint = hints.get(kind, "; encode it as numbers, for example with pandas.factorize")
            raise TypeError(f"{name} must hold real numbers, got column {label!r} of dtype {dtype}{hint}")
        narrow &= str(dtype).lower() in ("float16", "float32")
    return np.asarray(value.to_numpy(dtype=np.float32 if narrow else np.float64, na_value=np.nan))


def _from_array(array: np.ndarray, name: str) -> np.ndarray:
    """To a contiguous, writable float32 or float64 array, as `torch.from_numpy` wants it."""
    if array.dtype.kind == "O":
        found = next(((i, item) for i, item in enumerate(array.flat) if not isinstance(item, numbers.Real)), None)
        what = f"holding {describe(found[1])} at position {found[0]}" if found else "; convert it with .astype(float)"
        raise TypeError(f"{name} must hold real numbers, got an array of Python objects {what}")
    if array.dtype.kind not in "biuf":
        kinds = {"c": "complex numbers", "U": "text", "S": "bytes", "M": "dates", "m": "time differences"}
        what = kinds.get(array.dtype.kind, "records")
        raise TypeError(f"{name} must hold real numbers, got {what} ({describe(array)})")
    small = array.dtype.kind == "f" and array.dtype.itemsize <= 4
    with np.errstate(over="ignore"):  # extended precision beyond float64 becomes infinite, and is refused as such
        result = np.ascontiguousarray(array, dtype=np.float32 if small else np.float64)
    return result.reshape(array.shape) if result.flags.writeable else result.copy().reshape(array.shape)
