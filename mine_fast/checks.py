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


def check_progress(progress: object) -> None:
    """Refuse what cannot be called.

    Raises:
        TypeError: neither callable nor None.
    """
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be callable or None, got {type(progress).__name__}")
