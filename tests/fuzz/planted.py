"""Cases that are wrong on purpose: what finds nothing must be able to find something."""

from __future__ import annotations

import ctypes
import time

from .draw import Draw, Target, check


def crash(draw: Draw) -> None:
    ctypes.string_at(0)


def hang(draw: Draw) -> None:
    time.sleep(3600)


def lie(draw: Draw) -> None:
    check(False, "NaN in silence")


def other_error(draw: Draw) -> None:
    raise KeyError("x")


def no_message(draw: Draw) -> None:
    raise ValueError


def fine(draw: Draw) -> None:
    """Nothing is wrong with this one."""


TARGETS: dict[str, Target] = {
    f"planted.{target.__name__}": target for target in (crash, hang, lie, other_error, no_message, fine)
}
