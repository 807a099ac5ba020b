"""What `estimate` builds its critic of: canonical pairs, features of pairs, stacking, and the critic itself."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch

import mine_fast
from mine_fast.canonical import CanonicalPairs
from mine_fast.default_critics import MLPCritic, StackedCritic
from mine_fast.evaluation import HeldOutScores
from mine_fast.pair_inputs import PairInputs
from mine_fast.perceptrons import linear
from mine_fast.stacking import stacking_weights

QUICK = {"steps": 60, "folds": 2, "evaluate_every": 20}


def gaussian_pairs(rows, correlations, width, seed):
    """X and Y of `width` independent columns each, the first of which correlate pairwise."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, rows, width, generator=generator)
    for i, rho in enumerate(correlations):
        y[:, i] = rho * x[:, i] + math.sqrt(1 - rho**2) * y[:, i]
    return x, y, -0.5 * sum(math.log(1 - rho**2) for rho in correlations)


# Canonical pairs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["fit", "fit_sparse"])
@pytest.mark.parametrize(
    ("rows", "correlations", "width"), [(6000, [0.8, 0.5], 10), (3000, [0.99], 1), (600, [0.9], 3)]
)
def test_information_of_gaussians(way, rows, correlations, width):
    found = []
    for seed in range(8):
        x, y, truth = gaussian_pairs(rows, correlations, width, seed)
        found.append(getattr(CanonicalPairs(), way)(x, y).information)
    # The standard error of -1/2 log(1 - r^2) is about r / sqrt(n) per pair.
    assert abs(np.mean(found) - truth) < 4 * sum(correlations) / math.sqrt(8 * rows) + 0.01


@pytest.mark.parametrize(("rows", "width"), [(6000, 50), (300, 50), (100, 1), (60, 100)])
@pytest.mark.parametrize("way", ["fit", "fit_sparse"])
def test_independent_columns_correlate_by_chance_and_not_for_us(way, rows, width):
    """Sample canonical correlations of 50 columns in 300 rows reach 0.7."""
    found = 0
    for seed in range(20):
        x, y, _ = gaussian_pairs(rows, [], width, seed)
        pairs = getattr(CanonicalPairs(), way)(x, y)
        assert pairs.width >= 1
        found += pairs.information > 0.02
    assert found <= 2


def test_few_dependent_columns_among_many_are_found_with_few_rows():
    """20 pairs in 600 rows: the corrected sample correlations lose much, the sparse covariance little."""
    x, y, truth = gaussian_pairs(3600, [0.5] * 20, 20, 0)
    held_out = {}
    for way in ("fit", "fit_sparse"):
        pairs = getattr(CanonicalPairs(), way)(x[:600], y[:600])
        u, v = pairs.x_variates(x[600:]), pairs.y_variates(y[600:])
        f, g = pairs.factors(u, v)
        marginal = torch.stack([(f * g.roll(shift, 0)).sum(1) for shift in range(1, 100)]).double()
        held_out[way] = HeldOutScores((f * g).sum(1).double(), marginal, marginal).dv_bound()
    assert held_out["fit"] < truth - 0.3
    assert abs(held_out["fit_sparse"] - truth) < 0.25


def test_the_gaussian_critic_is_the_log_density_ratio():
    x, y, _ = gaussian_pairs(100_000, [0.6], 1, 0)
    pairs = CanonicalPairs().fit(x, y)
    r = float(pairs.correlations[0])
    assert r == pytest.approx(0.6, abs=0.01)
    joint = torch.distributions.MultivariateNormal(torch.zeros(2), torch.tensor([[1, r], [r, 1]]))
    normal = torch.distributions.Normal(0, 1)
    u, v = pairs.x_variates(x[:50]), pairs.y_variates(y[:50])
    expected = joint.log_prob(torch.cat([u, v], 1)) - (normal.log_prob(u) + normal.log_prob(v))[:, 0]
    f, g = pairs.factors(u, v)
    torch.testing.assert_close((f * g).sum(1), expected, rtol=1e-4, atol=1e-4)


def test_columns_that_repeat_or_stand_still_do_no_harm():
    x, y, truth = gaussian_pairs(2000, [0.8], 2, 0)
    repeated = torch.cat([x, x, x[:, :1] + x[:, 1:], torch.ones(2000, 1)], 1)
    for way in ("fit", "fit_sparse"):
        assert getattr(CanonicalPairs(), way)(repeated, y).information == pytest.approx(truth, abs=0.1)
        assert getattr(CanonicalPairs(), way)(torch.ones(2000, 1), y).information == 0


# Stacking -------------------------------------------------------------------------------------------------------------


