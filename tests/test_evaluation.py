"""Reading off held-out rows: the bound, its error, what it certifies, and the permutation test, on known scores."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mine_fast import evaluation, held_out_pairs, pair_scoring
from mine_fast.data import ArraySource
from mine_fast.evaluation import HeldOutScores, permutation_p_value
from mine_fast.held_out_pairs import HeldOutPairs, level_of_rows
from mine_fast.pair_scoring import by_rows


def gaussian(rows, rho, seed, width=1):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def exact_scores(rows, rho, seed, shuffles=50, width=1):
    """The exact log density ratio of Gaussian pairs, as held-out scores."""
    variance = 1 - rho**2

    def log_ratio(x, y):
        quadratic = (x**2 + y**2 - 2 * rho * x * y) / variance - x**2 - y**2
        return (-0.5 * math.log(variance) - 0.5 * quadratic).sum(1)

    pairs = HeldOutPairs(ArraySource(*gaussian(rows, rho, seed, width)), torch.arange(rows), seed, shuffles)
    return pairs.scores(by_rows(log_ratio))


def information(rho, width=1):
    return -0.5 * width * math.log(1 - rho**2)


def product(x, y):
    return (x * y).squeeze(1)


# The bound and its error. ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [12, 500])
def test_standard_error_matches_the_spread_of_the_estimate(rows):
    """Of the exact critic, over fresh samples: the mean variance against that of the estimate."""
    runs = [exact_scores(rows, 0.8 if rows > 100 else 0.3, seed) for seed in range(300)]
    estimates = np.array([run.dv_bound() for run in runs])
    variance = np.array([run.variance() for run in runs])
    # The variance of 300 runs is known to 8%, the tails of the estimate add to that.
    assert 0.75 < variance.mean() / estimates.var(ddof=1) < 1.3
    if rows > 100:
        assert abs(estimates.mean() - information(0.8)) < 4 * estimates.std() / math.sqrt(300) + 0.005


def test_variance_is_of_the_rows_less_one():
    scores = exact_scores(12, 0.3, 0)
    assert scores.variance() == pytest.approx(float(scores.influence().var(correction=1)) / 12)


def test_copies_count_once_in_the_variance():
    """Of n rows written down twice, against that of the n rows: the pairs of copies are the same, so is the error."""
    once = exact_scores(60, 0.5, 0)
    twice = HeldOutScores(once.joint.repeat(2), once.marginal.repeat(1, 2), once.as_y.repeat(1, 2))
    assert twice.dv_bound() == pytest.approx(once.dv_bound())
    assert twice.variance(torch.arange(60).repeat(2)) == pytest.approx(once.variance())
    assert twice.variance(torch.arange(120)) == pytest.approx(twice.variance())
    assert twice.variance() == pytest.approx(once.variance() / 2 * (120 / 119) / (60 / 59))


def test_effective_sample_size_of_flat_and_of_peaked_weights():
    flat = HeldOutScores(torch.zeros(10), torch.zeros(5, 10), torch.zeros(5, 10))
    assert flat.effective_sample_size() == pytest.approx(10)
    assert flat.dv_bound() == 0
    peaked = torch.zeros(5, 10)
    peaked[:, 3] = 100.0
    assert HeldOutScores(torch.zeros(10), peaked, peaked).effective_sample_size() == pytest.approx(1)


def test_scores_of_a_large_source_are_shuffled_within_chunks(monkeypatch):
    monkeypatch.setattr(held_out_pairs, "CHUNK_ROWS", 16)
    monkeypatch.setattr(pair_scoring, "CALL_ROWS", 10)
    x = torch.arange(50.0, dtype=torch.float64)[:, None]
    score = by_rows(lambda a, b: (100 * a + b).squeeze(1))
    scores = HeldOutPairs(ArraySource(x, x), torch.arange(50), 0, 3).scores(score)
    assert torch.equal(scores.joint, 101 * x.squeeze(1))
    x_of, y_of = scores.marginal // 100, scores.marginal % 100
    assert torch.equal(x_of, x.squeeze(1).expand(3, 50))
    assert not (x_of == y_of).any()
    assert torch.equal(y_of.sort(1).values, x.squeeze(1).expand(3, 50))
    assert torch.equal(scores.as_y % 100, x.squeeze(1).expand(3, 50))


def test_scores_relative_to_the_level_of_their_row(monkeypatch):
    """A function of x on top of a critic leaves them as they were; they are normalised on the reference rows."""
    x, y = gaussian(60, 0.5, 0)
    references = gaussian(40, 0.5, 1)[1]
    monkeypatch.setattr(held_out_pairs, "CALL_ROWS", 130)  # three rows of x at a time
    pairs = HeldOutPairs(ArraySource(x, y), torch.arange(60), 0, 3)

    def lifted(a, b):
        return product(a, b) + 50 * torch.sin(a).squeeze(1)

    plain, moved = (pairs.scores(by_rows(score), level_of_rows(score, references)) for score in (product, lifted))
    for name in ("joint", "marginal", "as_y"):
        torch.testing.assert_close(getattr(moved, name), getattr(plain, name))
    level = torch.logsumexp(x * references.T, 1) - math.log(40)
    torch.testing.assert_close(plain.joint, (x * y).squeeze(1) - level)
    assert moved.dv_bound() > pairs.scores(by_rows(lifted)).dv_bound() + 10


# What n rows can certify. ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail_rows", [1, 7.5, 10])
@pytest.mark.parametrize("kind", ["exact", "apart", "flat", "ties"])
def test_limited_scores_rest_on_as_many_rows(kind, tail_rows):
    """The level solves its equation, and the bound is at most ln(n / tail_rows) whatever the scores."""
    n = 40
    exact = exact_scores(n, 0.9, 0)
    apart = HeldOutScores(torch.full((n,), 300.0), torch.full((20, n), -700.0), torch.full((20, n), -700.0))
    flat = HeldOutScores(torch.full((n,), 1.0), torch.zeros(20, n), torch.zeros(20, n))
    spiked = torch.full((20, n), -900.0).scatter(1, torch.arange(20)[:, None] % n, 5.0)  # 20 of 800 pairs: half a row
    ties = HeldOutScores(torch.full((n,), 6.0), spiked, spiked)
    scores = {"exact": exact, "apart": apart, "flat": flat, "ties": ties}[kind]
    scores = HeldOutScores(scores.joint.double(), scores.marginal.double(), scores.as_y.double())
    limited = scores.limited(tail_rows)
    assert limited.dv_bound() <= math.log(n / tail_rows) + 1e-9
    level = scores._level(tail_rows / n)
    assert torch.exp(scores.marginal.clamp(max=level) - level).mean() == pytest.approx(tail_rows / n, rel=1e-9)
    assert torch.equal(limited.joint, scores.joint.clamp(max=level))
    if kind == "apart":
        assert scores.dv_bound() == 1000
        assert limited.dv_bound() == pytest.approx(math.log(n / tail_rows))
    if kind == "flat":  # ln(n / tail_rows) is above 1: nothing to cut
        assert limited.dv_bound() == scores.dv_bound() == 1


def test_a_level_in_a_gap_that_holds_a_whole_number_of_rows():
    """Where nothing below the gap weighs anything, any level in it would do; none may be infinite."""
    marginal = torch.full((1, 40), -5000.0, dtype=torch.float64)
    marginal[0, :10] = 5.0
    limited = HeldOutScores(torch.full((40,), 9.0, dtype=torch.float64), marginal, marginal).limited(10)
    assert limited.dv_bound() == pytest.approx(math.log(4))


def test_few_rows_are_limited_to_half_of_them():
    scores = exact_scores(6, 0.99, 0, shuffles=5)
    assert scores.ceiling(10) == pytest.approx(math.log(2))
    assert scores.limited(10).dv_bound() <= math.log(2) + 1e-12
    assert exact_scores(100, 0.9, 0).ceiling(10) == pytest.approx(math.log(10))


@pytest.mark.parametrize(
    ("rho", "width", "rows"), [(0.9, 1, 25), (0.9, 1, 75), (0.5, 20, 75), (0.8, 5, 75), (0.9, 20, 250)]
)
def test_certified_bound_of_the_exact_critic_is_below_the_truth(rho, width, rows):
    """In 95 of 100 samples or more, where the plain bound of 20 columns exceeds it in nine of ten."""
    above, plain_above, runs, truth = 0, 0, 150, information(rho, width)
    for seed in range(runs):
        scores = exact_scores(rows, rho, seed, width=width)
        limited = scores.limited(evaluation.CERTIFIED_TAIL_ROWS)
        above += limited.dv_bound() - 1.645 * math.sqrt(limited.variance()) > truth
        plain_above += scores.dv_bound() - 1.645 * math.sqrt(scores.variance()) > truth
    assert above / runs < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    if rho * width > 10:
        assert plain_above / runs > 0.5


def test_limiting_costs_little_where_rows_suffice():
    """It moves the bound, either way, by a small part of a standard error, in every one of 20 samples."""
    for seed in range(20):
        scores = exact_scores(750, 0.9, seed)
        stderr = math.sqrt(scores.variance())
        assert abs(scores.dv_bound() - scores.limited(1).dv_bound()) < 0.2 * stderr
        assert abs(scores.dv_bound() - scores.limited(10).dv_bound()) < stderr


# The permutation test. ------------------------------------------------------------------------------------------------


def p_values(rows, folds, runs, shuffles=199, rho=0.0):
    found = []
    for seed in range(runs):
        source = ArraySource(*gaussian(rows, rho, seed))
        parts = torch.arange(rows).tensor_split(folds)
        of_pairs = by_rows(product)
        scores = [HeldOutPairs(source, part, 7 * seed + k, shuffles).scores(of_pairs) for k, part in enumerate(parts)]
        found.append(permutation_p_value(scores))
    return np.array(found)


@pytest.mark.parametrize(("rows", "folds", "shuffles"), [(24, 4, 199), (40, 1, 39), (60, 4, 199), (200, 4, 5)])
def test_p_values_are_uniform_for_independent_rows(rows, folds, shuffles):
    """With folds smaller than the shuffles, with all rotations, and with a few of them."""
    runs = 300
    p = p_values(rows, folds, runs, shuffles)
    for level in (0.05, 0.2, 0.5):
        assert abs((p <= level).mean() - level) < 4 * math.sqrt(level * (1 - level) / runs), level


def test_p_values_of_few_rows_can_be_small():
    """Folds of 15 rows have 15^4 rotations together: strong dependence is seen at 60 rows, and at 24."""
    assert (p_values(60, 4, 30, rho=0.8) < 0.01).mean() > 0.9
    assert (p_values(24, 4, 30, rho=0.9) < 0.05).mean() > 0.9


@pytest.mark.parametrize("most", [4, 8])
def test_p_values_of_independent_rows_in_copies(most):
    """Four copies of every row, or one to eight: near their level, and too small if nobody knows of the copies."""
    runs, found = 400, {True: [], False: []}
    for seed in range(runs):
        drawn = torch.randint(1, most + 1, (120,), generator=torch.Generator().manual_seed(seed))
        counts = torch.full_like(drawn, 4) if most == 4 else drawn
        group = torch.arange(120).repeat_interleave(counts)
        source = ArraySource(*(side[group] for side in gaussian(120, 0.0, seed)))
        parts = [(group % 4 == fold).nonzero().flatten() for fold in range(4)]
        scores = [
            HeldOutPairs(source, part, 7 * seed + k, 199).scores(by_rows(product)) for k, part in enumerate(parts)
        ]
        for known in (True, False):
            found[known].append(permutation_p_value(scores, [group[part] for part in parts] if known else ()))
    known, unknown = (np.array(found[knows]) for knows in (True, False))
    for level in (0.01, 0.05, 0.2, 0.5):
        assert abs((known <= level).mean() - level) < 3.5 * math.sqrt(level * (1 - level) / runs), level
    assert (unknown <= 0.05).mean() > 0.12


def test_p_value_resolution():
    perfect = HeldOutScores(torch.full((50,), 9.0), torch.zeros(49, 50), torch.zeros(49, 50))
    assert permutation_p_value([perfect, perfect, perfect, perfect]) == 50**-4
    # One fold of 4 rows: its 4 rotations, one of which is the identity, are all there is.
    tiny = HeldOutScores(torch.full((4,), 9.0), torch.zeros(199, 4), torch.zeros(199, 4))
    assert permutation_p_value([tiny]) == 1 / 4
    assert permutation_p_value([tiny] * 12) == 4**-12
    # Of many folds a part of the rotations is used, and of no fold the identity alone.
    assert permutation_p_value([perfect] * 6) == 50**-6
    assert permutation_p_value([perfect] * 40) == permutation_p_value([perfect] * 400) == 2.0**-34


@pytest.mark.parametrize("folds", [1, 2, 3, 5])
def test_p_value_is_the_share_of_all_combinations_of_rotations(folds):
    """Against the list of them."""
    generator = torch.Generator().manual_seed(folds)
    scores = [torch.randn(6, 7, generator=generator, dtype=torch.float64) for _ in range(folds)]  # identity first
    held_out = [HeldOutScores(s[0], s[1:], s[1:]) for s in scores]
    totals = [sum(rows) for rows in itertools.product(*([float(row.sum()) for row in s] for s in scores))]
    expected = np.mean([total >= totals[0] - 1e-9 for total in totals])
    assert permutation_p_value(held_out) == pytest.approx(expected, abs=1e-12)
    # Of critics that were trained on each other's folds, the observed total counts as nearer to the mean of all.
    centre = np.mean(totals)
    nearer = centre + (totals[0] - centre) / (math.sqrt(2) if folds > 1 else 1)
    expected = np.mean([total >= nearer - 1e-9 for total in totals])
    assert permutation_p_value(held_out, cross_trained=True) == pytest.approx(expected, abs=1e-12)


def test_tied_scores_are_no_evidence():
    n = 50
    constant = HeldOutScores(torch.ones(n), torch.full((20, n), 1.0 - 1e-9), torch.ones(20, n))
    assert permutation_p_value([constant]) == 1.0


def test_a_constant_in_the_scores_changes_no_p_value():
    """T + c orders pairs as T does; 1e4 of it is rounding of 1e-3 in float32, and the pairs differ by 1."""
    pairs = HeldOutPairs(ArraySource(*gaussian(200, 0.5, 0)), torch.arange(200), 0, 99)
    plain = pairs.scores(by_rows(product))
    shifted = pairs.scores(by_rows(lambda x, y: (product(x, y) + 1e4).float()))
    assert permutation_p_value([shifted]) == pytest.approx(permutation_p_value([plain]), abs=0.002)
    assert permutation_p_value([plain]) < 0.05
