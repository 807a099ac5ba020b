"""The cases by name, family by family."""

from __future__ import annotations

from itertools import chain

import numpy as np

from .case import Case, hidden, independent, mapped, tuned
from .discrete import (
    clusters,
    code_and_range,
    codes,
    half_gaussian_half_codes,
    noisy_permutation,
    zero_inflated_poisson,
)
from .elliptical import dense, normal, paired, pairs, student
from .maps import (
    bimodal,
    half_cube,
    mixed_up,
    normal_cdf,
    other_wiggle,
    same,
    spiral,
    swirl,
    swiss_roll,
    wave,
    wiggle,
)
from .mixtures import letter_x, letters_ai, outliers, two_balls, wave_base
from .noise import (
    circle,
    function_of_uniform,
    gamma_exponential,
    gamma_sum,
    growing,
    multiplicative_noise,
    parabola,
    product_of_uniforms,
    scale_mixture,
    sine,
    staircase,
    uniform_noise,
)

TWO = (0.8, 0.8)
_SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 2.0]])
_CORNERS = np.array([[0.0, 0.0], [4.0, 4.0], [0.0, 4.0], [4.0, 0.0]])


def _spiral(case: Case, speed: float) -> Case:
    """BMI's: X turns in its first plane, Y in the next."""
    return mapped(case, lambda v: spiral(v, speed), lambda v: spiral(v, speed, first=1))


