"""Arrays of any make, as tensors the rest of the package can trust: real, finite, a row per observation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mine_fast.conversion import as_floating
from mine_fast.describing import describe

__all__ = ["MINIMUM_ROWS", "alike", "as_pair", "as_samples", "cast", "check_finite"]

#: Rows that any pairs need, as a single row has no other to be paired with; to train and hold out takes more.
MINIMUM_ROWS = 2


def as_samples(value: object, name: str, *, allow_nd: bool = False, recode: bool = False) -> Tensor:
    """Check one sample and return it as a floating tensor with a row per observation.

    Args:
        value: numpy array, torch tensor, pandas DataFrame or Series, or nested list of numbers, [N] or [N, d].
        name: what error messages call it.
        allow_nd: also accept [N, d1, d2, ...] (images, sequences), kept in that shape.
        recode: also accept columns that can only be told in numbers made up from all the rows at hand: text and
            categories become the codes 0, 1, ... of their sorted values; dates, time differences and integers that
            float64 cannot hold are counted from the smallest. Where a critic meets other rows later, those would be
            made up differently.

    Returns:
        [N, d] ([N, 1] for 1-D input), detached, on the device it came on; it may share memory with `value`. float64
        and float32 are kept (ranks must not lose precision), half and bfloat16 become float32, integers, booleans and
        Python's numbers float64.

    Raises:
        TypeError: None, objects, complex numbers, a dict, or anything else that is no array of numbers; text and dates
            without `recode`; nested, sparse, quantized and meta tensors.
        ValueError: 0-d, more than 2-D, no columns, fewer than two rows; NaN, infinite, masked or missing values;
            integers that float64 cannot tell apart; text of which most rows have their own.

    >>> as_samples([1, 2, 3], "x")
    tensor([[1.],
            [2.],
            [3.]], dtype=torch.float64)
    >>> as_samples([0.5, float("nan")], "x")
    Traceback (most recent call last):
    ...
    ValueError: x must be finite, got 1 value that is NaN or infinite, at row 1, column 0 (nan); drop or impute it
    >>> as_samples(["no", "yes", "no"], "x", recode=True).flatten()
    tensor([0., 1., 0.], dtype=torch.float64)
    """
    samples = as_floating(value, name, recode=recode)
    _check_shape(samples, name, value, allow_nd)
    samples = samples.reshape(-1, 1) if samples.ndim == 1 else samples
    if math.prod(samples.shape[1:]) == 0:
        raise ValueError(f"{name} must have at least one column, got {describe(value)}")
    if len(samples) < MINIMUM_ROWS:
        hint = ": rows are observations, is it transposed?" if len(samples) and samples.shape[-1] > 1 else ""
        raise ValueError(f"{name} needs at least {MINIMUM_ROWS} rows, got {len(samples)} ({describe(value)}){hint}")
    check_finite(samples, name)
    return samples


def as_pair(
    x: object,
    y: object,
    *,
    allow_nd: bool = False,
    recode: bool = False,
    names: tuple[str, str] = ("x", "y"),
) -> tuple[Tensor, Tensor]:
    """Check two samples whose rows belong together.

    Args:
        x: [N] or [N, dx], anything `as_samples` takes.
        y: [N] or [N, dy], the same.
        allow_nd: see `as_samples`.
        recode: see `as_samples`.
        names: what error messages call the two.

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
    x_name, y_name = names
    tensors = [value for value in (x, y) if isinstance(value, Tensor) and value.is_floating_point()]
    if len(tensors) == 2 and tensors[0].dtype != tensors[1].dtype:
        raise TypeError(
            f"{x_name} and {y_name} must be tensors of one dtype, got {tensors[0].dtype} for {x_name} and "
            f"{tensors[1].dtype} for {y_name}; convert one with .to(dtype)"
        )
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        _check_one_device(x, y, names)  # before the values, which may take long to check
    x_samples = as_samples(x, x_name, allow_nd=allow_nd, recode=recode)
    y_samples = as_samples(y, y_name, allow_nd=allow_nd, recode=recode)
    if len(x_samples) != len(y_samples):
        raise ValueError(
            f"{x_name} and {y_name} must have the same number of rows, got {len(x_samples)} rows in {x_name} and "
            f"{len(y_samples)} in {y_name}"
        )
    return alike(x_samples, y_samples, names)


def alike(x: Tensor, y: Tensor, names: tuple[str, str] = ("x", "y")) -> tuple[Tensor, Tensor]:
    """On one device, which is checked, and in the wider of the two dtypes."""
    _check_one_device(x, y, names)
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)


def _check_one_device(x: Tensor, y: Tensor, names: tuple[str, str]) -> None:
    if x.device != y.device:
        raise ValueError(
            f"{names[0]} and {names[1]} must be on one device, got {names[0]} on {x.device} and {names[1]} on "
            f"{y.device}; move one with .to(device)"
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
