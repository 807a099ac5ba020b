"""Gaussians and Student-t's, whose information is a closed form."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from .case import Case, Pair


def gaussian_information(covariance: np.ndarray, width: int) -> float:
    """I(X; Y) of a Gaussian whose first `width` columns are X."""
    log_det = [np.linalg.slogdet(c)[1] for c in (covariance[:width, :width], covariance[width:, width:], covariance)]
    return 0.5 * (log_det[0] + log_det[1] - log_det[2])


def student_correction(df: float, x_width: int, y_width: int) -> float:
    """What a Student-t's information exceeds its dispersion matrix's Gaussian by (Arellano-Valle et al., 2013)."""

    def f(v: float) -> float:
        return float(special.gammaln(v / 2) - v / 2 * special.digamma(v / 2))

    return f(df) + f(df + x_width + y_width) - f(df + x_width) - f(df + y_width)


def paired(width: int, *correlations: float) -> np.ndarray:
    """Covariance [2w, 2w] of unit variances; the first columns x_i, y_i correlated as given, in turn."""
    covariance = np.eye(2 * width)
    for i, rho in enumerate(correlations):
        covariance[i, width + i] = covariance[width + i, i] = rho
    return covariance


def dense(x_width: int, y_width: int, rho: float = 0.5) -> np.ndarray:
    """Covariance with every correlation rho."""
    return np.full((x_width + y_width,) * 2, rho) + (1 - rho) * np.eye(x_width + y_width)


def normal(covariance: np.ndarray, width: int, df: float = math.inf) -> Case:
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

    return Case(draw, truth)


def pairs(width: int, *correlations: float) -> Case:
    """A Gaussian of `width` columns a side, some of them correlated one to one."""
    return normal(paired(width, *correlations), width)


def student(width: int, df: float) -> Case:
    """A Student-t with the identity for dispersion: uncorrelated, dependent by the scale that rows share."""
    return normal(np.eye(2 * width), width, df)
