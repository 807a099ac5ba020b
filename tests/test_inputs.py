"""The default critic's inputs."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

import mine_fast
from mine_fast import MLPCritic
from mine_fast.inputs import QuantileInputs


def quantiles(inputs, samples):
    """The rank features alone."""
    return inputs(samples)[:, : samples.shape[1]]


def test_fitted_rows_become_normal_quantiles_of_their_midranks():
    values = torch.tensor(np.random.default_rng(0).standard_cauchy((301, 3)))
    features = quantiles(QuantileInputs().fit(values), values).numpy()
    ranks = (scipy.stats.rankdata(values.numpy(), axis=0) - 0.5) / 301
    np.testing.assert_allclose(features, scipy.stats.norm.ppf(ranks), atol=1e-6)


def test_many_rows_are_interpolated_between_knots():
    values = torch.tensor(np.random.default_rng(0).standard_normal((20_000, 1)))
    features = quantiles(QuantileInputs().fit(values), values).numpy()
    ranks = (scipy.stats.rankdata(values.numpy(), axis=0) - 0.5) / 20_000
    # 512 knots: 0.2% of the ranks between two, more in quantiles only in the tails.
    assert abs(features - scipy.stats.norm.ppf(ranks)).max() < 0.5
    assert abs(features - scipy.stats.norm.ppf(ranks)).mean() < 0.005


def test_invariant_under_increasing_maps():
    values = torch.tensor(np.random.default_rng(0).standard_normal((400, 2)))
    a = quantiles(QuantileInputs().fit(values), values)
    mapped = torch.exp(3 * values)
    torch.testing.assert_close(quantiles(QuantileInputs().fit(mapped), mapped), a)


def test_new_rows_interpolate_and_are_held_at_the_ends():
    inputs = QuantileInputs().fit(torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    at = quantiles(inputs, torch.tensor([[-5.0], [0.0], [0.5], [3.0], [99.0]])).flatten()
    assert at[0] == at[1] < at[2] < at[3] == at[4]
    assert at[2] == pytest.approx(0.5 * scipy.stats.norm.ppf(0.125) + 0.5 * scipy.stats.norm.ppf(0.375), abs=1e-6)


def test_an_offset_that_float32_cannot_hold_is_no_loss():
    values = torch.tensor(np.random.default_rng(0).standard_normal((400, 1)))
    a, b = (QuantileInputs().fit(v)(v) for v in (values, 1e12 + values))
    assert abs(a - b).max() < 0.01


def test_codes_become_indicators_and_quantities_do_not():
    generator = np.random.default_rng(0)
    codes = torch.tensor(generator.integers(0, 4, (200, 1)) * 7.0)
    inputs = QuantileInputs().fit(codes)
    assert inputs.width == 1 + 1 + 4
    indicators = inputs(codes)[:, 2:]
    assert torch.equal(indicators.sum(1), torch.ones(200))
    assert torch.equal(indicators.argmax(1), (codes.flatten() / 7).long())
    assert inputs(torch.tensor([[99.0]]))[0, 2:].sum() == 0  # a code it has not seen
    assert QuantileInputs().fit(torch.tensor(generator.standard_normal((200, 1)))).width == 2
    # Too many indicators (64 columns of 17 levels, as images have): quantiles only.
    image = QuantileInputs().fit(torch.tensor(generator.integers(0, 17, (500, 64)) * 1.0))
    assert image.width == 64
    assert image.many_levels.tolist() == []  # quantities by nature


def balanced(levels, rows=2000):
    """A column that has each level equally often."""
    return torch.arange(rows, dtype=torch.float64) % levels


def test_indicators_go_to_the_columns_of_fewest_levels():
    codes = torch.stack([balanced(150), torch.randn(2000).double(), balanced(100), balanced(10)], 1)
    inputs = QuantileInputs().fit(codes)
    assert inputs.width == 4 + 4 + 110
    assert inputs.level_columns.bincount().tolist() == [0, 0, 100, 10]
    assert inputs.many_levels.tolist() == [0]
    indicators = inputs(codes)[:, 8:]
    assert torch.equal(indicators[:, :100].argmax(1), codes[:, 2].long())
    assert torch.equal(indicators[:, 100:].argmax(1), codes[:, 3].long())
    assert torch.equal((indicators != 0).sum(1), torch.full((2000,), 2))


def test_two_values_need_no_indicators():
    """Their ranks say the same: nothing is lost of columns that the indicators do not reach."""
    binary = torch.tensor(np.random.default_rng(0).integers(0, 2, (500, 130)) * 1.0)
    assert QuantileInputs().fit(binary).many_levels.tolist() == []


@pytest.mark.parametrize(
    ("column", "indicators", "many"),
    [
        (balanced(33), 33, False),
        (balanced(256), 256, False),
        (balanced(257), 0, True),
        (balanced(33) / 2, 0, False),  # more than 32 values, not all of them integers: rounded, no codes
        (balanced(32) / 2, 32, False),
        (balanced(500, rows=2000), 0, False),  # 4 rows per value: too few to learn each
    ],
)
def test_what_may_be_a_code(column, indicators, many):
    inputs = QuantileInputs().fit(column[:, None])
    assert inputs.width == 2 + indicators
    assert inputs.many_levels.tolist() == [0] * many


def effects(levels, rows, ordered, noise, seed=0):
    """Levels [n, 1] and a variable [n, 1] with a mean of its own at each, that follows their order or does not."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, levels, rows)
    effect = np.cos(np.arange(levels) / levels * 9) if ordered else np.random.default_rng(1).standard_normal(levels)
    return torch.tensor(level[:, None] * 1.0), torch.tensor(
        (effect[level] + noise * rng.standard_normal(rows))[:, None]
    )


