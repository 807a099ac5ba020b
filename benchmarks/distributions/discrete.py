"""Codes, counts, and codes beside quantities."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from .case import Case, Pair
from .elliptical import gaussian_information, paired


def information_of_table(table: np.ndarray) -> float:
    """I of joint probabilities [a, b]."""
    terms = (table, table.sum(0), table.sum(1))
    joint, first, second = (float(special.xlogy(t, t).sum()) for t in terms)
    return joint - first - second


def codes(table: np.ndarray) -> Case:
    """Codes (a, b) with these joint probabilities."""
    table = table / table.sum()

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        cell = rng.choice(table.size, rows, p=table.ravel())
        return (cell // table.shape[1])[:, None].astype(float), (cell % table.shape[1])[:, None].astype(float)

    return Case(draw, information_of_table(table))


def noisy_permutation(levels: int, kept: float) -> np.ndarray:
    """The joint table of a uniform code and a shuffled copy that is right with probability `kept`, else any."""
    table = np.full((levels, levels), (1 - kept) / levels)
    table[np.arange(levels), np.random.default_rng(levels).permutation(levels)] += kept
    return table


def clusters(centres: np.ndarray, sigma: float, labels: np.ndarray | None = None) -> Case:
    """X normal around one of the centres [k, 2], Y its label [k], or its number; h(X) - h(X | Y) by quadrature."""
    labels = np.arange(len(centres)) if labels is None else labels
    low, high = centres.min(0) - 7 * sigma, centres.max(0) + 7 * sigma
    a, b = (np.linspace(low[i], high[i], 401) for i in range(2))
    step = (a[1] - a[0]) * (b[1] - b[0])
    parts = np.array(
        [np.exp(-0.5 * ((a - c[0]) / sigma) ** 2)[:, None] * np.exp(-0.5 * ((b - c[1]) / sigma) ** 2) for c in centres]
    ) / (2 * math.pi * sigma**2)

    def entropy(density: np.ndarray) -> float:
        return -float(special.xlogy(density, density).sum()) * step

    conditional = sum(np.mean(labels == one) * entropy(parts[labels == one].mean(0)) for one in np.unique(labels))
    truth = entropy(parts.mean(0)) - float(conditional)

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        part = rng.integers(len(centres), size=rows)
        return centres[part] + sigma * rng.standard_normal((rows, 2)), labels[part][:, None].astype(float)

    return Case(draw, truth)


def zero_inflated_poisson(dropped: float) -> Case:
    """X exponential, Y 0 with probability `dropped` and else Poisson(X) (Gao et al., 2017).

    Their formula, (1 - dropped) times the information of the Poisson channel, takes a dropped count for one that is
    seen to be dropped; a Poisson's own zeros look the same, so the information is less. Here by quadrature over X.
    """
    node, weight = np.polynomial.legendre.leggauss(400)
    x, weight = 30 * (node + 1), 30 * weight * np.exp(-30 * (node + 1))  # beyond 60 an exponential has 1e-26
    counts = np.arange(150)
    given_x = (1 - dropped) * np.exp(special.xlogy(counts, x[:, None]) - x[:, None] - special.gammaln(counts + 1))
    given_x[:, 0] += dropped
    marginal = weight @ given_x
    truth = float(weight @ special.xlogy(given_x, given_x).sum(1) - special.xlogy(marginal, marginal).sum())

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        rate = rng.exponential(size=(rows, 1))
        kept = rng.uniform(size=(rows, 1)) >= dropped
        return rate, (kept * rng.poisson(rate)).astype(float)

    return Case(draw, truth)


def code_and_range(levels: int) -> Case:
    """X a uniform code, Y uniform on (X, X + 2): neighbouring ranges overlap by half (Gao et al., 2017)."""

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x = rng.integers(levels, size=(rows, 1)).astype(float)
        return x, x + 2 * rng.uniform(size=(rows, 1))

    return Case(draw, math.log(levels) - (levels - 1) * math.log(2) / levels)


def half_gaussian_half_codes(rho: float, agree: float) -> Case:
    """Half the rows Gaussian, half of them -1 or 1 on both sides, alike with probability `agree` (Gao et al., 2017).

    Either variable tells which half a row is of: ln 2, and the mean of what the halves hold.
    """
    of_codes = information_of_table(np.array([[agree, 1 - agree], [1 - agree, agree]]) / 2)
    truth = math.log(2) + 0.5 * gaussian_information(paired(1, rho), 1) + 0.5 * of_codes

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x = rng.standard_normal((rows, 1))
        y = rho * x + math.sqrt(1 - rho**2) * rng.standard_normal((rows, 1))
        sign = rng.choice([-1.0, 1.0], (rows, 1))
        other = np.where(rng.uniform(size=(rows, 1)) < agree, sign, -sign)
        coded = rng.uniform(size=(rows, 1)) < 0.5
        return np.where(coded, sign, x), np.where(coded, other, y)

    return Case(draw, truth)
