"""Each flag where its reason holds, and not beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mine_fast
from mine_fast import cross_fitting
from mine_fast.data import ArraySource
from mine_fast.evaluation import HeldOutScores
from mine_fast.flags import (
    below_zero,
    column_flags,
    constants,
    discrete,
    duplicate_columns,
    duplicate_rows,
    few_effective_marginals,
    few_rows,
    heavy_tails,
    many_levels,
    not_certifiable,
    overfitted,
    still_rising,
    training_flags,
)
from mine_fast.flags.of_scores import FEW_ROWS
from mine_fast.inputs import QuantileInputs
from mine_fast.selection import FoldHistory


@pytest.mark.parametrize(
    ("mi", "stderr", "flagged"),
    [
        (-3.0, 1.0, True),  # within 3 standard errors of 0, and nothing that an information can be
        (-3.0, 10.0, True),
        (-0.2, 0.05, True),
        (-0.2, 0.15, False),
        (-0.04, 0.001, False),  # the cost of validation on few rows
        (0.0, 0.0, False),
        (2.0, 0.1, False),
    ],
)
def test_below_zero(mi, stderr, flagged):
    assert (below_zero(mi, stderr) is not None) == flagged


def test_few_rows():
    assert few_rows(FEW_ROWS) is None
    flag = few_rows(FEW_ROWS - 1)
    assert flag is not None
    assert flag.code == "few_rows"
    assert str(FEW_ROWS - 1) in flag


def test_not_certifiable():
    assert not_certifiable(2.9, 3.0) is None
    assert "3.00 nats" in not_certifiable(3.1, 3.0)


def test_few_effective_marginals():
    flat = HeldOutScores(torch.zeros(100), torch.zeros(5, 100), torch.zeros(5, 100))
    peaked = torch.zeros(5, 100)
    peaked[:, :3] = 50.0
    assert few_effective_marginals([flat]) is None
    flag = few_effective_marginals([flat, HeldOutScores(torch.zeros(100), peaked, peaked)])
    assert "rests on 3 effective rows of 100" in flag
    # Half of few rows is enough.
    assert few_effective_marginals([HeldOutScores(torch.zeros(8), torch.zeros(5, 8), torch.zeros(5, 8))]) is None


def test_constant_columns():
    x = torch.randn(30, 14)
    assert constants(ArraySource(x, x)) == ([], False)
    flags, degenerate = constants(ArraySource(torch.cat([x[:, :1], torch.ones(30, 12)], 1), x))
    assert not degenerate
    assert [flag.code for flag in flags] == ["constant_column"]
    assert "x has 12 constant column(s) (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...)" in flags[0]
    assert constants(ArraySource(x, torch.ones(30, 2)))[1]


def test_many_levels():
    assert many_levels("x", torch.tensor([], dtype=torch.int64)) is None
    flag = many_levels("y", torch.tensor([3, 7]))
    assert "2 column(s) of y (3, 7)" in flag
    assert flag.code == "many_levels"


def test_duplicate_rows():
    assert duplicate_rows(None) is None
    assert duplicate_rows(torch.arange(5)) is None
    assert "3 of 6 rows repeat another" in duplicate_rows(torch.tensor([4, 4, 4, 4, 1, 2]))


def columns_of(*columns):
    return torch.stack([torch.as_tensor(column, dtype=torch.float64) for column in columns], 1)


def test_duplicate_columns():
    a, b = torch.randn(2, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert duplicate_columns("x", columns_of(a, b, a + b)) is None
    assert duplicate_columns("x", columns_of(a, a + 1e-3 * b)) is None
    flag = duplicate_columns("x", columns_of(a, b, 1 - 2 * a, b))
    assert (flag.code, flag.level) == ("duplicate_columns", "warning")
    assert "x has 2 column(s) that are another one but for scale and shift (2 of 0, 3 of 1)" in flag


HEAVY = {
    "Cauchy": lambda rng, rows: rng.standard_cauchy(rows),
    "Student, df 2": lambda rng, rows: rng.standard_t(2, rows),
    "Pareto": lambda rng, rows: rng.pareto(1.5, rows),
    "exp(Gaussian)": lambda rng, rows: rng.lognormal(0, 1.5, rows),
    "larger than half the numbers": lambda rng, rows: 1e305 * rng.standard_cauchy(rows).clip(-1e3, 1e3),
}
LIGHT = {
    "Gaussian": lambda rng, rows: rng.standard_normal(rows),
    "uniform": lambda rng, rows: rng.uniform(size=rows),
    "exponential": lambda rng, rows: rng.exponential(size=rows),
    "mostly zeros": lambda rng, rows: rng.standard_normal(rows) * (rng.uniform(size=rows) < 0.1),
    "coins": lambda rng, rows: rng.integers(2, size=rows),
    "constant": lambda rng, rows: np.ones(rows),
}


@pytest.mark.parametrize("rows", [500, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_heavy_tails(rows, seed):
    rng = np.random.default_rng(seed)
    light = columns_of(*(draw(rng, rows) for draw in LIGHT.values()))
    assert heavy_tails("x", light, ranked=True) is None
    for draw in HEAVY.values():
        flag = heavy_tails("x", torch.cat([light, columns_of(draw(rng, rows))], 1), ranked=True)
        assert flag is not None
        assert f"1 column(s) of x ({light.shape[1]})" in flag


def test_heavy_tails_harm_a_critic_that_reads_values():
    x = columns_of(np.random.default_rng(0).standard_cauchy(1000))
    note, warning = heavy_tails("x", x, ranked=True), heavy_tails("x", x, ranked=False)
    assert (note.code, note.level, warning.code, warning.level) == ("heavy_tails", "note", "heavy_tails", "warning")
    assert "reads ranks" in note
    assert "asinh" in warning


def test_discrete():
    rng = np.random.default_rng(0)
    normal, code, coin = rng.standard_normal(1000), rng.integers(5, size=1000), rng.integers(2, size=1000)
    sometimes = np.where(coin == 0, 0, normal)  # a quantity that is often 0 is none of few values
    for columns in ((normal,), (normal, sometimes), (np.arange(1000),), (np.ones(1000), normal)):
        assert discrete("x", QuantileInputs().fit(columns_of(*columns)), coded=True) is None
    alone = discrete("y", QuantileInputs().fit(columns_of(code)), coded=True)
    assert (alone.code, alone.level) == ("discrete", "note")
    assert "y is discrete (5 values)" in alone
    assert "at most ln(5) = 1.61 nats" in alone
    among = discrete("x", QuantileInputs().fit(columns_of(code, normal, coin)), coded=False)
    assert "2 of 3 columns of x (0, 2) are discrete (up to 5 values)" in among
    assert "give it an indicator" in among
    assert "at most" not in among
    assert "at most 2.3 nats" in discrete("x", QuantileInputs().fit(columns_of(code, coin)), coded=True)


def test_columns_are_told_by_who_reads_them():
    rng = np.random.default_rng(0)
    cauchy, coin = rng.standard_cauchy(2000), rng.integers(2, size=2000)
    source = ArraySource(columns_of(cauchy), columns_of(coin))
    assert [(flag.code, flag.level) for flag in column_flags(source, True, 0)] == [("heavy_tails", "note")]
    own = column_flags(source, False, 0, ("u", "v"))
    assert [(flag.code, flag.level) for flag in own] == [("heavy_tails", "warning"), ("discrete", "note")]
    assert "v is discrete (2 values)" in own[1]


@pytest.mark.parametrize(
    ("gains", "bound", "flagged"),
    [
        ([(0.2, 1e-4)] * 4, 0.6, True),
        ([(0.2, 0.01)] * 4, 0.6, False),  # two standard errors
        ([(0.02, 1e-6)] * 4, 2.0, False),  # 1% of the bound
        ([(0.2, 1e-4), (-0.2, 1e-4)], 0.6, False),
        ([(0.005, 1e-8)] * 4, 0.01, True),
        ([(0.001, 1e-8)] * 4, 0.001, False),
        ([(0.0, 0.0)] * 2, -1.0, False),
    ],
)
def test_still_rising(gains, bound, flagged):
    flag = still_rising(gains, bound, 100, 1e-4)
    assert (flag is not None) == flagged
    assert flag is None or "more steps (now 100) or a higher learning_rate (now 0.0001)" in flag


@pytest.mark.parametrize(
    ("train", "held_out", "stderr", "flagged"),
    [
        (1.0, 0.5, 0.1, True),
        (1.0, 0.5, 0.3, False),
        (1.0, 0.9, 0.01, False),
        (0.04, 0.0, 0.001, False),
        (0.5, 1.0, 0.01, False),
        (0.3, -0.4, 0.1, True),
    ],
)
def test_overfitted(train, held_out, stderr, flagged):
    assert (overfitted(train, held_out, stderr) is not None) == flagged


@pytest.mark.parametrize(("copies_known", "flagged"), [(False, True), (True, False)])
def test_copies_of_training_rows_count_once_in_the_excess(copies_known, flagged):
    measured = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    joint = (1 + (measured - measured.mean()) / measured.std()).repeat(20)  # 1.00 +- 0.04 nats of 600 rows, 0.18 of 30
    scores = HeldOutScores(joint, torch.zeros(5, 600).double(), torch.zeros(5, 600).double())
    groups = torch.arange(30).repeat(20) if copies_known else None
    flags = training_flags(
        [FoldHistory([0], [0.0], [0.7])], [scores], [groups], 0.7, 0.01, {"steps": 1, "learning_rate": 1.0}
    )
    assert ("overfitted" in {flag.code for flag in flags}) == flagged


def test_copies_among_the_training_rows_are_told_to_the_flags(monkeypatch):
    told = []

    def training_flags(histories, train_scores, groups, *of_result):
        told.extend(zip(train_scores, groups, strict=True))
        return []

    monkeypatch.setattr(cross_fitting, "training_flags", training_flags)
    x, noise = np.random.default_rng(0).standard_normal((2, 300))
    mine_fast.estimate(np.tile(x, 3), np.tile(x + noise, 3), steps=10, folds=2, evaluate_every=10)
    assert len(told) == 2
    for scores, groups in told:
        score_of = dict(zip(groups.tolist(), scores.joint.tolist(), strict=True))
        assert len(score_of) < len(groups)
        assert scores.joint.tolist() == pytest.approx([score_of[group] for group in groups.tolist()])


def flags_of(x, y, **settings):
    return {flag.code for flag in mine_fast.estimate(x, y, steps=60, folds=2, evaluate_every=20, **settings).flags}


def test_flags_of_estimates():
    generator = np.random.default_rng(0)
    x, noise = generator.standard_normal((2, 1000))
    assert flags_of(x, 0.5 * x + noise) == set()
    codes = generator.integers(0, 300, 4000)
    assert "many_levels" in flags_of(codes, codes % 7)
    assert "many_levels" not in flags_of(codes // 10, codes % 7)
    assert "few_rows" in flags_of(x[:60], 0.5 * x[:60] + noise[:60])
    assert "deterministic" in flags_of(x, x**2)
    assert {"deterministic", "few_rows"} <= flags_of(x[:100], 3 * x[:100])


def own_critic(width, hidden=64):
    torch.manual_seed(0)
    layers = (torch.nn.Linear(width, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1))
    return mine_fast.MINE(torch.nn.Sequential(*layers), method="concat")


@pytest.mark.parametrize(("steps", "learning_rate", "flagged"), [(100, 1e-4, True), (200, 1e-2, False)])
def test_training_that_stops_early_is_flagged(steps, learning_rate, flagged):
    x, noise = np.random.default_rng(0).standard_normal((2, 2000, 1)).astype(np.float32)
    flags = own_critic(2).fit(x, x + 0.5 * noise, steps=steps, learning_rate=learning_rate).flags
    assert ("still_rising" in {flag.code for flag in flags}) == flagged


@pytest.mark.parametrize(("rows", "width", "hidden", "flagged"), [(500, 20, 256, True), (2000, 1, 64, False)])
def test_a_critic_that_learns_its_rows_is_flagged(rows, width, hidden, flagged):
    x, noise = np.random.default_rng(0).standard_normal((2, rows, width)).astype(np.float32)
    y = 0.5 * x + 0.75**0.5 * noise  # of more than some 4 nats, 125 held-out rows and 125 training rows read the same
    flags = own_critic(2 * width, hidden).fit(x, y, steps=200).flags
    assert ("overfitted" in {flag.code for flag in flags}) == flagged


def test_notes_of_estimates():
    rng = np.random.default_rng(0)
    x = rng.standard_cauchy(1000)
    y = (x > 0) ^ (rng.uniform(size=1000) < 0.2)
    r = mine_fast.estimate(np.stack([x, 3 * x], 1), y, steps=60, folds=2, evaluate_every=20)
    assert {(flag.code, flag.level) for flag in r.flags} == {
        ("duplicate_columns", "warning"),
        ("heavy_tails", "note"),
        ("discrete", "note"),
    }
