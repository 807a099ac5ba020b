"""Invertible maps of one variable: they change the sample and leave the information as it is."""

from __future__ import annotations

import numpy as np
from scipy import special


def same(v: np.ndarray) -> np.ndarray:
    return v


def normal_cdf(v: np.ndarray) -> np.ndarray:
    return special.ndtr(v)


def half_cube(v: np.ndarray) -> np.ndarray:
    return v * np.sqrt(np.abs(v))


def wiggle(v: np.ndarray) -> np.ndarray:
    """Increasing, with steep and flat stretches."""
    return v + 0.4 * np.sin(v) + 0.2 * np.sin(1.7 * v + 1) + 0.03 * np.sin(3.3 * v - 2.5)


def other_wiggle(v: np.ndarray) -> np.ndarray:
    """Increasing, with its stretches elsewhere."""
    return v - 0.4 * np.sin(0.4 * v) + 0.17 * np.sin(1.3 * v + 3.5) + 0.02 * np.sin(4.3 * v - 2.5)


def bimodal(v: np.ndarray, weight: float, low: float, high: float) -> np.ndarray:
    """Standard normal columns -> a mixture of unit normals at `low` and `high`, quantile to quantile."""
    grid = np.linspace(low - 9, high + 9, 20_001)
    # Beyond 0.5 the distance to 1 would be lost to rounding, so each half of the mixture is inverted by its own tail.
    below = weight * special.ndtr(grid - low) + (1 - weight) * special.ndtr(grid - high)
    above = weight * special.ndtr(low - grid) + (1 - weight) * special.ndtr(high - grid)
    return np.interp(v, np.where(below < 0.5, special.ndtri(below), -special.ndtri(above)), grid)


def swirl(v: np.ndarray, turns: float = 1.0) -> np.ndarray:
    """Every pair of columns rotated by an angle that grows with the radius."""
    out = v.copy()
    for c in range(0, v.shape[1] - 1, 2):
        a, b = v[:, c], v[:, c + 1]
        angle = turns * np.hypot(a, b)
        out[:, c] = a * np.cos(angle) - b * np.sin(angle)
        out[:, c + 1] = a * np.sin(angle) + b * np.cos(angle)
    return out


def spiral(v: np.ndarray, speed: float, first: int = 0) -> np.ndarray:
    """Columns `first` and the next rotated by an angle that grows with the squared norm of all (BMI's spiral)."""
    angle = speed * (v**2).sum(1)
    a, b = v[:, first], v[:, first + 1]
    out = v.copy()
    out[:, first] = a * np.cos(angle) - b * np.sin(angle)
    out[:, first + 1] = a * np.sin(angle) + b * np.cos(angle)
    return out


def swiss_roll(v: np.ndarray) -> np.ndarray:
    """A column rolled up into two."""
    t = 1.5 * np.pi * (1 + 2 * special.ndtr(v[:, :1]))
    return np.concatenate([t * np.cos(t), t * np.sin(t)], 1) / 21


def mixed_up(v: np.ndarray) -> np.ndarray:
    """A rotation, a wiggle, and the rotation back: no column is an original one."""
    q = np.linalg.qr(np.random.default_rng(v.shape[1]).standard_normal((v.shape[1],) * 2))[0]
    return wiggle(v @ q) @ q.T


def wave(v: np.ndarray) -> np.ndarray:
    """The first of two columns pushed to and fro along the second."""
    return np.stack([v[:, 0] + 5 * np.sin(3 * v[:, 1]), v[:, 1]], 1)
