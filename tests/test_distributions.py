"""The truths of the benchmark's distributions, by their densities; that their maps can be inverted; and the draws.

The mean of log p(x, y) / (p(x) p(y)) over fresh rows is the information with a known error. It differs as well if rows
are drawn from something else than the truth is of.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from densities import DENSITIES
from distributions import BMI, CASES, FAMILIES, HIGH, case, discrete, maps, noise
from scipy import special

ROWS = 60_000


@pytest.mark.parametrize("name", DENSITIES)
def test_truth_is_the_mean_log_density_ratio(name: str) -> None:
    case, log_ratio = DENSITIES[name]
    values = log_ratio(*case.draw(np.random.default_rng(7), ROWS))
    assert values.mean() == pytest.approx(case.truth, abs=4 * values.std() / math.sqrt(ROWS) + 1e-4)


def test_truths_of_another_source() -> None:
    """Values that the literature gives, in nats; the zero-inflated one is not (1 - p) times the Poisson channel's."""
    channel = 2 * math.log(2) - np.euler_gamma - sum(math.log(k) / 2**k for k in range(1, 60))
    assert discrete.zero_inflated_poisson(0).truth == pytest.approx(channel, abs=1e-6)
    assert discrete.zero_inflated_poisson(0.15).truth < 0.85 * channel - 0.02
    assert CASES["student 1+1, df 1"].truth == pytest.approx(math.log(8 * math.pi) - 3, abs=1e-9)
    assert CASES["uniform noise 0.75"].truth == pytest.approx(1 / 3)
    assert CASES["gaussian 5-d, 2 pairs"].truth == pytest.approx(-math.log(0.36))
    assert CASES["sum of exponentials"].truth == pytest.approx(np.euler_gamma)


@pytest.mark.parametrize(
    "increasing",
    [
        maps.normal_cdf,
        maps.half_cube,
        maps.wiggle,
        maps.other_wiggle,
        np.arcsinh,
        lambda v: maps.bimodal(v, 0.3, 0, 5),
        lambda v: maps.bimodal(v, 0.5, -1, 3),
    ],
)
def test_map_of_a_column_is_increasing(increasing: case.Map) -> None:
    assert np.all(np.diff(increasing(np.linspace(-7, 7, 100_001))) > 0)


def test_bimodal_is_the_mixture() -> None:
    v = np.linspace(-6, 6, 1001)
    out = maps.bimodal(v, 0.3, 0, 5)
    np.testing.assert_allclose(0.3 * special.ndtr(out) + 0.7 * special.ndtr(out - 5), special.ndtr(v), atol=1e-6)


def test_rotations_turn_back() -> None:
    v = np.random.default_rng(0).standard_normal((500, 5))
    np.testing.assert_allclose(maps.swirl(maps.swirl(v, 2), -2), v, atol=1e-12)
    for first in (0, 1):
        np.testing.assert_allclose(maps.spiral(maps.spiral(v, 0.2, first), -0.2, first), v, atol=1e-12)


def test_mixed_up_is_a_wiggle_between_rotations() -> None:
    v = np.random.default_rng(0).standard_normal((500, 3))
    q = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(maps.mixed_up(v) @ q, maps.wiggle(v @ q), atol=1e-12)


def test_swiss_roll_and_wave_can_be_unrolled() -> None:
    v = np.random.default_rng(0).standard_normal((500, 2))
    radius = np.hypot(*maps.swiss_roll(v).T) * 21
    np.testing.assert_allclose(special.ndtri((radius / (1.5 * np.pi) - 1) / 2), v[:, 0], atol=1e-9)
    waved = maps.wave(v)
    np.testing.assert_allclose(waved[:, 0] - 5 * np.sin(3 * waved[:, 1]), v[:, 0], atol=1e-12)


def test_hidden_case_is_there_when_turned_back() -> None:
    plain = noise.circle(0.3)
    x, y = plain.draw(np.random.default_rng(3), 50)
    wide = case.hidden(5, plain).draw(np.random.default_rng(3), 50)
    for v, columns, seed in zip((x, y), wide, (1, 2), strict=True):
        rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((5, 5)))[0]
        np.testing.assert_allclose((columns @ rotation.T)[:, :1], v, atol=1e-12)


@pytest.mark.parametrize("name", [*CASES, *HIGH])
def test_draws(name: str) -> None:
    one = {**CASES, **HIGH}[name]
    x, y = one.draw(np.random.default_rng(1), 60)
    again = one.draw(np.random.default_rng(1), 60)
    assert x.ndim == y.ndim == 2
    assert len(x) == len(y) == 60
    assert np.isfinite(np.hstack([x, y])).all()
    np.testing.assert_array_equal(x, again[0])
    np.testing.assert_array_equal(y, again[1])
    assert not np.array_equal(x, one.draw(np.random.default_rng(2), 60)[0])
    assert math.isfinite(one.truth)
    assert one.truth >= 0


def test_names() -> None:
    assert sum(len(family) for family in FAMILIES.values()) == len(CASES)
    assert len(set(BMI)) == 40
    assert set(BMI) <= set(CASES)
    assert any(c.tuned for c in CASES.values())
    assert sum(not c.tuned for c in CASES.values()) > 50
