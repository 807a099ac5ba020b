"""Folds: every row once, balanced, and rows that belong together in one."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from mine_fast.splitting import split_folds, split_off


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=60), st.integers(2, 8), st.integers(0, 100), st.integers(1, 100)
)
def test_groups_stay_together_and_folds_balance(sizes, folds, seed, stride):
    folds = min(folds, len(sizes))
    # Labels in no order and of no range: only whether they are equal counts.
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)) * stride - 7
    groups = labels[torch.randperm(labels.numel(), generator=torch.Generator().manual_seed(seed + 1))]
    split = split_folds(groups.numel(), folds, seed, groups)
    assert len(split) == folds
    assert sorted(torch.cat(split).tolist()) == list(range(groups.numel()))
    seen = [set(groups[fold].tolist()) for fold in split]
    assert sum(map(len, seen)) == len(set.union(*seen))
    counts = [fold.numel() for fold in split]
    assert min(counts) > 0
    assert max(counts) - min(counts) <= max(sizes)
    assert all(torch.equal(a, b) for a, b in zip(split, split_folds(groups.numel(), folds, seed, groups), strict=True))


@pytest.mark.parametrize("groups", [None, torch.arange(103)])
def test_rows_of_their_own_make_equal_folds_in_random_order(groups):
    split = split_folds(103, 4, 0, groups)
    assert sorted(torch.cat(split).tolist()) == list(range(103))
    assert sorted(fold.numel() for fold in split) == [25, 26, 26, 26]
    assert all(fold.tolist() != fold.sort().values.tolist() for fold in split)
    assert not torch.equal(split_folds(103, 4, 1, groups)[0], split[0])


def test_every_row_is_as_likely_in_every_fold():
    hits = torch.zeros(12, 3)
    for seed in range(600):
        for k, fold in enumerate(split_folds(12, 3, seed, torch.tensor([0, 0, *range(1, 11)]))):
            hits[fold, k] += 1
    single = hits[2:] / 600  # the pair is the largest group, and goes to the first fold
    assert (single[:, 1:] - single[:, 1:].mean()).abs().max() < 4 * (0.25 / 600) ** 0.5


def test_impossible_groups():
    with pytest.raises(ValueError, match="folds must be at most the 2 different rows"):
        split_folds(6, 3, 0, torch.tensor([1, 1, 1, 2, 2, 2]))
    with pytest.raises(ValueError, match=r"groups must be \[6\]"):
        split_folds(6, 2, 0, torch.arange(5))


@given(st.lists(st.integers(1, 9), min_size=4, max_size=40), st.integers(0, 100), st.floats(0.1, 0.5))
def test_no_group_is_split_off_in_part(sizes, seed, share):
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    rows = torch.randperm(groups.numel(), generator=torch.Generator().manual_seed(seed))
    count = max(1, round(share * rows.numel()))
    first, rest = split_off(rows, count, groups)
    assert sorted([*first.tolist(), *rest.tolist()]) == sorted(rows.tolist())
    assert first.numel() > 0
    if max(sizes) <= rows.numel() // 2:
        assert not set(groups[first].tolist()) & set(groups[rest].tolist())
        assert count - max(sizes) < first.numel() <= max(count, max(sizes))


def test_a_group_of_most_rows_is_cut_so_that_something_is_left():
    first, rest = split_off(torch.arange(10), 3, torch.zeros(10, dtype=torch.int64))
    assert (first.numel(), rest.numel()) == (3, 7)
