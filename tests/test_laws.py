"""Laws of mutual information and of its bounds: exact ones to rounding, those of an estimate within its errors.

What does not change at all, and what changes by chance only:

* A bound of given scores does not see the order of the pairs (to rounding). An estimate splits its rows by their
  place, so another order of the rows is another split: the same within error.
* The default critic reads ranks and columns scaled by their own spread, so units and offsets (a x + b, a > 0) change
  nothing but the rounding, and a training amplifies that to less than the error.
* I(X;Y) = I(Y;X): of a symmetric critic exactly, on all pairs, whose marginal pairs are the same both ways.
"""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mine_fast
from mine_fast import bounds, ops, reference

SEEDS = st.integers(0, 2**31 - 1)
CORRELATIONS = st.floats(-0.9, 0.9)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(rows: int, rho: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns x and y of correlation rho."""
    x, noise = np.random.default_rng(seed).standard_normal((2, rows))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def information(rho: float) -> float:
    """Of two Gaussian columns, nats."""
    return -0.5 * math.log1p(-(rho**2))


# --- of scores, exactly -----------------------------------------------------------------------------------------------


@given(seed=SEEDS, joint=st.integers(1, 300), marginal=st.integers(1, 300), loss=st.sampled_from(ops.LOSSES))
def test_a_bound_does_not_see_the_order_of_its_pairs(seed, joint, marginal, loss):
    t, order = normal(joint + marginal, seed=seed) * 5, torch.Generator().manual_seed(seed)
    permuted = torch.cat([part[torch.randperm(len(part), generator=order)] for part in t.split([joint, marginal])])
    one, other = (ops.dv_loss_of_scores(scores, joint, loss=loss) for scores in (t, permuted))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12, equal_nan=True)


@given(seed=SEEDS, shift=st.floats(-1e4, 1e4), loss=st.sampled_from(("mine", "mine_biased")))
def test_a_constant_added_to_the_critic_changes_no_dv_bound(seed, shift, loss):
    t = normal(200, seed=seed) * 3
    one, other = (ops.dv_loss_of_scores(scores, 100, loss=loss).loss for scores in (t, t + shift))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@given(seed=SEEDS, size=st.floats(0.1, 3))
def test_nwj_is_below_dv_which_is_nwj_at_its_best_constant(seed, size):
    """E[T] - E[exp(T - 1)] <= E[T] - log E[exp T], equal where log E[exp T] = 1 (Poole et al. 2019, section 2.2)."""
    t = normal(200, seed=seed) * size
    dv, nwj = (ops.dv_loss_of_scores(t, 100, loss=loss).loss for loss in ("mine", "fdiv"))
    assert -nwj <= -dv + 1e-12
    best = t + 1 - ops.dv_loss_of_scores(t, 100).log_mean_exp
    torch.testing.assert_close(ops.dv_loss_of_scores(best, 100, loss="fdiv").loss, dv, rtol=1e-10, atol=1e-10)


@given(seed=SEEDS, joint=st.integers(2, 50), shuffles=st.integers(1, 5), size=st.floats(0, 100))
def test_infonce_is_at_most_the_logarithm_of_its_candidates(seed, joint, shuffles, size):
    value = -bounds.infonce_loss(normal((1 + shuffles) * joint, seed=seed) * size, joint)
    assert value <= math.log(1 + shuffles) + 1e-9


# --- of a critic on all pairs, exactly --------------------------------------------------------------------------------


def layers(seed: int, columns: int) -> tuple[list[Tensor], list[Tensor]]:
    weights = [normal(9, columns, seed=seed), normal(1, 9, seed=seed + 1)]
    return weights, [normal(9, seed=seed + 2), normal(1, seed=seed + 3)]


@given(seed=SEEDS, rows=st.integers(2, 60), loss=st.sampled_from(ops.LOSSES), dtype=st.sampled_from((32, 64)))
def test_all_pairs_do_not_see_the_order_of_the_rows(seed, rows, loss, dtype):
    """Joint reordering of x and y: the same joint pairs and the same marginal pairs."""
    kind, order = getattr(torch, f"float{dtype}"), torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    x, y = normal(rows, 2, seed=seed).to(kind), normal(rows, 1, seed=seed + 1).to(kind)
    weights, biases = ([t.to(kind) for t in part] for part in layers(seed, 3))
    one = ops.all_pairs_loss(x, y, weights, biases, "tanh", loss=loss)
    other = ops.all_pairs_loss(x[order], y[order], weights, biases, "tanh", loss=loss)
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-5 if dtype == 32 else 1e-10, atol=1e-5)


@given(seed=SEEDS, rows=st.integers(2, 60), loss=st.sampled_from(ops.LOSSES))
def test_x_and_y_change_places(seed, rows, loss):
    """T'(y, x) = T(x, y): I(X;Y) = I(Y;X) of every critic and every sample, all pairs being the same both ways."""
    x, y = normal(rows, 2, seed=seed), normal(rows, 3, seed=seed + 1)
    weights, biases = layers(seed, 5)
    swapped = [torch.cat([weights[0][:, 2:], weights[0][:, :2]], 1), weights[1]]
    one = ops.all_pairs_loss(x, y, weights, biases, "silu", loss=loss)
    other = ops.all_pairs_loss(y, x, swapped, biases, "silu", loss=loss)
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-10, atol=1e-10)


