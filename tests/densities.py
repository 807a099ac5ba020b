"""Log density ratios of the benchmark's distributions, apart from how their truths are computed.

By the densities of scipy.stats, or by another quadrature than the one that a truth comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from distributions import CASES, Case, catalogue, discrete, elliptical, mixtures, noise
from scipy import special, stats

LogRatio = Callable[[np.ndarray, np.ndarray], np.ndarray]


def of_joint(joint: object, x_marginal: object, y_marginal: object) -> LogRatio:
    """From three frozen distributions of scipy.stats."""

    def log_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return joint.logpdf(np.hstack([x, y])) - x_marginal.logpdf(x) - y_marginal.logpdf(y)

    return log_ratio


def of_normal(covariance: np.ndarray, width: int) -> LogRatio:
    blocks = (covariance, covariance[:width, :width], covariance[width:, width:])
    return of_joint(*(stats.multivariate_normal(cov=block) for block in blocks))


def of_student(dispersion: np.ndarray, width: int, df: float) -> LogRatio:
    blocks = (dispersion, dispersion[:width, :width], dispersion[width:, width:])
    return of_joint(*(stats.multivariate_t(shape=block, df=df) for block in blocks))


def marginal(y: np.ndarray, conditional: Callable, nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum of weights * p(y | nodes), on quantiles of y and interpolated between them."""
    grid = np.unique(np.quantile(y, np.concatenate([[0], special.ndtr(np.linspace(-4.5, 4.5, 1500)), [1]])))
    values = np.array([weights @ conditional(g, nodes) for g in grid])
    return np.exp(np.interp(y, grid, np.log(values)))


def of_function(function: Callable, scale: Callable = lambda u: 0.3) -> LogRatio:
    """Y = f(U) + scale(U) * normal, the marginal by Gauss-Legendre in 40 pieces."""
    node, weight = np.polynomial.legendre.leggauss(24)
    nodes = ((np.arange(40)[:, None] + (node + 1) / 2) / 40).ravel()

    def conditional(y: np.ndarray, u: np.ndarray) -> np.ndarray:
        return stats.norm.pdf(y, function(u), scale(u))

    def log_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.log(conditional(y[:, 0], x[:, 0]) / marginal(y[:, 0], conditional, nodes, np.tile(weight, 40) / 80))

    return log_ratio


def of_circle(sigma: float) -> LogRatio:
    """The joint density is a Bessel function of the radius; the marginal, of either coordinate, a mean over angles."""
    angles = np.linspace(0, np.pi, 401)[1::2]

    def log_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        radius = np.hypot(x, y)[:, 0]
        bessel = np.log(special.ive(0, radius / sigma**2)) + radius / sigma**2
        joint = bessel - (radius**2 + 1) / (2 * sigma**2) - math.log(2 * math.pi * sigma**2)
        alone = [
            marginal(v[:, 0], lambda g, a: stats.norm.pdf(g, np.cos(a), sigma), angles, np.full(len(angles), 0.005))
            for v in (x, y)
        ]
        return joint - np.log(alone[0]) - np.log(alone[1])

    return log_ratio


def of_uniform_noise(width: float) -> LogRatio:
    def log_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        overlap = np.minimum(1, y + width) - np.maximum(0, y - width)  # of the x that reach y
        return -np.log(overlap[:, 0])

    return log_ratio