def codes_found(codes, other):
    found = QuantileInputs().fit(codes, quantiles(QuantileInputs().fit(other), other)).levels.numel()
    assert found in (0, len(codes.unique()))
    return found > 0


@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_codes_of_few_rows_are_told_by_the_other_variable(noise):
    told = []
    for seed in range(20):
        for levels, rows in ((40, 120), (150, 600), (250, 600)):
            codes, other = effects(levels, rows, False, noise, seed)
            counts, smooth = effects(levels, rows, True, noise, seed)
            noises = torch.tensor(np.random.default_rng(seed).standard_normal((rows, 20)))
            beside = torch.cat([noises, other], 1)
            told.append(
                [codes_found(*pair) for pair in ((codes, other), (codes, beside), (counts, smooth), (codes, noises))]
            )
    assert np.mean(told, 0)[:2].tolist() == [1, 1]
    assert np.all(np.mean(told, 0)[2:] <= 0.02)


def test_a_code_that_changes_the_spread_alone_is_told():
    rng = np.random.default_rng(0)
    level = rng.integers(0, 100, 400)
    spread = np.random.default_rng(1).choice([0.1, 2.0], 100)[level]
    assert codes_found(*(torch.tensor(v[:, None] * 1.0) for v in (level, spread * rng.standard_normal(400))))


def test_labels_of_few_rows_are_learnt():
    """150 labels, six rows each: read as quantities, next to nothing was left of their 1.2 nats."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 150, 1000)
    y = np.random.default_rng(7).standard_normal(150)[label] + 0.3 * rng.standard_normal(1000)
    assert 0.7 < mine_fast.estimate(label, y).mi < 1.25
    assert 0.7 < mine_fast.estimate(y, label).mi < 1.25


def test_values_that_many_rows_share_among_quantities_have_indicators():
    generator = torch.Generator().manual_seed(0)
    column = torch.randn(2000, 1, generator=generator)
    column[:400] = 0.0
    column[400:500] = 7.0
    column[500:510] = -3.0  # too few to be told from chance by a network
    inputs = QuantileInputs().fit(column)
    assert inputs.levels.tolist() == [0.0, 7.0]
    assert inputs(column[[0, 400, 500, 1500]])[:, -2:].tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
    rounded = torch.randn(2000, 1, generator=generator).mul(8).round().div(8)  # 50 values, all of them shared
    assert QuantileInputs().fit(rounded).levels.numel() == 0


def test_indicators_of_many_levels_are_larger():
    assert QuantileInputs().fit(balanced(32)[:, None])(balanced(32)[:, None])[:, 2:].max() == 1
    assert QuantileInputs().fit(balanced(128)[:, None])(balanced(128)[:, None])[:, 2:].max() == 2


def test_order_of_a_code_of_many_levels_does_not_matter():
    """The information of 40 shuffled labels, of which their quantiles tell next to nothing."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 40, 2000)
    y = rng.permutation(40)[x]
    assert mine_fast.estimate(x, y, steps=200, folds=2).mi > 2.5  # of ln 40 = 3.69


