"""What a case is, and cases made from others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]
Draw = Callable[[np.random.Generator, int], Pair]
Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Case:
    """A joint distribution of X and Y.

    Attributes:
        draw: (generator, rows) -> x [N, dx], y [N, dy].
        truth: its mutual information in nats.
        tuned: whether the defaults of the estimator were chosen with a look at it.
    """

    draw: Draw
    truth: float
    tuned: bool = False


def tuned(case: Case) -> Case:
    """The case, marked as one that the defaults were chosen on."""
    return replace(case, tuned=True)


def mapped(case: Case, x_map: Map, y_map: Map | None = None) -> Case:
    """A case behind invertible maps of X and Y; without `y_map` both pass the same."""

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x, y = case.draw(rng, rows)
        return x_map(x), (y_map or x_map)(y)

    return Case(draw, case.truth)


def hidden(width: int, case: Case) -> Case:
    """A case among columns of noise, `width` in all on each side, behind a rotation."""
    rotation = [np.linalg.qr(np.random.default_rng(s).standard_normal((width, width)))[0] for s in (1, 2)]

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x, y = case.draw(rng, rows)
        wide = [np.concatenate([v, rng.standard_normal((rows, width - v.shape[1]))], 1) for v in (x, y)]
        return wide[0] @ rotation[0], wide[1] @ rotation[1]

    return Case(draw, case.truth)


def independent(draw_x: Callable[[np.random.Generator, int], np.ndarray], draw_y: Callable | None = None) -> Case:
    """X and Y drawn apart, [N, d] each; without `draw_y` both from the same."""
    return Case(lambda rng, rows: (draw_x(rng, rows), (draw_y or draw_x)(rng, rows)), 0.0)
