"""What float64 cannot hold as it is: integers beyond 2^53, and categories given as text.

Mutual information does not change under an invertible map of a column, so either may be replaced by other numbers as
long as different values stay different.
"""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

__all__ = ["check_categories", "floats_of_integers", "floats_of_objects", "floats_of_text"]

#: Up to here float64 holds every integer.
EXACT = 2**53


def floats_of_integers(
    values: np.ndarray, name: str, column: object = None, *, recode: bool, rounded: bool = False
) -> np.ndarray:
    """Integers as float64 numbers that are as different as they were.

    Args:
        values: integers [N, ...].
        name: what error messages call the argument.
        column: what they call the column, where there is only one; by default its number.
        recode: a column that float64 cannot hold may be counted from its smallest value, in its greatest common step.
        rounded: and what then is beyond float64 may be rounded: it is a quantity, such as nanoseconds over months.

    Returns:
        float64 [N, ...].

    Raises:
        ValueError: a column of which float64 cannot tell all values apart.

    >>> floats_of_integers(np.array([2**60, 2**60 + 1, 2**60 + 3]), "x", recode=True).tolist()
    [0.0, 1.0, 3.0]
    """
    if not values.ndim or not values.size or (int(values.min()) >= -EXACT and int(values.max()) <= EXACT):
        return values.astype(np.float64)
    return _by_column(values, column, lambda one, label: _exact_column(one, name, label, recode, rounded))


def _by_column(values: np.ndarray, column: object, read: Callable[[np.ndarray, object], np.ndarray]) -> np.ndarray:
    """float64 [N, ...]: what `read` makes of each column [N] and of what to call it, `column` or its number."""
    columns = values.reshape(len(values), math.prod(values.shape[1:]))  # -1 would not do for no rows
    result = np.empty(columns.shape)
    for number in range(columns.shape[1]):
        result[:, number] = read(columns[:, number], number if column is None else column)
    return result.reshape(values.shape)


def _exact_column(values: np.ndarray, name: str, column: object, recode: bool, rounded: bool = False) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if _fits_float64(np.abs(values).astype(np.uint64)):  # of -2^63 the absolute value wraps, and wraps back
        return values.astype(np.float64)
    if recode:
        offsets = values.astype(np.uint64) - np.uint64(low % 2**64)  # modulo 2^64, which the range stays below
        if not _fits_float64(offsets):
            offsets //= np.gcd.reduce(offsets)  # dates are whole seconds or days, counted in nanoseconds
        if rounded or _fits_float64(offsets):
            return offsets.astype(np.float64)
    raise _collapse(name, column, low, high, recode)


