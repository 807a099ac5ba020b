"""Equitability: the truth against closed forms and sampling, and a run end to end."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mine_fast.experiments.equitability import EXPERIMENT, FUNCTIONS, truth
from mine_fast.experiments.runner import run_seed


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_truth_by_sampling(function, sigma):
    """E log p(y|x) / p(y) with the density of y from other draws of x: no grid of y in it."""
    rng = np.random.default_rng(0)
    f = FUNCTIONS[function]
    x = rng.uniform(-1, 1, 4000)
    y = f(x) + sigma * rng.standard_normal(4000)
    given = -0.5 * ((y - f(x)) / sigma) ** 2
    mixture = np.exp(-0.5 * ((y[:, None] - f(rng.uniform(-1, 1, 4000))) / sigma) ** 2).mean(1)
    ratios = given - np.log(mixture)
    # Four standard errors, and as much again for the other draws.
    assert truth(function, sigma) == pytest.approx(ratios.mean(), abs=8 * ratios.std() / math.sqrt(4000))


def test_limits_of_the_truth():
    # Much noise: a Gaussian channel's log(1 + variance of f / sigma^2) / 2, the variance of x being 1/3.
    assert truth("x", 20.0) == pytest.approx(0.5 * math.log1p(1 / 3 / 400), rel=1e-3)
    # Little: h(X) - h(noise).
    assert truth("x", 1e-2) == pytest.approx(math.log(2) - 0.5 * math.log(2 * math.pi * math.e * 1e-4), abs=0.02)
    assert truth("x", 0.3, columns=3) == pytest.approx(3 * truth("x", 0.3))
    assert truth("x", 0.0) == math.inf
    assert truth("x^3", 0.3) < truth("sin x", 0.3) < truth("x", 0.3)


def test_smoke(tmp_path):
    metrics = run_seed(EXPERIMENT, "smoke", tmp_path)
    for name in FUNCTIONS:
        for estimator in ("MINE", "estimate()"):
            # 1000 rows, at most 0.7 nats: within four standard errors and a short training's shortfall.
            np.testing.assert_allclose(metrics[estimator][name], metrics["truth"][name], atol=0.15)
    assert metrics["mean absolute error"]["estimate()"] < 0.08
    # The information itself is not equitable, and neither may an estimate of it be.
    assert metrics["spread over functions"]["truth"] > 0.1
    assert metrics["spread over functions"]["estimate()"] > 0.05
    assert (tmp_path / "heatmap.png").stat().st_size > 10_000


def test_noiseless_functions_have_no_finite_truth(tmp_path):
    metrics = run_seed(EXPERIMENT, "smoke", tmp_path, overrides=["sigmas=(0.0, 0.5)", "steps=50", "estimator_steps=50"])
    assert metrics["truth"]["x"][0] is None  # infinite
    assert metrics["estimate()"]["x"][0] > metrics["estimate()"]["x"][1]
    assert metrics["mean absolute error"]["MINE"] < 1  # of the noisy ones alone
