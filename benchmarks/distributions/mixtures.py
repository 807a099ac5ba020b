"""Mixtures of Gaussians: shapes that no one covariance tells. The truths by quadrature over two coordinates."""

from __future__ import annotations

import math

import numpy as np

from .case import Case, Pair
from .noise import information_on_grid

#: Weight, mean [2] and covariance [2, 2] of each component, X's column first.
Components = list[tuple[float, np.ndarray, np.ndarray]]


def components(*parts: tuple[float, list[float], list[list[float]]]) -> Components:
    total = sum(weight for weight, _, _ in parts)
    return [(weight / total, np.array(mean), np.array(covariance)) for weight, mean, covariance in parts]


def density(parts: Components, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """At points x, y of shapes that broadcast."""
    total = np.zeros(())
    for weight, mean, covariance in parts:
        inverse = np.linalg.inv(covariance)
        a, b = x - mean[0], y - mean[1]
        square = inverse[0, 0] * a**2 + 2 * inverse[0, 1] * a * b + inverse[1, 1] * b**2
        total = total + weight * np.exp(-0.5 * square) / (2 * math.pi * math.sqrt(np.linalg.det(covariance)))
    return total


def mixture(parts: Components, points: int = 1000) -> Case:
    """Components in the plane, x and y one column each."""
    spread = np.array([7 * np.sqrt(np.diag(covariance)) for _, _, covariance in parts])
    means = np.array([mean for _, mean, _ in parts])
    low, high = (means - spread).min(0), (means + spread).max(0)
    x, y = np.linspace(low[0], high[0], points), np.linspace(low[1], high[1], points)
    truth = information_on_grid(density(parts, x[:, None], y), x[1] - x[0], y[1] - y[0])
    weights = np.array([weight for weight, _, _ in parts])
    factors = np.array([np.linalg.cholesky(covariance) for _, _, covariance in parts])

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        part = rng.choice(len(parts), rows, p=weights)
        z = means[part] + np.einsum("nij,nj->ni", factors[part], rng.standard_normal((rows, 2)))
        return z[:, :1], z[:, 1:]

    return Case(draw, truth)


def _correlated(rho: float, x_variance: float = 1.0, y_variance: float = 1.0) -> list[list[float]]:
    off = rho * math.sqrt(x_variance * y_variance)
    return [[x_variance, off], [off, y_variance]]


def letter_x(rho: float) -> Case:
    """Two Gaussians of opposite correlation, which together have none (Czyz et al., 2025)."""
    return mixture(components((1, [0, 0], _correlated(rho)), (1, [0, 0], _correlated(-rho))))


def letters_ai() -> Case:
    """Six thin Gaussians that spell AI (Czyz et al., 2025)."""
    return mixture(
        components(
            (1, [1.0, 0.0], _correlated(0, 0.01, 0.2)),
            (1, [1.0, 1.0], _correlated(0, 0.05, 0.001)),
            (1, [1.0, -1.0], _correlated(0, 0.05, 0.001)),
            (1, [-0.8, -0.2], _correlated(0, 0.03, 0.001)),
            (1, [-1.2, 0.0], _correlated(0.95, 0.04, 0.2)),
            (1, [-0.4, 0.0], _correlated(-0.95, 0.04, 0.2)),
        )
    )


def outliers(rho: float, share: float) -> Case:
    """A Gaussian pair of which a share of the rows was drawn anew, each column by itself."""
    return mixture(components((1 - share, [0, 0], _correlated(rho)), (share, [0, 0], _correlated(0))))


def two_balls(distance: float) -> Case:
    """X [N, 2] and Y [N, 1] round the same one of two centres; along the line between them it is one column each."""
    apart = math.sqrt(2) * distance / 2  # X's centres are at +-(distance / 2) on both axes
    line = mixture(components(*[(1, [s * apart, s * distance / 2], _correlated(0)) for s in (-1, 1)]))

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        along, y = line.draw(rng, rows)
        across = rng.standard_normal((rows, 1))
        return np.concatenate([along + across, along - across], 1) / math.sqrt(2), y

    return Case(draw, line.truth)


def wave_base(parts: int = 12) -> Case:
    """X [N, 2], whose second column is noise, and Y [N, 1] round one of `parts` centres (Czyz et al., 2025)."""
    plane = mixture(components(*[(1, [1.5 * i, 1.5 * (i % 4)], _correlated(0, 0.1, 0.1)) for i in range(parts)]))

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x, y = plane.draw(rng, rows)
        return np.concatenate([x, rng.standard_normal((rows, 1))], 1), y

    return Case(draw, plane.truth)
