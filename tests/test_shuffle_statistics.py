"""The marginal shuffle is as good as a uniform derangement, and shuffles that are not are caught.

Every test draws shuffles in the two ways that training does (successive offsets of a seed, the first shuffle of
neighbouring seeds), reduces them to a statistic whose law under uniform derangements is known in closed form or sampled
by rejection, and compares. Each check also rejects a planted bad shuffle, so that passing means something.

A known difference: sigma = pi^-1 (pi + k) has cycles of one length, n / gcd(n, k), where a uniform derangement has
cycles of any length from 2 up. What a mean over pairs can see of that are the 2-cycles (i meets j and j meets i): with
probability 1/(n-1)^2 for even n, 0 for odd n, against about 1/n^2. So the closed forms below take the probability of a
2-cycle as an argument; the variance that follows for either differs by O(1/n^2) of itself when x and y are independent.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from mine_fast.ops import shuffle_index, shuffle_key

DRAWS = 20_000
ROWS = (5, 16, 33, 64, 100)

# Chance of any false alarm in this file is 1e-4, shared by fewer than 600 p-values (Bonferroni).
P_VALUES = 600
THRESHOLD = 1e-4 / P_VALUES

Sampler = Callable[[int], np.ndarray]  # rows -> shuffles [DRAWS, rows]


# --- samplers ---------------------------------------------------------------------------------------------------------


def _of_keys(rows: int, keys: list[tuple[int, int]]) -> np.ndarray:
    tensor = torch.tensor(keys)
    return torch.cat([torch.ops.mine_fast.shuffle_index(key, rows, 1, False) for key in tensor]).numpy()


@functools.cache
def successive_offsets(rows: int) -> np.ndarray:
    """What training does: one seed, a step per shuffle."""
    return _of_keys(rows, [(20240, offset) for offset in range(DRAWS)])


@functools.cache
def neighbouring_seeds(rows: int) -> np.ndarray:
    """What many runs do: seeds 0, 1, 2, ..., each from its start."""
    return _of_keys(rows, [(seed, 0) for seed in range(DRAWS)])


@functools.cache
def later_shuffles_of_a_key(rows: int) -> np.ndarray:
    """The last of the rows - 1 disjoint shuffles of a key: it alone is as uniform as the first."""
    last = rows - 2
    return np.stack([shuffle_index(rows, shuffle_key(77, o), last + 1)[last].numpy() for o in range(DRAWS)])


@functools.cache
def uniform_derangements(rows: int) -> np.ndarray:
    """By rejection: permutations without a fixed point, about 1 in e."""
    rng = np.random.default_rng(7)
    kept: list[np.ndarray] = []
    while sum(map(len, kept)) < DRAWS:
        permutations = rng.permuted(np.tile(np.arange(rows), (DRAWS, 1)), axis=1)
        kept.append(permutations[(permutations != np.arange(rows)).all(axis=1)])
    return np.concatenate(kept)[:DRAWS]


@functools.cache
def rolls(rows: int) -> np.ndarray:
    """Planted: roll by a random constant. Each partner alone is uniform; rows move together."""
    shift = np.random.default_rng(8).integers(1, rows, size=(DRAWS, 1))
    return (np.arange(rows) + shift) % rows


@functools.cache
def two_round_feistel(rows: int) -> np.ndarray:
    """Planted: the same construction, conjugated shifts of a cycle-walked network, with 2 rounds instead of 8."""
    bits = max(6, (rows - 1).bit_length())
    low_bits = bits // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << (bits - low_bits)) - 1
    rng = np.random.default_rng(9)
    keys = rng.integers(0, 2**32, size=(DRAWS, 2, 1), dtype=np.uint64)

    def mix32(v: np.ndarray) -> np.ndarray:
        v = ((v ^ (v >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
        v = ((v ^ (v >> 15)) * 0x846CA68B) & 0xFFFFFFFF
        return v ^ (v >> 16)

    def encrypt(v: np.ndarray) -> np.ndarray:
        low, high = v & low_mask, v >> low_bits
        high = high ^ (mix32(low ^ keys[:, 0]) & high_mask)
        low = low ^ (mix32(high ^ keys[:, 1]) & low_mask)
        return (high << low_bits) | low

    rank = encrypt(np.tile(np.arange(rows, dtype=np.uint64), (DRAWS, 1)))
    while (rank >= rows).any():
        rank = np.where(rank >= rows, encrypt(rank), rank)
    rank = rank.astype(np.int64)
    moved = (rank + rng.integers(1, rows, size=(DRAWS, 1))) % rows
    return np.take_along_axis(np.argsort(rank, axis=1), moved, axis=1)


@functools.cache
def any_permutation(rows: int) -> np.ndarray:
    """Planted: plain permutations, which leave about one row in place."""
    return np.random.default_rng(10).permuted(np.tile(np.arange(rows), (DRAWS, 1)), axis=1)


@functools.cache
def each_twice(rows: int) -> np.ndarray:
    """Planted: good derangements, each used for two steps in a row."""
    return np.repeat(uniform_derangements(rows)[: DRAWS // 2], 2, axis=0)


OURS = pytest.mark.parametrize(
    "sampler", [successive_offsets, neighbouring_seeds, later_shuffles_of_a_key], ids=lambda s: s.__name__
)
ALL_ROWS = pytest.mark.parametrize("rows", ROWS)


# --- closed forms -----------------------------------------------------------------------------------------------------


@functools.cache
def derangements(n: int) -> int:
    """How many there are: D(n) = (n - 1) (D(n-1) + D(n-2)), exactly."""
    return (1, 0)[n] if n < 2 else (n - 1) * (derangements(n - 1) + derangements(n - 2))


def two_cycle_of_derangements(n: int) -> float:
    """P(sigma(i) = j and sigma(j) = i) of a uniform derangement: the other n - 2 rows derange among themselves."""
    return derangements(n - 2) / derangements(n)


def two_cycle_of_shifts(n: int) -> float:
    """The same of a conjugated shift: the shift is n / 2, and j is the row it leads to."""
    return 1 / (n - 1) ** 2 if n % 2 == 0 else 0.0


def pair_sum_moments(a: np.ndarray, b: np.ndarray, two_cycle: float) -> tuple[float, float]:
    """Mean and variance of sum_i a_i b_sigma(i), for any law of derangements that does not prefer a row.

    Such a law gives (sigma(i), sigma(j)) = (j, i) the probability `two_cycle`; each (j, m) and each (l, i) with other
    rows l, m the probability q, since sigma(i) = j has 1 / (n-1); and each pair of two other rows r, by the rest.
    """
    n = len(a)
    q = (1 / (n - 1) - two_cycle) / (n - 2)
    r = (1 - two_cycle - 2 * (n - 2) * q) / ((n - 2) * (n - 3))
    mean = (a.sum() * b.sum() - (a * b).sum()) / (n - 1)
    law = np.full((n, n), r)  # of (sigma(i), sigma(j)) for the i, j at hand
    np.fill_diagonal(law, 0)
    second = (a[:, None] ** 2 * b**2).sum() / (n - 1) - (a**2 * b**2).sum() / (n - 1)
    for i in range(n):
        for j in range(n):
            if i != j:
                here = law.copy()
                here[j, :], here[:, i] = q, q
                here[i, :], here[:, j] = 0, 0
                here[j, j] = here[i, i] = 0
                here[j, i] = two_cycle
                second += a[i] * a[j] * (b @ here @ b)
    return mean, second - mean**2


def z_test(values: np.ndarray, mean: float) -> float:
    """Two-sided p-value of the mean of independent values."""
    return 2 * stats.norm.sf(abs(values.mean() - mean) / (values.std(ddof=1) / math.sqrt(len(values))))


def variance_test(values: np.ndarray, mean: float, variance: float) -> float:
    """Two-sided p-value of the variance about a known mean, with the values' own fourth moment."""
    return z_test((values - mean) ** 2, variance)


