"""Gaussians: the nearest-neighbour estimator, and a run end to end whose estimates are near the truth."""

from __future__ import annotations

import types

import numpy as np
import pytest
from sklearn.feature_selection import mutual_info_regression

import mine_fast
from mine_fast.experiments import gaussian
from mine_fast.experiments.gaussian import EXPERIMENT, Settings, truth
from mine_fast.experiments.ksg import ksg
from mine_fast.experiments.run import Run
from mine_fast.experiments.runner import run_seed, run_seeds
from mine_fast.result import History


def correlated(dimensions, rho, rows, seed=0):
    x, noise = np.random.default_rng(seed).standard_normal((2, rows, dimensions))
    return x, rho * x + (1 - rho**2) ** 0.5 * noise


@pytest.mark.parametrize("rho", [0.0, 0.9, -0.99])
@pytest.mark.parametrize("neighbours", [1, 3, 10])
def test_ksg_is_that_of_scikit_learn_in_one_dimension(rho, neighbours):
    x, y = correlated(1, rho, 500)
    expected = mutual_info_regression(x, y[:, 0], n_neighbors=neighbours, random_state=0)[0]
    # It adds noise of 1e-10, and gives 0 for what is below.
    assert max(0, ksg(x, y, neighbours)) == pytest.approx(expected, abs=1e-6)


def test_ksg_of_several_columns():
    x, y = correlated(2, 0.7, 3000)
    # The standard deviation over samples is below 0.03.
    assert ksg(x, y) == pytest.approx(truth(2, 0.7), abs=0.1)
    assert ksg(10 * x + 3, -0.1 * y) == pytest.approx(ksg(x, y), abs=1e-9)


def test_truth_is_the_determinant():
    rho, d = 0.6, 3
    covariance = np.block([[np.eye(d), rho * np.eye(d)], [rho * np.eye(d), np.eye(d)]])
    assert truth(d, rho) == pytest.approx(-0.5 * np.log(np.linalg.det(covariance)))
    assert truth(d, -rho) == truth(d, rho)


def test_smoke(tmp_path):
    metrics = run_seeds(EXPERIMENT, "smoke", tmp_path, [0])
    found = metrics["d=1"]
    assert found["truth"] == [0.0, pytest.approx(0.830, abs=1e-3)]  # of one seed, lists are as they were
    for name in ("MINE", "MINE-f", "estimate()", "KSG"):
        independent, dependent = found[name]
        # 1000 rows: four standard errors, and a short training's shortfall.
        assert abs(independent) < 0.08
        assert 0.6 < dependent < 0.97
    assert found["mean absolute error"]["estimate()"]["mean"] < 0.1
    for picture in ("values.png", "seed-0/values.png", "seed-0/convergence.png"):
        assert (tmp_path / picture).stat().st_size > 10_000


def test_every_estimate_is_of_its_own_estimator(tmp_path, monkeypatch):
    """Estimates come near to each other: what tells them apart here is that every bound finds a value of its own."""

    def fit(mine, x, y, **settings):
        mi = {"mine": 1.0, "fdiv": 2.0}[mine.loss]
        return types.SimpleNamespace(
            mi=mi, flags=(), history=History(steps=[[0]], train=[[0.0]], validation=[[10 * mi]])
        )

    monkeypatch.setattr(mine_fast.MINE, "fit", fit)
    monkeypatch.setattr(mine_fast, "estimate", lambda x, y, **settings: types.SimpleNamespace(mi=3.0, flags=()))
    monkeypatch.setattr(gaussian, "ksg", lambda x, y, neighbours: 4.0)
    found = gaussian.point(Run(Settings(rows=50), 0, tmp_path, progress=False), 2, 0.5)
    assert found["truth"] == truth(2, 0.5)
    assert [found[name] for name in ("MINE", "MINE-f", "estimate()", "KSG")] == [1, 2, 3, 4]
    assert {name: curve["bound"] for name, curve in found["curves"].items()} == {"MINE": [10], "MINE-f": [20]}


def test_resumed(tmp_path, monkeypatch):
    few = ["steps=50", "estimator_steps=50"]
    whole = run_seed(EXPERIMENT, "smoke", tmp_path / "whole", overrides=few)
    calls = []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ksg(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(gaussian, "ksg", failing)
        with pytest.raises(KeyboardInterrupt):
            run_seed(EXPERIMENT, "smoke", tmp_path / "broken", overrides=few)
    assert run_seed(EXPERIMENT, "smoke", tmp_path / "broken", overrides=few) == whole
