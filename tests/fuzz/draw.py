"""Where the cases' choices come from, and what an outcome may be."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

#: What a bad argument may raise. MemoryError, since a size that no memory holds is found out by asking for it.
ALLOWED = (ValueError, TypeError, RuntimeError, MemoryError)

#: Around the ends of 31, 32, 53, 63 and 64 bits, and what people pass.
INTEGERS = (0, 1, 2, 3, 5, 64, -1, -2, -5, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**61, 2**62, 2**63 - 1, 2**63,
            2**64 - 1, 2**64, 10**30, 10**400, -(2**31), -(2**63), -(2**63) - 1)  # fmt: skip
NUMBERS = (0.0, 0.01, 0.5, 1.0, -1.0, 1e-30, 1e-320, 1e30, 1e308, math.inf, -math.inf, math.nan)


class Wrong(AssertionError):
    """A call that returned what it must not, or refused what is right."""


class Draw:
    """The choices of one case."""

    def __init__(self, target: str, seed: int, number: int) -> None:
        self.random = random.Random(f"{target} {seed} {number}")

    def of(self, choices: Sequence[T]) -> T:
        return self.random.choice(choices)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def between(self, least: int, most: int) -> int:
        return self.random.randint(least, most)

    def seed(self) -> int:
        """For a generator of values."""
        return self.random.getrandbits(31)

    def integer(self) -> int:
        return self.of(INTEGERS)

    def anything(self) -> Any:
        """What is no tensor, array or number of the kind that is wanted."""
        return self.of((None, "relu", "", b"\x00", [], [1.0, "a"], {}, (), object(), 1.5, True, 3, -1, 2**64, math.nan))


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Wrong(what)


Target = Callable[[Draw], None]
