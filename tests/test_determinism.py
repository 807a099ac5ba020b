"""A function without noise is told from strong dependence, for what neighbours can show."""

from __future__ import annotations

import math

import pytest
import torch

from mine_fast.data import ArraySource
from mine_fast.determinism import _nearest, deterministic, is_function_of


def normal(rows, width=1, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(rows, seed=0):
    return torch.rand(rows, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = normal(3000)
WIDE = normal(3000, 5)
MIXING = normal(5, 5, seed=1)

FUNCTIONS = {
    "y = x": (X, X),
    "y = x^2": (X, X**2),
    "y = sin(4 pi x)": (uniform(3000), torch.sin(4 * math.pi * uniform(3000))),
    "y = -3x + 1": (X, -3 * X + 1),
    "y = -3x + 1 in float32": (X.float(), -3 * X.float() + 1),
    "y = x^3 in float32": (X.float(), X.float() ** 3),
    "heavy tails": (1 / X, 2 / X - 1e9),
    "a step": (X, X + (X > 0)),
    "x = f(y)": (X**2, X),
    "y = A x": (WIDE, WIDE @ MIXING),
    "one column of A x": (WIDE, torch.cat([normal(3000, 2, seed=2), (WIDE @ MIXING)[:, :1]], 1)),
    "x repeats a column": (torch.cat([X, X], 1), X**2),
    "two columns": (WIDE[:, :2], WIDE[:, :1] * WIDE[:, 1:2]),
    "many to one": (uniform(3000), (3 * uniform(3000)) % 1),
    "a square of one of many columns": (normal(3000, 20), normal(3000, 20)[:, 3:4] ** 2),
    "y has a column of x among many": (
        normal(3000, 200),
        torch.cat([normal(3000, 30, seed=4), 1 - 2 * normal(3000, 200)[:, 7:8]], 1),
    ),
    "300 rows": (uniform(300), torch.sin(4 * math.pi * uniform(300))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_functions_are_flagged(name, seed):
    flag = deterministic(ArraySource(*FUNCTIONS[name]), seed)
    assert flag is not None
    assert flag.code == "deterministic"


def noisy(x, rho, seed=5):
    return rho * x + math.sqrt(1 - rho**2) * normal(*x.shape, seed=seed)


BITS = (normal(3000, 20) > 0).double()
NOT_FUNCTIONS = {
    **{f"rho {rho}": (X, noisy(X, rho)) for rho in (0.0, 0.9, 0.99, 0.999, 0.9999)},
    "rho 0.999, 60 rows": (X[:60], noisy(X[:60], 0.999)),
    "rho 0.999, 5 columns": (WIDE, noisy(WIDE, 0.999)),
    "rho 0.999, 20 columns": (normal(3000, 20), noisy(normal(3000, 20), 0.999)),
    "narrow noise": (X, X + 0.01 * uniform(3000, seed=1)),
    "bits": (BITS, BITS),
    "one code": ((2 * X).round(), (2 * X).round()),
    "rounded": (X, (100 * X).round() / 100),
    "a code of x": (X, (X > 0).double()),
    "mostly zeros": (X.clamp(min=0), X.clamp(min=0)),
    "constant": (X, torch.zeros_like(X)),
    "a random walk": (torch.arange(3000, dtype=torch.float64)[:, None], X.cumsum(0)),
    "a map of more columns than are looked at together": (normal(3000, 40), normal(3000, 40) @ normal(40, 2, seed=1)),
    "rho 0.999 in one of many columns": (normal(3000, 40), noisy(normal(3000, 40)[:, 7:8], 0.999)),
    "one of many columns and narrow noise": (normal(3000, 20), normal(3000, 20)[:, 3:4] ** 2 + 1e-3 * noisy(X, 0.0)),
    "y = x and narrow noise": (X, X + 1e-3 * noisy(X, 0.0)),
}


@pytest.mark.parametrize("name", NOT_FUNCTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_noise_and_codes_are_not_flagged(name, seed):
    assert deterministic(ArraySource(*NOT_FUNCTIONS[name]), seed) is None


def test_the_direction_is_told():
    assert is_function_of(X[:1000] ** 2, X[:1000])
    assert not is_function_of(X[:1000], X[:1000] ** 2)


def test_rows_of_more_dimensions():
    images = normal(500, 4).reshape(500, 2, 2)
    assert deterministic(ArraySource(images, images[:, 0, :1] * 3), 0) is not None


@pytest.mark.parametrize("rows", [13, 200])
@pytest.mark.parametrize("ties", [False, True])
def test_nearest_rows_in_one_column_are_those_by_all_distances(rows, ties):
    x = normal(rows)
    x = x.round() if ties else x
    distance = (x - x.T).abs().fill_diagonal_(math.inf)
    nearest = _nearest(x, 6)
    assert not (nearest == torch.arange(rows)[:, None]).any()
    assert torch.equal(distance.gather(1, nearest).sort(1).values, distance.topk(6, largest=False).values)