def test_few_columns_are_also_given_scaled_and_clipped():
    values = torch.tensor(np.random.default_rng(0).standard_normal((1000, 16)) * 1e5 + 7e8)
    scaled = QuantileInputs().fit(values)(values)[:, 16:]
    assert scaled.shape == (1000, 16)
    assert abs(scaled.median(0).values).max() < 0.01
    assert scaled.abs().max() <= 3
    assert QuantileInputs().fit(torch.randn(1000, 17)).width == 17


def test_constant_columns_are_zero():
    values = torch.column_stack([torch.ones(50), torch.arange(50.0)])
    features = QuantileInputs().fit(values)(values)
    assert torch.equal(features[:, 0], torch.zeros(50))
    assert torch.isfinite(features).all()
    alone = QuantileInputs().fit(values[:, :1])(values[:, :1])
    assert torch.equal(alone, torch.zeros_like(alone))


def test_rows_beyond_the_limit_are_thinned(monkeypatch):
    monkeypatch.setattr(QuantileInputs, "max_rows", 100)
    values = torch.arange(1001.0)[:, None]
    inputs = QuantileInputs().fit(values)
    assert inputs.knots.shape == (1, 91)  # every 11th
    assert quantiles(inputs, torch.tensor([[500.0]])).abs() < 0.05


@pytest.mark.parametrize("size", [5e-324, 1e-310, 1e-300, 1.0, 1e300, 3e305])
def test_equally_spaced_values_of_any_size(size):
    """From the smallest numbers, which a factor would merge, to a range that overflows."""
    values = (torch.arange(1001, dtype=torch.float64) - 500)[:, None] * size
    inputs = QuantileInputs().fit(values)
    features = inputs(values)
    reference = torch.arange(1001, dtype=torch.float64)[:, None]
    torch.testing.assert_close(features, QuantileInputs().fit(reference)(reference))
    assert features[:, 0].unique().numel() == 1001
    largest = torch.tensor([[1.7e308], [-1.7e308]], dtype=torch.float64)
    assert torch.equal(inputs(largest)[:, 0], features[[-1, 0], 0])
    assert torch.isfinite(inputs(largest)).all()


def test_a_range_that_overflows_between_two_knots():
    values = torch.tensor([[-1.7e308], [1.7e308]], dtype=torch.float64).repeat(20, 1)
    features = QuantileInputs().fit(values)(torch.cat([values[:2], torch.zeros(1, 1, dtype=torch.float64)]))
    half = scipy.stats.norm.ppf(0.75)
    torch.testing.assert_close(features[:, 0], torch.tensor([-half, half, 0.0]), check_dtype=False)
    assert torch.isfinite(features).all()


def test_a_column_that_is_mostly_one_value_keeps_the_side_of_the_others():
    values = torch.cat([torch.zeros(98), torch.tensor([-0.001, 5.0])])[:, None]
    scaled = QuantileInputs().fit(values)(values)[:, 1]
    assert scaled[-3:].tolist() == [0, -3, 3]


def test_state_dict_carries_the_fit():
    values = torch.randn(100, 2)
    fitted = QuantileInputs().fit(values)
    copied = QuantileInputs()
    copied.load_state_dict(fitted.state_dict())
    assert torch.equal(copied(values), fitted(values))
    many = QuantileInputs().fit(balanced(300)[:, None])
    copied.load_state_dict(many.state_dict())
    assert copied.many_levels.tolist() == [0]


def test_an_unprepared_critic_loads_a_prepared_one():
    x, y = torch.randn(100, 2), torch.randn(100, 1)
    prepared = MLPCritic(hidden=(8, 8)).prepare(x, y)
    loaded = MLPCritic(hidden=(8, 8))
    loaded.load_state_dict(prepared.state_dict())
    assert torch.equal(loaded(x, y), prepared(x, y))