def scores_of(bound, rows=2000, pairs=40_000, seed=0):
    """Scores of the exact critic of N(bound, 1) against N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    joint = torch.randn(rows, generator=generator, dtype=torch.float64) + bound
    return bound * joint, bound * torch.randn(pairs, generator=generator, dtype=torch.float64)


def value(joint, marginal, w):
    return float((w @ joint).mean() - torch.logsumexp(w @ marginal, 0) + math.log(marginal.shape[1]))


def test_weights_find_the_best_sum_there_is():
    joint, marginal = scores_of(1.0)
    noise = torch.randn(3, 42_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    joint = torch.stack([joint + 0.5 * noise[0, :2000], 1.5 * joint, -joint, noise[1, :2000]])
    marginal = torch.stack([marginal + 0.5 * noise[0, 2000:], 1.5 * marginal, -marginal, noise[1, 2000:]])
    found = stacking_weights(joint, marginal)
    assert bool((found >= 0).all())
    assert float(found.sum()) <= 1 + 1e-9
    best = value(joint, marginal, found)
    generator = torch.Generator().manual_seed(2)
    for _ in range(200):
        other = torch.distributions.Dirichlet(torch.ones(5, dtype=torch.float64)).sample()[:4]
        other = 0.5 * other + 0.5 * found if torch.rand((), generator=generator) < 0.5 else other
        assert value(joint, marginal, other) <= best + 2e-3  # the ridge's share


def test_overconfident_scores_are_shrunk_and_timid_ones_not_blown_up():
    joint, marginal = scores_of(1.0)
    assert float(stacking_weights(1.5 * joint[None], 1.5 * marginal[None])) == pytest.approx(1 / 1.5, abs=0.03)
    assert float(stacking_weights(3 * joint[None], 3 * marginal[None])) == 0  # alone it is worse than none
    assert float(stacking_weights(0.5 * joint[None], 0.5 * marginal[None])) == pytest.approx(1, abs=1e-6)


def test_useless_critics_get_nothing():
    constant = torch.full((1, 100), 3.0, dtype=torch.float64)
    assert float(stacking_weights(constant, constant).abs().max()) < 1e-6
    joint, marginal = scores_of(1.0)
    assert float(stacking_weights(-joint[None], -marginal[None])) == 0


# The features and the critic ------------------------------------------------------------------------------------------


def test_features_are_of_unit_size_whatever_the_columns():
    generator = torch.Generator().manual_seed(0)
    x = torch.cat(
        [torch.randn(3000, 1, generator=generator), 1e9 + 1e-3 * torch.randn(3000, 1, generator=generator)], 1
    )
    heavy = torch.tan(math.pi * (torch.rand(3000, 1, generator=generator, dtype=torch.float64) - 0.5))
    inputs = PairInputs().fit(x.double(), heavy)
    for features in inputs(x.double(), heavy):
        assert features.dtype == torch.float32
        assert bool(torch.isfinite(features).all())
        assert float(features.abs().max()) < 8
        assert float(features.std(0).max()) < 2


def test_waves_only_of_few_columns():
    generator = torch.Generator().manual_seed(0)
    for columns, waves in ((1, 8), (2, 16), (4, 16), (8, 16), (9, 0), (40, 0)):
        x = torch.randn(200, columns, generator=generator)
        inputs = PairInputs().fit(x, x)
        assert inputs.wave_widths[0] - inputs.plain_widths[0] - inputs.gaussians[0].width == waves


def fitted(seed=0):
    x, y, _ = gaussian_pairs(400, [0.9], 2, seed)
    mine = mine_fast.MINE(seed=0)
    mine.fit(x, y, **QUICK)
    return mine, x, y


def test_the_stack_is_the_sum_of_its_critics_within_their_limits():
    mine, x, y = fitted()
    critic = mine.T
    assert isinstance(critic, StackedCritic)
    features = critic.with_factors(*critic.inputs(x, y))
    own = torch.arange(len(x))[None]
    parts = critic.limited(torch.cat([score(*features, own) for score in critic.members()]))
    torch.testing.assert_close(critic(x, y), critic.weights @ parts)
    assert float(parts.min()) >= float(critic.floor)
    assert float(critic.floor) == pytest.approx(-math.log(160))  # the training rows of a fold
    wild = critic.limited(torch.full((5, 3), 1e9))
    torch.testing.assert_close(wild, critic.ceiling[:, None].expand(5, 3))
    assert bool((critic.weights >= 0).all())
    assert float(critic.weights.sum()) <= 1 + 1e-6


def test_state_of_a_stack_loads_and_trains_on():
    mine, x, y = fitted()
    other = mine_fast.MINE(seed=1)
    other.load_state_dict(mine.state_dict())
    assert torch.equal(other.T(x, y), mine.T(x, y))
    before = float(other.mi(x, y))
    opt = torch.optim.Adam(other.parameters(), lr=1e-3)
    assert float(other.optimize(x, y, iters=20, batch_size=100, opt=opt)) > before - 0.05


def test_a_perceptron_alone_is_fitted_where_it_is_asked_for():
    x, y, _ = gaussian_pairs(400, [0.9], 2, 0)
    mine = mine_fast.MINE(MLPCritic(hidden=(16,)), seed=0)
    mine.fit(x, y, **QUICK)
    assert isinstance(mine.T, MLPCritic)
    assert [layer.out_features for layer in mine.T.layers if hasattr(layer, "out_features")] == [16, 1]


def test_what_gaussians_say_few_rows_suffice_for():
    """Ranks of few rows are noise at a correlation of 0.99; 20 pairs of columns are much to learn from 1000 rows."""
    for correlations, width, tolerance in (([0.99], 1, 0.2), ([0.5] * 20, 20, 0.25)):
        errors = []
        for seed in range(3):
            x, y, truth = gaussian_pairs(1000, correlations, width, 100 + seed)
            errors.append(mine_fast.estimate(x, y, steps=100, seed=seed).mi - truth)
        assert abs(np.mean(errors)) < tolerance


def test_layers_are_torch_linear_layers_drawn_from_the_generator_alone():
    before = torch.get_rng_state()
    layer = linear(30, 20, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    like = torch.nn.Linear(30, 20)
    assert type(layer) is torch.nn.Linear
    assert repr(layer) == repr(like)
    assert layer.weight.shape == like.weight.shape
    assert layer.bias.shape == like.bias.shape
    assert 0.95 * 30**-0.5 < float(layer.weight.abs().max()) <= 30**-0.5 >= float(layer.bias.abs().max())
    again = linear(30, 20, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), again.parameters(), strict=True))
    assert copy.deepcopy(layer).state_dict().keys() == pickle.loads(pickle.dumps(layer)).state_dict().keys()