# --- below the truth in expectation -----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    rho=CORRELATIONS,
    seed=SEEDS,
    weights=st.tuples(*[st.floats(-0.6, 0.6)] * 3),
    near=st.floats(0, 1),
)
def test_no_critic_is_above_the_truth_on_average(rho, seed, weights, near):
    """Of any critic that saw none of the rows; here between the exact log density ratio and another quadratic form.

    E[DV] <= I up to the bias of the logarithm of a mean, var(exp T) / (2 M E[exp T]^2), which is added.
    """
    samples, rows = 12, 1500
    values = []
    for k in range(samples):
        x, y = (torch.from_numpy(column) for column in gaussian(rows, rho, seed + k))
        partner = ops.shuffle_index(rows, ops.shuffle_key(seed, k), 8)
        exact = [_log_ratio(x, other, rho) for other in (y, *y[partner])]
        a, b, c = weights
        other = [a * x * z - 0.1 * abs(b) * (x - c * z) ** 2 for z in (y, *y[partner])]
        scores = torch.cat([near * t + (1 - near) * u for t, u in zip(exact, other, strict=True)])
        term = ops.dv_loss_of_scores(scores, rows)
        weight = torch.exp(scores[rows:] - term.log_mean_exp)
        values.append(float(-term.loss - weight.var() / (2 * rows)))
    error = statistics.stdev(values) / samples**0.5
    assert statistics.fmean(values) <= information(rho) + 5 * error + 1e-3


def _log_ratio(x: Tensor, y: Tensor, rho: float) -> Tensor:
    """log p(x, y) / (p(x) p(y)) of two Gaussian columns."""
    return information(rho) - (rho**2 * (x**2 + y**2) - 2 * rho * x * y) / (2 * (1 - rho**2))


# --- of estimates, within their errors --------------------------------------------------------------------------------

SMALL = {"steps": 80, "folds": 3, "batch_size": 128}


def estimate(x: np.ndarray, y: np.ndarray, **options: int) -> mine_fast.MIResult:
    return mine_fast.estimate(x, y, **{**SMALL, **options})


def errors_apart(one: mine_fast.MIResult, other: mine_fast.MIResult) -> float:
    return abs(one.mi - other.mi) / math.hypot(one.stderr, other.stderr)


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.95])
def test_estimates_of_samples_are_below_the_truth_on_average(rho):
    """Over ten samples: rows that trained or chose nothing, so the mean is not above by more than its error."""
    found = [estimate(*gaussian(400, rho, seed), seed=seed) for seed in range(10)]
    values = [r.mi for r in found]
    assert statistics.fmean(values) <= information(rho) + 3 * statistics.stdev(values) / len(values) ** 0.5
    assert sum(r.lower(0.95) > information(rho) for r in found) <= 2  # P(more than 2 of 10) = 0.012 at 95%


