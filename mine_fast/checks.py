"""Checks of arguments that several places take."""

from __future__ import annotations

import math
import numbers


def as_integer(name: str, value: object, least: float = -math.inf) -> int:
    """A setting as Python's int: numpy's integers are welcome, booleans are not.

    Raises:
        TypeError: no integer.
        ValueError: less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an int, got {type(value).__name__} {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def as_seed(value: object) -> int:
    """A seed as Python's int, of those that name a stream of shuffles each.

    Raises:
        TypeError: no integer.
        ValueError: beyond 64 bits.
    """
    seed = as_integer("seed", value)
    check_64_bits("seed", seed)
    return seed


def check_64_bits(name: str, value: int) -> None:
    """Refuse an integer that 64 bits do not hold, signed or not.

    Raises:
        ValueError: beyond them.
    """
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"{name} must fit in 64 bits, in [-2^63, 2^64), got {value}")


def as_number(name: str, value: object, wanted: str = "a number") -> float:
    """A setting as Python's float: numpy's numbers are welcome, booleans are not.

    Args:
        name: what error messages call it.
        value: the setting.
        wanted: what error messages ask for.

    Raises:
        TypeError: no number.
        ValueError: an integer that no 64-bit float holds.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {wanted}, got {type(value).__name__} {value!r}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} must be {wanted} that a 64-bit float holds, got an integer beyond them") from error


def check_progress(progress: object) -> None:
    """Refuse what cannot be called.

    Raises:
        TypeError: neither callable nor None.
    """
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be callable or None, got {type(progress).__name__}")
