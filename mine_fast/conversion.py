"""Values of any make as floating tensors, of whatever shape: what the checks in arrays.py start from."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mine_fast.describing import WANTED, describe, is_pandas
from mine_fast.recoding import EXACT, check_categories, floats_of_integers, floats_of_objects, floats_of_text

__all__ = ["as_array", "as_floating"]


def as_floating(value: object, name: str, *, recode: bool = False) -> Tensor:
    """Convert to float32 or float64 as `mine_fast.arrays.as_samples` does, of whatever shape and values.

    Args:
        value: numpy array, torch tensor, pandas DataFrame or Series, or nested list.
        name: what error messages call it.
        recode: see `mine_fast.arrays.as_samples`.

    Raises:
        TypeError: what holds no real numbers.
        ValueError: rows of unequal length, masked or missing values, integers that float64 cannot tell apart.
    """
    if isinstance(value, (list, tuple)) and value and all(isinstance(row, Tensor) for row in value):
        if len({(row.shape, row.dtype, row.device) for row in value}) > 1:
            raise ValueError(f"{name} must have rows of one shape and dtype, got {describe(value)} tensors that differ")
        value = torch.stack(list(value))
    if isinstance(value, Tensor):
        return _from_tensor(value, name, recode)
    if is_pandas(value):
        return torch.from_numpy(_writable(_from_pandas(value, name, recode)))
    return torch.from_numpy(_writable(_from_array(as_array(value, name), name, recode)))


def _from_tensor(value: Tensor, name: str, recode: bool) -> Tensor:
    if value.is_nested:
        raise TypeError(f"{name} must have rows of one length, got {describe(value)}; pad it with .to_padded_tensor")
    if value.is_complex():
        raise TypeError(f"{name} must be real, got {describe(value)}; stack its .real and .imag as columns")
    if value.layout != torch.strided or value.is_quantized:
        raise TypeError(f"{name} must be a dense tensor, got {describe(value)} with layout {value.layout}")
    if value.is_meta:
        raise TypeError(f"{name} must hold values, got {describe(value)} on the meta device, which has none")
    if value.is_inference():
        value = value.clone()  # to an ordinary tensor, which a backward may save
    if value.dtype in (torch.float32, torch.float64):
        return value.detach()
    if value.is_floating_point():
        return value.detach().to(torch.float32)
    if value.dtype not in (torch.int64, torch.uint64) or not value.numel():
        return value.to(torch.float64)
    if value.dtype == torch.int64 and int(value.amin()) >= -EXACT and int(value.amax()) <= EXACT:
        return value.to(torch.float64)
    exact = floats_of_integers(value.cpu().numpy(), name, recode=recode)
    return torch.from_numpy(exact).to(value.device)


def as_array(value: object, name: str) -> np.ndarray:
    """A numpy array of what came, with the objects of a list that one dtype would change.

    Raises:
        TypeError: no array, list or number.
        ValueError: rows of unequal length, masked values.
    """
    if isinstance(value, np.ma.MaskedArray):
        masked = np.argwhere(np.ma.getmaskarray(value))
        if len(masked):
            place = ", column ".join(map(str, masked[0])) if value.ndim <= 2 else str(masked[0].tolist())
            amount = "1 masked value, at" if len(masked) == 1 else f"{len(masked)} masked values, first at"
            raise ValueError(f"{name} must not have masked values, got {amount} row {place}; drop or impute them")
        return np.asarray(value.data)
    is_text = isinstance(value, (str, bytes, bytearray))
    if is_text or not (hasattr(value, "__array__") or isinstance(value, (Sequence, numbers.Number))):
        raise TypeError(f"{name} must be {WANTED}, got {describe(value)}")
    try:
        array = np.asarray(value)
        if isinstance(value, Sequence) and _lost_something(array):
            array = np.asarray(value, dtype=object)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} must have rows of one length, got {describe(value)} ({error})") from error
    return array


def _lost_something(array: np.ndarray) -> bool:
    """Whether numpy may have rounded large integers, or made text of numbers, to give a list one dtype."""
    return array.dtype.kind in "US" or (array.dtype.kind == "f" and bool((np.abs(array) >= EXACT).any()))


def _from_array(array: np.ndarray, name: str, recode: bool) -> np.ndarray:
    """To float32 or float64."""
    kind = array.dtype.kind
    if kind in "iu":
        return floats_of_integers(array, name, recode=recode)
    if kind in "OT":  # T is numpy's text of variable length
        return floats_of_objects(array.astype(object), name, recode=recode)
    if kind in "US" and recode:
        return floats_of_text(array, name)
    if kind in "mM" and recode:
        return _from_dates(array, np.isnat(array), name, None)
    if kind not in "bf":
        kinds = {"c": "complex numbers", "U": "text", "S": "bytes", "M": "dates", "m": "time differences"}
        raise TypeError(f"{name} must hold real numbers, got {kinds.get(kind, 'records')} ({describe(array)})")
    small = kind == "f" and array.dtype.itemsize <= 4
    with np.errstate(over="ignore"):  # extended precision beyond float64 becomes infinite, and is refused as such
        return np.asarray(array, dtype=np.float32 if small else np.float64)


def _from_dates(values: Any, missing: np.ndarray, name: str, column: object) -> np.ndarray:
    """Points in time, or differences of them, as counts of their unit."""
    if missing.any():
        first = np.argwhere(missing)[0].tolist()
        label = column if column is not None else (first[1] if len(first) == 2 else 0)
        raise ValueError(f"{name} must not have missing values, got NaT at row {first[0]}, column {label!r}; drop it")
    return floats_of_integers(np.asarray(values.astype("int64")), name, column, recode=True, rounded=True)


def _from_pandas(value: Any, name: str, recode: bool) -> np.ndarray:
    """Column by column, by dtype kind: nullable and Arrow columns count as the numbers they hold, gaps as NaN."""
    if value.size == 0:
        return np.empty(value.shape)
    is_frame = hasattr(value, "columns")
    dtypes = list(value.dtypes) if is_frame else [value.dtype]
    if all(getattr(dtype, "kind", "O") in "bf" for dtype in dtypes):
        narrow = all(str(dtype).lower() in ("float16", "float32") for dtype in dtypes)
        return np.asarray(value.to_numpy(dtype=np.float32 if narrow else np.float64, na_value=np.nan))
    if not is_frame:
        return _from_series(value, name, value.name, recode)
    labels = list(value.columns)
    columns = [_from_series(value.iloc[:, i], name, labels[i], recode) for i in range(len(labels))]
    return np.stack(columns, 1)


def _from_series(series: Any, name: str, label: object, recode: bool) -> np.ndarray:
    kind = getattr(series.dtype, "kind", "O")
    missing = series.isna().to_numpy()
    if kind in "bf" or (kind in "iu" and missing.any()):
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    if kind in "iu":
        return floats_of_integers(
            series.to_numpy(dtype=np.uint64 if kind == "u" else np.int64), name, label, recode=recode
        )
    if kind in "mM" and recode:
        return _from_dates(series, missing, name, label)
    if kind == "O" and str(series.dtype) == "category" and recode:
        if missing.any():
            row = int(missing.argmax())
            raise ValueError(f"{name} must not have missing values, got a gap at row {row}, column {label!r}")
        codes = series.cat.codes.to_numpy()  # in the order of the categories
        check_categories(len(np.unique(codes)), len(codes), f"{name} must", label)
        return codes.astype(np.float64)
    holds_text = "str" in str(series.dtype)
    if str(series.dtype) == "object" or (holds_text and recode):
        return floats_of_objects(series.to_numpy(dtype=object, na_value=None), name, label, recode=recode)
    hints = {"M": "; subtract a start and convert to seconds", "m": "; convert it to seconds"}
    hint = hints.get(kind, "; encode it as numbers, for example with pandas.factorize")
    raise TypeError(f"{name} must hold real numbers, got column {label!r} of dtype {series.dtype}{hint}")


def _writable(array: np.ndarray) -> np.ndarray:
    """Contiguous, writable and in the machine's byte order, as `torch.from_numpy` wants it."""
    result = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return result.reshape(array.shape) if result.flags.writeable else result.copy().reshape(array.shape)
