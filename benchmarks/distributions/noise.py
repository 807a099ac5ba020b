"""A signal and what noise leaves of it: additive, multiplicative, of a changing scale."""

from __future__ import annotations

import math

import numpy as np
from scipy import integrate, special

from .case import Case, Map, Pair


def uniform_noise(width: float) -> Case:
    """X uniform on (0, 1), Y = X + noise uniform on (-width, width)."""
    truth = 1 / (4 * width) if width > 0.5 else width - math.log(2 * width)

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x = rng.uniform(size=(rows, 1))
        return x, x + rng.uniform(-width, width, (rows, 1))

    return Case(draw, truth)


def function_of_uniform(function: Map, sigma: float | Map) -> Case:
    """X uniform on (0, 1), Y = f(X) + sigma * normal, where sigma may be a function of X.

    The truth is h(Y) - h(noise), by quadrature: midpoints over X, trapezoids over Y.
    """
    scale = sigma if callable(sigma) else lambda u: np.full_like(u, sigma)
    u = (np.arange(4000) + 0.5) / 4000
    centres, scales = function(u), scale(u)
    grid = np.linspace((centres - 8 * scales).min(), (centres + 8 * scales).max(), 1001)
    density = np.array([(np.exp(-0.5 * ((g - centres) / scales) ** 2) / scales).mean() for g in grid])
    density /= math.sqrt(2 * math.pi)
    entropy = -float(integrate.trapezoid(special.xlogy(density, density), grid))
    truth = entropy - 0.5 * math.log(2 * math.pi * math.e) - float(np.log(scales).mean())

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x = rng.uniform(size=(rows, 1))
        return x, function(x) + scale(x) * rng.standard_normal((rows, 1))

    return Case(draw, truth)


def sine(periods: int) -> Map:
    return lambda u: np.sin(2 * np.pi * periods * u)


def parabola(u: np.ndarray) -> np.ndarray:
    return (2 * u - 1) ** 2


def staircase(u: np.ndarray) -> np.ndarray:
    return np.floor(4 * u)


def growing(u: np.ndarray) -> np.ndarray:
    """The scale of a noise that is ten times as wide at the end as at the beginning."""
    return 0.05 + 0.45 * u


def information_on_grid(density: np.ndarray, dx: float, dy: float) -> float:
    """I(X; Y) of a density [a, b] on a grid with these steps."""
    density = density / (density.sum() * dx * dy)
    px, py = density.sum(1) * dy, density.sum(0) * dx
    joint = special.xlogy(density, density).sum() * dx * dy
    return float(joint - special.xlogy(px, px).sum() * dx - special.xlogy(py, py).sum() * dy)


def circle(sigma: float) -> Case:
    """A point of the unit circle with normal noise on both coordinates; the truth by quadrature."""
    axis = np.linspace(-1 - 6 * sigma, 1 + 6 * sigma, 600)
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    kernel_x = np.exp(-0.5 * ((axis[:, None] - np.cos(angles)) / sigma) ** 2)
    kernel_y = np.exp(-0.5 * ((axis[:, None] - np.sin(angles)) / sigma) ** 2)
    step = axis[1] - axis[0]
    truth = information_on_grid(kernel_x @ kernel_y.T, step, step)

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        angle = rng.uniform(0, 2 * np.pi, rows)
        noise = sigma * rng.standard_normal((2, rows))
        return (np.cos(angle) + noise[0])[:, None], (np.sin(angle) + noise[1])[:, None]

    return Case(draw, truth)


def scale_mixture() -> Case:
    """Y is normal with the standard deviation exp(X): no correlation, all in the scale."""
    xs = np.linspace(-6, 6, 401)
    ys = np.sinh(np.linspace(-9, 9, 2001))
    conditional = np.exp(-0.5 * (ys / np.exp(xs)[:, None]) ** 2 - xs[:, None]) / math.sqrt(2 * math.pi)
    weight = np.exp(-0.5 * xs**2)
    marginal = weight / weight.sum() @ conditional
    entropy = -integrate.trapezoid(special.xlogy(marginal, marginal), ys)
    truth = float(entropy - 0.5 * math.log(2 * math.pi * math.e))  # E[log exp(X)] = 0

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x = rng.standard_normal((rows, 1))
        return x, np.exp(x) * rng.standard_normal((rows, 1))

    return Case(draw, truth)


def gamma_entropy(shape: float) -> float:
    """Differential entropy of a gamma variable of scale 1."""
    return float(shape + special.gammaln(shape) + (1 - shape) * special.digamma(shape))


def gamma_sum(shape: float, noise_shape: float) -> Case:
    """X gamma, Y = X + gamma noise, so that h(Y) - h(noise) has a closed form; two exponentials: Euler's constant."""
    truth = gamma_entropy(shape + noise_shape) - gamma_entropy(noise_shape)

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x = rng.gamma(shape, size=(rows, 1))
        return x, x + rng.gamma(noise_shape, size=(rows, 1))

    return Case(draw, truth)


def gamma_exponential(shape: float) -> Case:
    """X gamma, Y exponential with the rate X (Darbellay and Vajda, 1999); Y's tail is a power law."""

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x = rng.gamma(shape, size=(rows, 1))
        return x, rng.exponential(size=(rows, 1)) / x

    return Case(draw, float(special.digamma(shape + 1)) - math.log(shape))


def multiplicative_noise(spread: float) -> Case:
    """X log-normal, Y = X times a log-normal of this spread: a Gaussian channel in the logarithm."""

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x = np.exp(rng.standard_normal((rows, 1)))
        return x, x * np.exp(spread * rng.standard_normal((rows, 1)))

    return Case(draw, 0.5 * math.log1p(1 / spread**2))


def product_of_uniforms() -> Case:
    """X uniform on (0, 1), Y = X times another: minus their logarithms are exponentials, so Euler's constant."""

    def draw(rng: np.random.Generator, rows: int) -> Pair:
        x = rng.uniform(size=(rows, 1))
        return x, x * rng.uniform(size=(rows, 1))

    return Case(draw, float(np.euler_gamma))
