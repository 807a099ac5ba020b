"""Each flag where its reason holds, and not beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mine_fast
from mine_fast.data import ArraySource
from mine_fast.evaluation import HeldOutScores
from mine_fast.flags import (
    below_zero,
    constants,
    duplicate_rows,
    few_effective_marginals,
    few_rows,
    many_levels,
    not_certifiable,
)
from mine_fast.flags.of_scores import FEW_ROWS


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
