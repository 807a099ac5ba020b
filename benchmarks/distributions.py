"""Samples with known mutual information, to judge an estimator by.

`CASES` names them all. Each is drawn by a numpy generator, so a case, a size and a seed name a sample. Truths are
closed forms, or quadrature over a grid fine enough for four digits (`tests/test_distributions.py` checks). An
invertible map of either variable leaves the truth as it is: many cases are a Gaussian or a Student-t behind one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import special

Pair = tuple[np.ndarray, np.ndarray]
Draw = Callable[[np.random.Generator, int], Pair]


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
    tuned: bool


# Gaussian and Student-t -----------------------------------------------------------------------------------------------


def gaussian_information(covariance: np.ndarray, width: int) -> float:
    """I(X; Y) of a Gaussian whose first `width` columns are X."""
    log_det = [np.linalg.slogdet(c)[1] for c in (covariance[:width, :width], covariance[width:, width:], covariance)]
    return 0.5 * (log_det[0] + log_det[1] - log_det[2])


def student_correction(df: float, x_width: int, y_width: int) -> float:
    """What a Student-t's information exceeds its dispersion matrix's Gaussian by (Arellano-Valle et al., 2013)."""

    def f(v: float) -> float:
        return float(special.gammaln(v / 2) - v / 2 * special.digamma(v / 2))

    return f(df) + f(df + x_width + y_width) - f(df + x_width) - f(df + y_width)


def paired(width: int, correlations: dict[int, float]) -> np.ndarray:
    """Covariance [2w, 2w] of unit variances with cov(x_i, y_i) as given."""
    covariance = np.eye(2 * width)
    for i, rho in correlations.items():
        covariance[i, width + i] = covariance[width + i, i] = rho
    return covariance


def dense(x_width: int, y_width: int, rho: float = 0.5) -> np.ndarray:
    """Covariance with every correlation rho."""
    return np.full((x_width + y_width,) * 2, rho) + (1 - rho) * np.eye(x_width + y_width)


def normal(covariance: np.ndarray, width: int, df: float = math.inf, tuned: bool = True) -> Case:
    """A Gaussian, or a Student-t with `df` degrees of freedom and this dispersion matrix."""
    factor = np.linalg.cholesky(covariance)
    truth = gaussian_information(covariance, width)
    if math.isfinite(df):
        truth += student_correction(df, width, len(covariance) - width)

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        z = rng.standard_normal((rows, len(covariance))) @ factor.T
        if math.isfinite(df):
            z /= np.sqrt(rng.chisquare(df, rows) / df)[:, None]
        return z[:, :width], z[:, width:]

    return Case(draw, truth, tuned)


def mapped(case: Case, x_map: Callable, y_map: Callable | None = None, tuned: bool = True) -> Case:
    """A case behind invertible maps of X and Y; without `y_map` both pass the same."""

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x, y = case.draw(rng, rows)
        return x_map(x), (y_map or x_map)(y)

    return Case(draw, case.truth, tuned)


def normal_cdf(v: np.ndarray) -> np.ndarray:
    return special.ndtr(v)


def half_cube(v: np.ndarray) -> np.ndarray:
    return v * np.sqrt(np.abs(v))


def wiggle(v: np.ndarray) -> np.ndarray:
    """Increasing, with steep and flat stretches."""
    return v + 0.4 * np.sin(v) + 0.2 * np.sin(1.7 * v + 1) + 0.03 * np.sin(3.3 * v - 2.5)


def swirl(v: np.ndarray, turns: float = 1.0) -> np.ndarray:
    """Every pair of columns rotated by an angle that grows with the radius."""
    out = v.copy()
    for c in range(0, v.shape[1] - 1, 2):
        a, b = v[:, c], v[:, c + 1]
        angle = turns * np.hypot(a, b)
        out[:, c] = a * np.cos(angle) - b * np.sin(angle)
        out[:, c + 1] = a * np.sin(angle) + b * np.cos(angle)
    return out


def spiral(v: np.ndarray, speed: float) -> np.ndarray:
    """The first two columns rotated by an angle that grows with the squared norm of all (BMI's spiral)."""
    angle = speed * (v**2).sum(1)
    out = v.copy()
    out[:, 0] = v[:, 0] * np.cos(angle) - v[:, 1] * np.sin(angle)
    out[:, 1] = v[:, 0] * np.sin(angle) + v[:, 1] * np.cos(angle)
    return out


def swiss_roll(v: np.ndarray) -> np.ndarray:
    """A column rolled up into two."""
    t = 1.5 * np.pi * (1 + 2 * special.ndtr(v[:, :1]))
    return np.concatenate([t * np.cos(t), t * np.sin(t)], 1) / 21


def mixed_up(v: np.ndarray) -> np.ndarray:
    """A rotation, a wiggle, and another rotation: no column is an original one."""
    q = np.linalg.qr(np.random.default_rng(v.shape[1]).standard_normal((v.shape[1],) * 2))[0]
    return wiggle(v @ q) @ q.T


# Noise of other shapes ------------------------------------------------------------------------------------------------


def uniform_noise(width: float, tuned: bool = True) -> Case:
    """X uniform on (0, 1), Y = X + noise uniform on (-width, width)."""
    truth = 1 / (4 * width) if width > 0.5 else width - math.log(2 * width)

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x = rng.uniform(size=(rows, 1))
        return x, x + rng.uniform(-width, width, (rows, 1))

    return Case(draw, truth, tuned)


@cache
def _additive_information(function: Callable[[np.ndarray], np.ndarray], sigma: float) -> float:
    """I(U; f(U) + sigma * normal) for U uniform on (0, 1): h(Y) - h(noise), by quadrature."""
    u = (np.arange(20_000) + 0.5) / 20_000
    centres = np.sort(function(u))
    grid = np.linspace(centres[0] - 8 * sigma, centres[-1] + 8 * sigma, 4001)
    density = np.array([np.exp(-0.5 * ((g - centres) / sigma) ** 2).mean() for g in grid]) / (
        sigma * math.sqrt(2 * math.pi)
    )
    entropy = -np.trapezoid(special.xlogy(density, density), grid)
    return float(entropy - 0.5 * math.log(2 * math.pi * math.e * sigma**2))


def function_of_uniform(function: Callable[[np.ndarray], np.ndarray], sigma: float, tuned: bool = True) -> Case:
    """X uniform on (0, 1), Y = f(X) + sigma * normal."""

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x = rng.uniform(size=(rows, 1))
        return x, function(x) + sigma * rng.standard_normal((rows, 1))

    return Case(draw, _additive_information(function, sigma), tuned)


def sine_1(u: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * u)


def sine_2(u: np.ndarray) -> np.ndarray:
    return np.sin(4 * np.pi * u)


def sine_4(u: np.ndarray) -> np.ndarray:
    return np.sin(8 * np.pi * u)


def parabola(u: np.ndarray) -> np.ndarray:
    return (2 * u - 1) ** 2


def staircase(u: np.ndarray) -> np.ndarray:
    return np.floor(4 * u)


def _information_on_grid(density: np.ndarray, dx: float, dy: float) -> float:
    """Of a density [a, b] on a grid."""
    density = density / (density.sum() * dx * dy)
    px, py = density.sum(1) * dy, density.sum(0) * dx
    return float(
        (special.xlogy(density, density).sum() - 0.0) * dx * dy
        - special.xlogy(px, px).sum() * dx
        - special.xlogy(py, py).sum() * dy
    )


def circle(sigma: float, tuned: bool = True) -> Case:
    """A point of the unit circle with normal noise on both coordinates."""
    axis = np.linspace(-1 - 6 * sigma, 1 + 6 * sigma, 600)
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    kernel_x = np.exp(-0.5 * ((axis[:, None] - np.cos(angles)) / sigma) ** 2)
    kernel_y = np.exp(-0.5 * ((axis[:, None] - np.sin(angles)) / sigma) ** 2)
    step = axis[1] - axis[0]
    truth = _information_on_grid(kernel_x @ kernel_y.T, step, step)

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        angle = rng.uniform(0, 2 * np.pi, rows)
        noise = sigma * rng.standard_normal((2, rows))
        return (np.cos(angle) + noise[0])[:, None], (np.sin(angle) + noise[1])[:, None]

    return Case(draw, truth, tuned)


def scale_mixture(tuned: bool = True) -> Case:
    """Y is normal with the standard deviation exp(X): no correlation, all in the scale."""
    xs = np.linspace(-6, 6, 801)
    ys = np.sinh(np.linspace(-9, 9, 4001))
    conditional = np.exp(-0.5 * (ys / np.exp(xs)[:, None]) ** 2 - xs[:, None]) / math.sqrt(2 * math.pi)
    weight = np.exp(-0.5 * xs**2)
    marginal = weight / weight.sum() @ conditional
    entropy = -np.trapezoid(special.xlogy(marginal, marginal), ys)
    truth = float(entropy - 0.5 * math.log(2 * math.pi * math.e))  # E[log exp(X)] = 0

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x = rng.standard_normal((rows, 1))
        return x, np.exp(x) * rng.standard_normal((rows, 1))

    return Case(draw, truth, tuned)


# Discrete and mixed ---------------------------------------------------------------------------------------------------


def discrete(table: np.ndarray, tuned: bool = True) -> Case:
    """Codes (a, b) with these joint probabilities."""
    table = table / table.sum()
    truth = float(
        special.xlogy(table, table).sum()
        - special.xlogy(table.sum(0), table.sum(0)).sum()
        - special.xlogy(table.sum(1), table.sum(1)).sum()
    )

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        cell = rng.choice(table.size, rows, p=table.ravel())
        return (cell // table.shape[1])[:, None].astype(float), (cell % table.shape[1])[:, None].astype(float)

    return Case(draw, truth, tuned)


def noisy_permutation(levels: int, kept: float) -> np.ndarray:
    """The joint table of a uniform code and a shuffled copy that is right with probability `kept`, else any."""
    table = np.full((levels, levels), (1 - kept) / levels)
    table[np.arange(levels), np.random.default_rng(levels).permutation(levels)] += kept
    return table


def clusters(centres: np.ndarray, sigma: float, tuned: bool = True) -> Case:
    """Y a label, X normal around the label's centre [k, 2]; the truth by quadrature."""
    low, high = centres.min(0) - 7 * sigma, centres.max(0) + 7 * sigma
    a, b = (np.linspace(low[i], high[i], 501) for i in range(2))
    parts = [
        np.exp(-0.5 * ((a - c[0]) / sigma) ** 2)[:, None] * np.exp(-0.5 * ((b - c[1]) / sigma) ** 2) for c in centres
    ]
    mixture = np.mean(parts, 0) / (2 * math.pi * sigma**2)
    entropy = -float(special.xlogy(mixture, mixture).sum()) * (a[1] - a[0]) * (b[1] - b[0])
    truth = entropy - math.log(2 * math.pi * math.e * sigma**2)

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        label = rng.integers(len(centres), size=rows)
        return centres[label] + sigma * rng.standard_normal((rows, 2)), label[:, None].astype(float)

    return Case(draw, truth, tuned)


def hidden_column(width: int, case: Case, tuned: bool = True) -> Case:
    """A case among columns of noise, `width` in all on each side, behind a rotation."""
    rotation = [np.linalg.qr(np.random.default_rng(s).standard_normal((width, width)))[0] for s in (1, 2)]

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x, y = case.draw(rng, rows)
        wide = [np.concatenate([v, rng.standard_normal((rows, width - v.shape[1]))], 1) for v in (x, y)]
        return wide[0] @ rotation[0], wide[1] @ rotation[1]

    return Case(draw, case.truth, tuned)


# Independent ----------------------------------------------------------------------------------------------------------


def independent(draw_one: Callable[[np.random.Generator, int], np.ndarray], tuned: bool = True) -> Case:
    return Case(lambda rng, rows: (draw_one(rng, rows), draw_one(rng, rows)), 0.0, tuned)


def _cauchy(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.standard_cauchy((rows, 1))


def _uniform_10(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.uniform(size=(rows, 10))


def _coins(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.integers(2, size=(rows, 3)).astype(float)


_XOR = np.array([[0.0, 0.0], [4.0, 4.0], [0.0, 4.0], [4.0, 0.0]])
_SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 2.0]])

CASES: dict[str, Case] = {
    "gaussian 1-d, rho 0.9": normal(paired(1, {0: 0.9}), 1),
    "gaussian 1-d, rho 0.99": normal(paired(1, {0: 0.99}), 1),
    "gaussian 1-d, rho 0.5": normal(paired(1, {0: 0.5}), 1, tuned=False),
    "gaussian 20-d, rho 0.5": normal(paired(20, dict.fromkeys(range(20), 0.5)), 20),
    "gaussian 5-d dense": normal(dense(5, 5), 5, tuned=False),
    "gaussian 25-d dense": normal(dense(25, 25), 25),
    "gaussian 50-d dense": normal(dense(50, 50), 50, tuned=False),
    "gaussian 5-d, 2 pairs": normal(paired(5, {0: 0.8, 1: 0.8}), 5, tuned=False),
    "gaussian 25-d, 2 pairs": normal(paired(25, {0: 0.8, 1: 0.8}), 25),
    "gaussian 50-d, 2 pairs": normal(paired(50, {0: 0.8, 1: 0.8}), 50, tuned=False),
    "gaussian 3+8 dense": normal(dense(3, 8, 0.4), 3, tuned=False),
    "student 1+1, df 1": normal(np.eye(2), 1, 1, tuned=False),
    "student 2+2, df 1": normal(np.eye(4), 2, 1),
    "student 2+2, df 2": normal(np.eye(4), 2, 2, tuned=False),
    "student 3+3 dense, df 2": normal(dense(3, 3), 3, 2),
    "student 5+5, 2 pairs, df 2": normal(paired(5, {0: 0.8, 1: 0.8}), 5, 2, tuned=False),
    "student 2+2 asinh, df 1": mapped(normal(np.eye(4), 2, 1), np.arcsinh, tuned=False),
    "gaussian 1-d cdf, rho 0.75": mapped(normal(paired(1, {0: 0.75}), 1), normal_cdf, tuned=False),
    "gaussian 1-d half cube, rho 0.9": mapped(normal(paired(1, {0: 0.9}), 1), half_cube, tuned=False),
    "gaussian 5-d half cube, 2 pairs": mapped(normal(paired(5, {0: 0.8, 1: 0.8}), 5), half_cube, tuned=False),
    "gaussian 3-d mixed up": mapped(normal(paired(3, {0: 0.8, 1: 0.6}), 3), mixed_up),
    "gaussian 1-d wiggle, rho 0.9": mapped(normal(paired(1, {0: 0.9}), 1), wiggle, tuned=False),
    "gaussian 2-d swirl": mapped(normal(paired(2, {0: 0.8, 1: 0.8}), 2), swirl),
    "gaussian 2-d swirl, twice": mapped(normal(paired(2, {0: 0.9, 1: 0.6}), 2), lambda v: swirl(v, 2), tuned=False),
    "gaussian 3-d spiral": mapped(
        normal(paired(3, {0: 0.8, 1: 0.8}), 3), lambda v: spiral(v, 1 / 3), lambda v: spiral(v, -1 / 3)
    ),
    "gaussian 5-d spiral": mapped(
        normal(paired(5, {0: 0.8, 1: 0.8}), 5), lambda v: spiral(v, 0.2), lambda v: spiral(v, -0.2), tuned=False
    ),
    "swiss roll": mapped(normal(paired(1, {0: 0.8}), 1), swiss_roll, lambda v: v),
    "uniform noise 0.1": uniform_noise(0.1),
    "uniform noise 0.25": uniform_noise(0.25, tuned=False),
    "uniform noise 0.75": uniform_noise(0.75, tuned=False),
    "sin(2 pi x)": function_of_uniform(sine_1, 0.3, tuned=False),
    "sin(4 pi x)": function_of_uniform(sine_2, 0.3),
    "sin(8 pi x)": function_of_uniform(sine_4, 0.3, tuned=False),
    "parabola": function_of_uniform(parabola, 0.1, tuned=False),
    "staircase": function_of_uniform(staircase, 0.2),
    "circle": circle(0.1),
    "circle, noisy": circle(0.3, tuned=False),
    "scale only": scale_mixture(),
    "clusters and label": clusters(_SQUARE, 0.4),
    "xor clusters and label": clusters(_XOR, 1.0, tuned=False),
    "codes, 5 levels": discrete(noisy_permutation(5, 0.6)),
    "codes, 20 levels": discrete(noisy_permutation(20, 0.7), tuned=False),
    "sin(4 pi x) among 10": hidden_column(10, mapped(function_of_uniform(sine_2, 0.3), lambda v: v * 3), tuned=False),
    "circle among 5": hidden_column(5, circle(0.3)),
    "independent 1-d": independent(lambda rng, rows: rng.standard_normal((rows, 1))),
    "independent Cauchy": independent(_cauchy),
    "independent 10-d uniform": independent(_uniform_10, tuned=False),
    "independent coins": independent(_coins, tuned=False),
}

#: Beyond what rows of any practical number certify: to be flagged, and not wild.
HIGH = {
    "gaussian 20-d, rho 0.9": normal(paired(20, dict.fromkeys(range(20), 0.9)), 20),
    "gaussian 10-d, rho 0.95": normal(paired(10, dict.fromkeys(range(10), 0.95)), 10, tuned=False),
}