def _fits_float64(values: np.ndarray) -> bool:
    """Whether uint64 values have at most 53 significant bits each."""
    lowest_bit = values & (~values + np.uint64(1))
    return int((values // np.maximum(lowest_bit, np.uint64(1))).max()) <= EXACT


def _collapse(name: str, column: object, low: int, high: int, recode: bool) -> ValueError:
    limit = "within 2^53 of one another" if recode else "below 2^53"
    hint = "" if recode else "subtract a start, or, "
    return ValueError(
        f"{name} must hold integers {limit}, as float64 cannot tell others apart, got {low} to {high} in column "
        f"{column!r}; {hint}if they are names, encode them: numpy.unique(column, return_inverse=True)[1]"
    )


def floats_of_text(values: np.ndarray, name: str, column: object = None) -> np.ndarray:
    """Text as the codes 0, 1, ... of each column's sorted values.

    Args:
        values: text or bytes [N, ...].
        name: what error messages call the argument.
        column: what they call the column, where there is only one; by default its number.

    Returns:
        float64 [N, ...].

    Raises:
        ValueError: see `check_categories`.

    >>> floats_of_text(np.array(["yes", "no", "yes"]), "y").tolist()
    [1.0, 0.0, 1.0]
    """
    if not values.ndim:
        raise ValueError(f"{name} must be [N] or [N, d], got a single value, {reprlib.repr(values[()])}")

    def codes(texts: np.ndarray, label: object) -> np.ndarray:
        levels, code = np.unique(texts, return_inverse=True)
        check_categories(len(levels), len(values), f"{name} must", label)
        return code.reshape(-1)

    return _by_column(values, column, codes)


def check_categories(levels: int, rows: int, begin: str, column: object) -> None:
    """Refuse text of which most rows have their own value: an identifier tells nothing about other rows.

    Raises:
        ValueError: more than 10 levels, and more than one for two rows.
    """
    if levels > 10 and 2 * levels > rows:
        raise ValueError(
            f"{begin} repeat its categories, got text with {levels} different values in {rows} rows in column "
            f"{column!r}; an identifier, a date or free text? leave it out or encode it as numbers"
        )


def floats_of_objects(values: np.ndarray, name: str, column: object = None, *, recode: bool) -> np.ndarray:
    """An array of Python objects, each column all numbers or all text, as float64 [N, ...].

    Args:
        values: objects [N, ...].
        name: what error messages call the argument.
        column: what they call the column, where there is only one; by default its number.
        recode: text may be replaced by codes, and integers as in `floats_of_integers`.

    Raises:
        TypeError: other objects, a mixture, or text where it may not be replaced.
        ValueError: missing values, and what `floats_of_integers` and `floats_of_text` refuse.
    """
    if not values.ndim:
        raise ValueError(f"{name} must be [N] or [N, d], got a single value, {reprlib.repr(values[()])}")
    return _by_column(values, column, lambda one, label: _object_column(one.tolist(), name, label, recode))


def _object_column(items: list[Any], name: str, column: object, recode: bool) -> np.ndarray:
    if not items:
        return np.empty(0)
    numeric = [_is_number(item) for item in items]
    has_text = not all(numeric)  # a NaN among numbers is found with what else is not finite
    missing = next((row for row, item in enumerate(items) if _is_missing(item) or (has_text and _is_nan(item))), None)
    if missing is not None:
        raise ValueError(
            f"{name} must not have missing values, got {items[missing]!r} at row {missing}, column {column!r}; "
            "drop or impute it"
        )
    if all(numeric):
        if all(isinstance(item, numbers.Integral) for item in items):
            return _python_integers(list(map(int, items)), name, column, recode)
        wide = [int(item) for item in items if isinstance(item, numbers.Integral) and not _is_exact(int(item))]
        if wide:
            raise _collapse(name, column, min(wide), max(wide), recode=False)
        return np.array(list(map(float, items)))
    text = str if isinstance(items[0], str) else bytes
    other = next((row for row, item in enumerate(items) if not isinstance(item, text)), None)
    if other is None:
        if recode:
            return floats_of_text(np.array(items), name, column)
        raise TypeError(f"{name} must hold real numbers, got text in column {column!r}, {items[0]!r} at row 0")
    if any(numeric):
        other = numeric.index(False)
    raise TypeError(
        f"{name} must hold real numbers, got Python objects, {reprlib.repr(items[other])} at row {other}, "
        f"column {column!r}"
    )


def _is_missing(item: object) -> bool:
    # pandas.NA and NaT by name: pandas is no dependency.
    return item is None or type(item).__name__ in ("NAType", "NaTType")


def _is_nan(item: object) -> bool:
    return isinstance(item, numbers.Real) and item != item


def _is_number(item: object) -> bool:
    return isinstance(item, (numbers.Real, Decimal))


def _is_exact(value: int) -> bool:
    return abs(value) <= EXACT or (value.bit_length() <= 1023 and float(value) == value)


def _python_integers(values: Sequence[int], name: str, column: object, recode: bool) -> np.ndarray:
    """Integers of any size."""
    if all(map(_is_exact, values)):
        return np.array(list(map(float, values)))
    low, high = min(values), max(values)
    if recode and high - low < 2**64:
        try:
            return _exact_column(np.array([value - low for value in values], dtype=np.uint64), name, column, recode)
        except ValueError:
            pass  # which names the differences
    raise _collapse(name, column, low, high, recode)