def _cauchy(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.standard_cauchy((rows, 1))


def _student_rows(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.standard_normal((rows, 5)) / np.sqrt(rng.chisquare(1, (rows, 1)))


def _log_normal(rng: np.random.Generator, rows: int) -> np.ndarray:
    return np.exp(2 * rng.standard_normal((rows, 2)))


def _code(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.integers(10, size=(rows, 1)).astype(float)


def _uniform_10(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.uniform(size=(rows, 10))


def _coins(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.integers(2, size=(rows, 3)).astype(float)


FAMILIES: dict[str, dict[str, Case]] = {
    "Gaussian": {
        "gaussian 1-d, rho 0.5": pairs(1, 0.5),
        "gaussian 1-d, rho 0.75": pairs(1, 0.75),
        "gaussian 1-d, rho 0.9": tuned(pairs(1, 0.9)),
        "gaussian 1-d, rho 0.99": tuned(pairs(1, 0.99)),
        "gaussian 20-d, rho 0.5": tuned(pairs(20, *[0.5] * 20)),
        "gaussian 2-d dense": normal(dense(2, 2), 2),
        "gaussian 3-d dense": normal(dense(3, 3), 3),
        "gaussian 5-d dense": normal(dense(5, 5), 5),
        "gaussian 25-d dense": tuned(normal(dense(25, 25), 25)),
        "gaussian 50-d dense": normal(dense(50, 50), 50),
        "gaussian 3+8 dense": normal(dense(3, 8, 0.4), 3),
        "gaussian 2-d, 2 pairs": pairs(2, *TWO),
        "gaussian 3-d, 2 pairs": pairs(3, *TWO),
        "gaussian 5-d, 2 pairs": pairs(5, *TWO),
        "gaussian 25-d, 2 pairs": tuned(pairs(25, *TWO)),
        "gaussian 50-d, 2 pairs": pairs(50, *TWO),
    },
    "heavy tails": {
        "student 1+1, df 1": student(1, 1),
        "student 2+2, df 1": tuned(student(2, 1)),
        "student 2+2, df 2": student(2, 2),
        "student 3+3, df 2": student(3, 2),
        "student 3+3, df 3": student(3, 3),
        "student 5+5, df 2": student(5, 2),
        "student 5+5, df 3": student(5, 3),
        "student 3+3 dense, df 2": tuned(normal(dense(3, 3), 3, 2)),
        "student 5+5, 2 pairs, df 2": normal(paired(5, *TWO), 5, 2),
        "student 1+1 asinh, df 1": mapped(student(1, 1), np.arcsinh),
        "student 2+2 asinh, df 1": mapped(student(2, 1), np.arcsinh),
        "student 3+3 asinh, df 2": mapped(student(3, 2), np.arcsinh),
        "student 5+5 asinh, df 2": mapped(student(5, 2), np.arcsinh),
        "gamma and exponential": gamma_exponential(1.0),
        "multiplicative noise": multiplicative_noise(0.5),
        "scale only": tuned(scale_mixture()),
    },
    "behind maps": {
        "gaussian 1-d cdf, rho 0.75": mapped(pairs(1, 0.75), normal_cdf),
        "gaussian 3-d cdf, 2 pairs": mapped(pairs(3, *TWO), normal_cdf),
        "gaussian 5-d cdf, 2 pairs": mapped(pairs(5, *TWO), normal_cdf),
        "gaussian 25-d cdf, 2 pairs": mapped(pairs(25, *TWO), normal_cdf),
        "gaussian 1-d half cube, rho 0.75": mapped(pairs(1, 0.75), half_cube),
        "gaussian 1-d half cube, rho 0.9": mapped(pairs(1, 0.9), half_cube),
        "gaussian 3-d half cube, 2 pairs": mapped(pairs(3, *TWO), half_cube),
        "gaussian 5-d half cube, 2 pairs": mapped(pairs(5, *TWO), half_cube),
        "gaussian 25-d half cube, 2 pairs": mapped(pairs(25, *TWO), half_cube),
        "gaussian 1-d bimodal, rho 0.75": mapped(
            pairs(1, 0.75), lambda v: bimodal(v, 0.3, 0, 5), lambda v: bimodal(v, 0.5, -1, 3)
        ),
        "gaussian 1-d wiggles, rho 0.75": mapped(pairs(1, 0.75), wiggle, other_wiggle),
        "gaussian 1-d wiggle, rho 0.9": mapped(pairs(1, 0.9), wiggle),
        "gaussian 3-d mixed up": tuned(mapped(pairs(3, 0.8, 0.6), mixed_up)),
        "gaussian 2-d swirl": tuned(mapped(pairs(2, *TWO), swirl)),
        "gaussian 2-d swirl, twice": mapped(pairs(2, 0.9, 0.6), lambda v: swirl(v, 2)),
        "gaussian 3-d spiral": tuned(
            mapped(pairs(3, *TWO), lambda v: spiral(v, 1 / 3), lambda v: spiral(v, -1 / 3)),
        ),
        "gaussian 5-d spiral": mapped(pairs(5, *TWO), lambda v: spiral(v, 0.2), lambda v: spiral(v, -0.2)),
        "gaussian 3-d spirals": _spiral(pairs(3, *TWO), 1 / 3),
        "gaussian 5-d spirals": _spiral(pairs(5, *TWO), 1 / 5),
        "gaussian 25-d spirals": _spiral(pairs(25, *TWO), 1 / 25),
        "gaussian 3-d cdf spirals": _spiral(mapped(pairs(3, *TWO), normal_cdf), 1 / 3),
        "gaussian 5-d cdf spirals": _spiral(mapped(pairs(5, *TWO), normal_cdf), 1 / 5),
        "gaussian 25-d cdf spirals": _spiral(mapped(pairs(25, *TWO), normal_cdf), 1 / 25),
        "swiss roll": tuned(mapped(pairs(1, 0.8), swiss_roll, same)),
        "swiss roll of uniforms": mapped(pairs(1, 0.75), swiss_roll, normal_cdf),
    },
    "functions with noise": {
        "uniform noise 0.1": tuned(uniform_noise(0.1)),
        "uniform noise 0.25": uniform_noise(0.25),
        "uniform noise 0.75": uniform_noise(0.75),
        "sin(2 pi x)": function_of_uniform(sine(1), 0.3),
        "sin(4 pi x)": tuned(function_of_uniform(sine(2), 0.3)),
        "sin(8 pi x)": function_of_uniform(sine(4), 0.3),
        "sin(4 pi x) among 10": hidden(10, mapped(function_of_uniform(sine(2), 0.3), lambda v: v * 3)),
        "sin(2 pi x), growing noise": function_of_uniform(sine(1), growing),
        "parabola": function_of_uniform(parabola, 0.1),
        "staircase": tuned(function_of_uniform(staircase, 0.2)),
        "circle": tuned(circle(0.1)),
        "circle, noisy": circle(0.3),
        "circle among 5": tuned(hidden(5, circle(0.3))),
        "sum of exponentials": gamma_sum(1, 1),
        "sum of gammas": gamma_sum(3, 0.5),
        "product of uniforms": product_of_uniforms(),
    },
    "mixtures": {
        "letter X": letter_x(0.9),
        "letters AI": letters_ai(),
        "outliers, a fifth": outliers(0.9, 0.2),
        "outliers among 5": hidden(5, outliers(0.9, 0.2)),
        "galaxy": mapped(two_balls(3.0), lambda v: spiral(v, 0.5), same),
        "waves": mapped(wave_base(), wave, same),
    },
    "discrete": {
        "codes, 5 levels": tuned(codes(noisy_permutation(5, 0.6))),
        "codes, 20 levels": codes(noisy_permutation(20, 0.7)),
        "clusters and label": tuned(clusters(_SQUARE, 0.4)),
        "corners and label": clusters(_CORNERS, 1.0),
        "corners and xor": clusters(_CORNERS, 1.0, np.array([0, 0, 1, 1])),
        "zero-inflated Poisson": zero_inflated_poisson(0.15),
        "code and range": code_and_range(5),
        "half Gaussian, half codes": tuned(half_gaussian_half_codes(0.9, 0.8)),  # its failure showed an error in ours
    },
    "independent": {
        "independent 1-d": tuned(independent(lambda rng, rows: rng.standard_normal((rows, 1)))),
        "independent Cauchy": tuned(independent(_cauchy)),
        "independent student 5+5, df 1": independent(_student_rows),
        "independent log-normal and code": independent(_log_normal, _code),
        "independent 10-d uniform": independent(_uniform_10),
        "independent coins": independent(_coins),
    },
}

CASES: dict[str, Case] = dict(chain.from_iterable(family.items() for family in FAMILIES.values()))

#: The 40 tasks of Czyz et al. (2023), by our names.
BMI: tuple[str, ...] = (
    "gaussian 1-d, rho 0.75",
    "gaussian 1-d cdf, rho 0.75",
    "uniform noise 0.1",
    "uniform noise 0.75",
    "gaussian 1-d bimodal, rho 0.75",
    "gaussian 1-d wiggles, rho 0.75",
    "gaussian 1-d half cube, rho 0.75",
    "student 1+1, df 1",
    "student 1+1 asinh, df 1",
    "swiss roll of uniforms",
    *(f"gaussian {d}-d dense" for d in (2, 3, 5, 25, 50)),
    *(f"gaussian {d}-d, 2 pairs" for d in (2, 3, 5, 25)),
    *(f"student {d}+{d}, df {df}" for d, df in ((2, 1), (2, 2), (3, 2), (3, 3), (5, 2), (5, 3))),
    *(f"gaussian {d}-d {name}" for name in ("cdf, 2 pairs", "half cube, 2 pairs") for d in (3, 5, 25)),
    *(f"gaussian {d}-d {name}" for name in ("spirals", "cdf spirals") for d in (3, 5, 25)),
    *(f"student {d}+{d} asinh, df {df}" for d, df in ((2, 1), (3, 2), (5, 2))),
)

#: Beyond what rows of any practical number certify: to be flagged, and not wild.
HIGH: dict[str, Case] = {
    "gaussian 20-d, rho 0.9": tuned(pairs(20, *[0.9] * 20)),
    "gaussian 10-d, rho 0.95": pairs(10, *[0.95] * 10),
}