def of_scale_only(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    nodes = np.linspace(-8, 8, 1601)
    weights = stats.norm.pdf(nodes) / stats.norm.pdf(nodes).sum()
    log_abs = np.log(np.abs(y[:, 0]))  # the density in log |y| has no spike at 0
    alone = marginal(log_abs, lambda g, s: 2 * stats.norm.pdf(np.exp(g - s)) * np.exp(g - s), nodes, weights)
    return np.log(2 * stats.norm.pdf(np.exp(log_abs - x[:, 0]))) + log_abs - x[:, 0] - np.log(alone)


def of_gammas(shape: float, other: float) -> LogRatio:
    return lambda x, y: (stats.gamma.logpdf(y - x, other) - stats.gamma.logpdf(y, shape + other))[:, 0]


def of_mixture(*parts: tuple[float, list[float], list[list[float]]]) -> LogRatio:
    def log_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        z, columns = np.hstack([x, y]), (x[:, 0], y[:, 0])
        joint = sum(w * stats.multivariate_normal(mean, cov).pdf(z) for w, mean, cov in parts)
        alone = [
            sum(w * stats.norm.pdf(columns[i], mean[i], math.sqrt(cov[i][i])) for w, mean, cov in parts) for i in (0, 1)
        ]
        return np.log(joint / alone[0] / alone[1] * sum(w for w, _, _ in parts))

    return log_ratio


def of_two_balls(distance: float) -> LogRatio:
    def log_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        near = [stats.norm.logpdf(x, s * distance / 2).sum(1) for s in (-1, 1)]
        of_y = [stats.norm.logpdf(y[:, 0], s * distance / 2) for s in (-1, 1)]
        joint = np.logaddexp(near[0] + of_y[0], near[1] + of_y[1])
        return joint - np.logaddexp(*near) - np.logaddexp(*of_y) + math.log(2)

    return log_ratio


def of_clusters(centres: np.ndarray, sigma: float, labels: np.ndarray) -> LogRatio:
    def log_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        near = np.exp(-0.5 * ((x[:, None] - centres) ** 2).sum(2) / sigma**2)  # [N, k]
        own = labels == y  # [N, k]
        return np.log((near * own).sum(1) / own.sum(1) / near.mean(1))

    return log_ratio


def of_codes(table: np.ndarray) -> LogRatio:
    lift = np.log(np.maximum(table, 1e-300) / table.sum(0) / table.sum(1)[:, None] * table.sum())
    return lambda x, y: lift[x[:, 0].astype(int), y[:, 0].astype(int)]


def of_poisson(dropped: float) -> LogRatio:
    """The marginal of a Poisson count with an exponential rate is geometric."""

    def log_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        zero = dropped * (y == 0)
        conditional = zero + (1 - dropped) * stats.poisson.pmf(y, x)
        return np.log(conditional / (zero + (1 - dropped) * 0.5 ** (y + 1)))[:, 0]

    return log_ratio


def of_code_and_range(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    reach = np.arange(5)
    return np.log(5 / ((reach < y) & (y < reach + 2)).sum(1))


def of_halves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    coded = np.abs(x[:, 0]) == 1
    return math.log(2) + np.where(
        coded, np.log(np.where(x == y, 1.6, 0.4))[:, 0], of_normal(elliptical.paired(1, 0.9), 1)(x, y)
    )


def of_waves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    sd = math.sqrt(0.1)
    near = stats.norm.pdf(x[:, :1], 1.5 * np.arange(12), sd)
    of_y = stats.norm.pdf(y, 1.5 * (np.arange(12) % 4), sd)
    return np.log((near * of_y).mean(1) / near.mean(1) / of_y.mean(1))


def _plane(rho: float, x_variance: float = 1, y_variance: float = 1) -> list[list[float]]:
    return [
        [x_variance, rho * math.sqrt(x_variance * y_variance)],
        [rho * math.sqrt(x_variance * y_variance), y_variance],
    ]


AI = (
    (1, [1.0, 0.0], _plane(0, 0.01, 0.2)),
    (1, [1.0, 1.0], _plane(0, 0.05, 0.001)),
    (1, [1.0, -1.0], _plane(0, 0.05, 0.001)),
    (1, [-0.8, -0.2], _plane(0, 0.03, 0.001)),
    (1, [-1.2, 0.0], _plane(0.95, 0.04, 0.2)),
    (1, [-0.4, 0.0], _plane(-0.95, 0.04, 0.2)),
)

#: Before any map, what each truth is computed for.
DENSITIES: dict[str, tuple[Case, LogRatio]] = {
    "gaussian, 2 pairs": (elliptical.pairs(3, 0.8, 0.6), of_normal(elliptical.paired(3, 0.8, 0.6), 3)),
    "gaussian 3+8": (CASES["gaussian 3+8 dense"], of_normal(elliptical.dense(3, 8, 0.4), 3)),
    "gaussian 25": (CASES["gaussian 25-d dense"], of_normal(elliptical.dense(25, 25), 25)),
    "student 1": (CASES["student 1+1, df 1"], of_student(np.eye(2), 1, 1)),
    "student 2": (CASES["student 2+2, df 1"], of_student(np.eye(4), 2, 1)),
    "student 3": (CASES["student 3+3, df 3"], of_student(np.eye(6), 3, 3)),
    "student dense": (CASES["student 3+3 dense, df 2"], of_student(elliptical.dense(3, 3), 3, 2)),
    "student pairs": (CASES["student 5+5, 2 pairs, df 2"], of_student(elliptical.paired(5, 0.8, 0.8), 5, 2)),
    "uniform noise 0.1": (CASES["uniform noise 0.1"], of_uniform_noise(0.1)),
    "uniform noise 0.75": (CASES["uniform noise 0.75"], of_uniform_noise(0.75)),
    "sine": (CASES["sin(4 pi x)"], of_function(lambda u: np.sin(4 * np.pi * u))),
    "sine, growing": (CASES["sin(2 pi x), growing noise"], of_function(noise.sine(1), lambda u: 0.05 + 0.45 * u)),
    "parabola": (CASES["parabola"], of_function(lambda u: (2 * u - 1) ** 2, lambda u: 0.1)),
    "staircase": (CASES["staircase"], of_function(lambda u: np.floor(4 * u), lambda u: 0.2)),
    "circle 0.1": (CASES["circle"], of_circle(0.1)),
    "circle 0.3": (CASES["circle, noisy"], of_circle(0.3)),
    "scale only": (CASES["scale only"], of_scale_only),
    "sum of exponentials": (CASES["sum of exponentials"], of_gammas(1, 1)),
    "sum of gammas": (CASES["sum of gammas"], of_gammas(3, 0.5)),
    "gamma and exponential": (
        CASES["gamma and exponential"],
        lambda x, y: (stats.expon.logpdf(y, scale=1 / x) - stats.lomax.logpdf(y, 1))[:, 0],
    ),
    "multiplicative noise": (
        CASES["multiplicative noise"],
        lambda x, y: (stats.lognorm.logpdf(y, 0.5, scale=x) - stats.lognorm.logpdf(y, math.sqrt(1.25)))[:, 0],
    ),
    "product of uniforms": (CASES["product of uniforms"], lambda x, y: -np.log(-x * np.log(y))[:, 0]),
    "letter X": (CASES["letter X"], of_mixture((1, [0, 0], _plane(0.9)), (1, [0, 0], _plane(-0.9)))),
    "letters AI": (CASES["letters AI"], of_mixture(*AI)),
    "outliers": (CASES["outliers, a fifth"], of_mixture((0.8, [0, 0], _plane(0.9)), (0.2, [0, 0], _plane(0)))),
    "galaxy": (mixtures.two_balls(3.0), of_two_balls(3.0)),
    "waves": (mixtures.wave_base(), of_waves),
    "codes": (CASES["codes, 20 levels"], of_codes(discrete.noisy_permutation(20, 0.7))),
    "clusters": (CASES["clusters and label"], of_clusters(catalogue._SQUARE, 0.4, np.arange(5))),
    "corners": (CASES["corners and label"], of_clusters(catalogue._CORNERS, 1, np.arange(4))),
    "corners and xor": (CASES["corners and xor"], of_clusters(catalogue._CORNERS, 1, np.array([0, 0, 1, 1]))),
    "Poisson": (discrete.zero_inflated_poisson(0), of_poisson(0)),
    "zero-inflated Poisson": (CASES["zero-inflated Poisson"], of_poisson(0.15)),
    "code and range": (CASES["code and range"], of_code_and_range),
    "half Gaussian, half codes": (CASES["half Gaussian, half codes"], of_halves),
}