@settings(max_examples=3)
@given(rho=st.floats(0.3, 0.9), seed=SEEDS, a=st.floats(1e-6, 1e6), b=st.floats(-1e3, 1e3))
def test_units_and_offsets_change_nothing(rho, seed, a, b):
    x, y = gaussian(600, rho, seed % 1000)
    plain = estimate(x, y)
    assert errors_apart(plain, estimate(a * (x + b), y)) < 0.5
    assert errors_apart(plain, estimate(x, -a * (y - b))) < 3  # mirrored: other features, the same information


@settings(max_examples=3)
@given(rho=st.floats(0.3, 0.9), seed=SEEDS)
def test_order_and_sides_change_an_estimate_within_its_error(rho, seed):
    x, y = gaussian(600, rho, seed % 1000)
    order = np.random.default_rng(seed).permutation(600)
    plain = estimate(x, y)
    assert errors_apart(plain, estimate(x[order], y[order])) < 4
    assert errors_apart(plain, estimate(y, x)) < 4


def test_a_symmetric_critic_finds_the_same_both_ways():
    x, y = (column[:, None].astype(np.float32) for column in gaussian(1500, 0.8, 5))

    def fitted(one: np.ndarray, other: np.ndarray) -> mine_fast.MIResult:
        torch.manual_seed(0)
        critic = mine_fast.SeparableCritic(1, 1)
        critic.y_tower.load_state_dict(critic.x_tower.state_dict())  # T(x, y) = T(y, x) to begin with
        return mine_fast.MINE(critic, marginals="all").fit(one, other, steps=150, folds=2)

    assert errors_apart(fitted(x, y), fitted(y, x)) < 2


@pytest.mark.parametrize("seed", range(2))
def test_independent_blocks_add_up(seed):
    """I(X1, X2; Y1, Y2) = I(X1; Y1) + I(X2; Y2) for independent blocks."""
    (x1, y1), (x2, y2) = gaussian(1200, 0.8, seed), gaussian(1200, -0.6, seed + 100)
    whole = estimate(np.stack([x1, x2], 1), np.stack([y1, y2], 1))
    first, second = estimate(x1, y1), estimate(x2, y2)
    error = math.sqrt(whole.stderr**2 + first.stderr**2 + second.stderr**2)
    assert abs(whole.mi - first.mi - second.mi) < 4 * error
    assert abs(whole.mi - information(0.8) - information(0.6)) < 4 * whole.stderr


@pytest.mark.parametrize(
    "process",
    [np.sign, lambda y: y + np.random.default_rng(9).standard_normal(len(y)), lambda y: np.abs(y), np.round],
    ids=["sign", "noise", "absolute value", "round"],
)
def test_processing_adds_no_information(process):
    """I(X; f(Y)) <= I(X; Y), f random or not."""
    x, y = gaussian(1200, 0.85, 3)
    plain, processed = estimate(x, y), estimate(x, process(y))
    assert processed.mi <= plain.mi + 3 * math.hypot(plain.stderr, processed.stderr)
    assert processed.mi <= information(0.85) + 3 * processed.stderr


@given(seed=SEEDS, rows=st.integers(2, 200), shuffles=st.integers(1, 3))
@settings(max_examples=20)
def test_the_pairs_of_a_shuffle_are_those_of_its_reference(seed, rows, shuffles):
    """A key names the same pairs in the kernel and in plain torch, whatever the rows: invariance starts there."""
    key = ops.shuffle_key(seed)
    assert torch.equal(ops.shuffle_index(rows, key, shuffles), reference.shuffle_index(key, rows, shuffles))