# --- the checks: shuffles -> p-values ---------------------------------------------------------------------------------


def partner_of_a_row(shuffles: np.ndarray) -> list[float]:
    """Uniform over the other rows: the first row, one in the middle, the last."""
    rows = shuffles.shape[1]
    p_values = []
    for i in (0, rows // 2, rows - 1):
        counts = np.bincount(shuffles[:, i], minlength=rows)
        if counts[i]:
            return [0.0]  # not a derangement
        p_values.append(stats.chisquare(np.delete(counts, i)).pvalue)
    return p_values


def _bins(partners: np.ndarray, rows: int) -> np.ndarray:
    """Partners in at most 16 bins of equal width (the last may be narrower), so that cells of pairs hold many draws."""
    return partners // math.ceil(rows / 16)


def _chi_square(drawn: np.ndarray, support: np.ndarray) -> float:
    """P-value that `drawn` is as likely as the equally likely outcomes in `support`, both as non-negative codes."""
    shares = np.bincount(support) / len(support)
    counts = np.bincount(drawn, minlength=len(shares))
    if len(counts) > len(shares) or counts[shares == 0].any():
        return 0.0
    return stats.chisquare(counts[shares > 0], shares[shares > 0] * len(drawn)).pvalue


def partners_of_two_rows(shuffles: np.ndarray) -> list[float]:
    """Uniform over its support: pairs of two other rows; and where the rows meet, the partner that is left."""
    rows = shuffles.shape[1]
    others = np.stack(np.meshgrid(np.arange(rows), np.arange(rows), indexing="ij")).reshape(2, -1)
    others = others[:, others[0] != others[1]]  # two rows meet two different rows
    p_values = []
    for i, j in ((0, 1), (0, rows - 1), (rows // 2, rows // 2 + 1)):
        partners = shuffles[:, [i, j]].T
        support = others[:, ~np.isin(others, (i, j)).any(axis=0)]
        drawn = partners[:, ~np.isin(partners, (i, j)).any(axis=0)]
        # As cells of a coarse table, and by two functions of the pair that a weak network does not hide.
        for code in (
            lambda pair: _bins(pair[0], rows) * 32 + _bins(pair[1], rows),
            lambda pair: pair[0] - pair[1] + rows,
            lambda pair: pair[0] ^ pair[1],
        ):
            p_values.append(_chi_square(code(drawn), code(support)))
        # i meets j: j meets any third row alike.
        third = partners[1, (partners[0] == j) & (partners[1] != i)]
        if len(third) >= 5 * (rows - 2):  # enough draws per cell for a chi-square
            p_values.append(_chi_square(third, np.delete(np.arange(rows), [i, j])))
    return p_values


def successive_shuffles(shuffles: np.ndarray) -> list[float]:
    """The partner of a row in one shuffle says nothing about its partner, or another row's, in the next."""
    rows = shuffles.shape[1]
    p_values = []
    for i, j in ((0, 0), (0, 1), (rows - 1, rows // 2)):
        table = np.zeros((rows, rows))
        np.add.at(table, (_bins(shuffles[::2, i], rows), _bins(shuffles[1::2, j], rows)), 1)
        table = table[table.sum(1) > 0][:, table.sum(0) > 0]
        p_values.append(stats.chi2_contingency(table).pvalue)
    a, b, mean, deviation = _standard_sum(rows)
    sums = ((a * b[shuffles]).sum(1) - mean) / deviation
    p_values += [z_test(sums[lag:] * sums[:-lag], 0.0) for lag in (1, 2)]
    return p_values


@functools.cache
def _standard_sum(rows: int) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Fixed vectors a, b with an outlier each, and the mean and deviation of sum_i a_i b_sigma(i)."""
    a, b = np.random.default_rng(rows).standard_normal((2, rows))
    a[0], b[-1] = 4.0, -3.0
    mean, variance = pair_sum_moments(a, b, two_cycle_of_shifts(rows))
    return a, b, mean, math.sqrt(variance)


def moments_of_sums(shuffles: np.ndarray, two_cycle: float) -> list[float]:
    """Mean and variance of sum_i a_i b_sigma(i), for independent a and b and for b = a."""
    a, b, *_ = _standard_sum(shuffles.shape[1])
    p_values = []
    for left, right in ((a, b), (a, a)):
        mean, variance = pair_sum_moments(left, right, two_cycle)
        sums = (left * right[shuffles]).sum(1)
        p_values += [z_test(sums, mean), variance_test(sums, mean, variance)]
    return p_values


def law_of_sums(shuffles: np.ndarray) -> list[float]:
    """The whole law of sum_i a_i b_sigma(i) is that of drawn derangements: two-sample Kolmogorov-Smirnov."""
    a, b, *_ = _standard_sum(shuffles.shape[1])
    drawn = uniform_derangements(shuffles.shape[1])
    return [stats.ks_2samp((a * b[shuffles]).sum(1), (a * b[drawn]).sum(1)).pvalue]


def serial_correlation(shuffles: np.ndarray, two_cycle: float) -> list[float]:
    """The partner's number does not follow the row's, nor the partner of the next row the partner of this."""
    rows = shuffles.shape[1]
    place = np.arange(rows) - (rows - 1) / 2
    mean, _ = pair_sum_moments(place, place, two_cycle)
    p_values = [z_test((place * place[shuffles]).sum(1), mean)]
    # E[c_sigma(i) c_sigma(i+1)]: the law of two partners, as in pair_sum_moments, summed over neighbours.
    q = (1 / (rows - 1) - two_cycle) / (rows - 2)
    r = (1 - two_cycle - 2 * (rows - 2) * q) / ((rows - 2) * (rows - 3))
    expected = 0.0
    for i in range(rows - 1):
        ci, cj = place[i], place[i + 1]
        others = np.delete(place, [i, i + 1])
        expected += two_cycle * ci * cj + q * (ci + cj) * others.sum() + r * (others.sum() ** 2 - (others**2).sum())
    partners = place[shuffles]
    p_values.append(z_test((partners[:, :-1] * partners[:, 1:]).sum(1), expected))
    return p_values


def assert_accepted(p_values: list[float]) -> None:
    assert min(p_values) > THRESHOLD, p_values


def assert_rejected(p_values: list[float]) -> None:
    assert min(p_values) < THRESHOLD, p_values


# --- the shuffle passes -----------------------------------------------------------------------------------------------


@ALL_ROWS
@OURS
def test_the_partner_of_a_row_is_uniform(sampler: Sampler, rows: int) -> None:
    assert_accepted(partner_of_a_row(sampler(rows)))


@ALL_ROWS
@OURS
def test_the_partners_of_two_rows_are_uniform_on_their_support(sampler: Sampler, rows: int) -> None:
    assert_accepted(partners_of_two_rows(sampler(rows)))


@ALL_ROWS
@OURS
def test_successive_offsets_and_neighbouring_seeds_are_independent(sampler: Sampler, rows: int) -> None:
    assert_accepted(successive_shuffles(sampler(rows)))


@ALL_ROWS
@OURS
def test_sums_over_pairs_have_the_exact_mean_and_variance(sampler: Sampler, rows: int) -> None:
    assert_accepted(moments_of_sums(sampler(rows), two_cycle_of_shifts(rows)))


@pytest.mark.parametrize("rows", ROWS[1:])
@OURS
def test_sums_over_pairs_are_distributed_as_of_a_uniform_derangement(sampler: Sampler, rows: int) -> None:
    """Not at 5 rows, where our shuffles are the 24 five-cycles and a derangement may also be one of 20 others."""
    shuffles = sampler(rows)
    assert_accepted(law_of_sums(shuffles))
    a, b, *_ = _standard_sum(rows)
    mean, variance = pair_sum_moments(a, b, two_cycle_of_derangements(rows))
    sums = (a * b[shuffles]).sum(1)
    assert_accepted([z_test(sums, mean), variance_test(sums, mean, variance)])


@ALL_ROWS
@OURS
def test_partners_do_not_follow_the_order_of_the_rows(sampler: Sampler, rows: int) -> None:
    assert_accepted(serial_correlation(sampler(rows), two_cycle_of_shifts(rows)))


@OURS
def test_at_five_rows_every_five_cycle_is_equally_likely(sampler: Sampler) -> None:
    """The whole law of a shuffle, where it is small enough to count."""
    shuffles, counts = np.unique(sampler(5), axis=0, return_counts=True)
    assert len(shuffles) == 24
    assert_accepted([stats.chisquare(counts).pvalue])


def test_keys_near_one_another_never_share_a_shuffle() -> None:
    keys = [(seed, offset) for seed in range(-50, 50) for offset in range(100)]
    keys += [(seed << 32, offset << 32) for seed in range(1, 20) for offset in range(1, 20)]
    assert len(np.unique(_of_keys(64, keys), axis=0)) == len(keys)


@ALL_ROWS
def test_the_shuffles_of_a_key_are_disjoint_and_together_are_every_pair(rows: int) -> None:
    for offset in range(20):
        index = shuffle_index(rows, shuffle_key(1, offset), rows - 1).numpy()
        met = np.zeros((rows, rows), dtype=int)
        np.add.at(met, (np.tile(np.arange(rows), (rows - 1, 1)), index), 1)
        assert (met == 1 - np.eye(rows, dtype=int)).all()


@ALL_ROWS
def test_the_shifts_of_a_key_come_in_random_order(rows: int) -> None:
    """The first two shuffles of a key: the second partner of a row is uniform over those that the first has left."""
    index = np.stack([shuffle_index(rows, shuffle_key(5, o), 2)[:, 0].numpy() for o in range(DRAWS)])
    support = np.stack(np.meshgrid(np.arange(1, rows), np.arange(1, rows), indexing="ij")).reshape(2, -1)
    support = support[:, support[0] != support[1]]
    first, second = _bins(index.T, rows), _bins(support, rows)
    assert_accepted([_chi_square(first[0] * 32 + first[1], second[0] * 32 + second[1])])


# --- the checks see what they should ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ROWS)
def test_uniform_derangements_pass(rows: int) -> None:
    """The checks and closed forms themselves, on the law that they are about."""
    shuffles, two_cycle = uniform_derangements(rows), two_cycle_of_derangements(rows)
    assert_accepted(partner_of_a_row(shuffles))
    assert_accepted(partners_of_two_rows(shuffles))
    assert_accepted(successive_shuffles(shuffles))
    assert_accepted(moments_of_sums(shuffles, two_cycle))
    assert_accepted(serial_correlation(shuffles, two_cycle))


def test_closed_form_of_the_moments_by_enumeration() -> None:
    permutations = np.stack(np.meshgrid(*[np.arange(6)] * 6, indexing="ij"), -1).reshape(-1, 6)
    every = permutations[(np.sort(permutations, 1) == np.arange(6)).all(1) & (permutations != np.arange(6)).all(1)]
    assert len(every) == derangements(6) == 265
    a, b = np.random.default_rng(0).standard_normal((2, 6))
    sums = (a * b[every]).sum(1)
    np.testing.assert_allclose(pair_sum_moments(a, b, two_cycle_of_derangements(6)), (sums.mean(), sums.var()))


@ALL_ROWS
def test_permutations_with_fixed_points_are_rejected(rows: int) -> None:
    assert_rejected(partner_of_a_row(any_permutation(rows)))
    assert_rejected(moments_of_sums(any_permutation(rows), two_cycle_of_derangements(rows)))


@ALL_ROWS
def test_rolls_are_rejected(rows: int) -> None:
    shuffles = rolls(rows)
    assert_accepted(partner_of_a_row(shuffles))  # each row alone is fine
    assert_rejected(partners_of_two_rows(shuffles))
    assert_rejected(moments_of_sums(shuffles, two_cycle_of_shifts(rows)))
    assert_rejected(serial_correlation(shuffles, two_cycle_of_shifts(rows)))
    assert_rejected(law_of_sums(shuffles))


@ALL_ROWS
def test_two_rounds_are_rejected(rows: int) -> None:
    assert_rejected(partners_of_two_rows(two_round_feistel(rows)))


@ALL_ROWS
def test_repeated_shuffles_are_rejected(rows: int) -> None:
    assert_accepted(partner_of_a_row(each_twice(rows)[::2]))  # each alone is fine
    assert_rejected(successive_shuffles(each_twice(rows)))
