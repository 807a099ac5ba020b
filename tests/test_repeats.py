"""Constant columns and duplicate rows, found where they are and not where repeats are natural."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from mine_fast.data import ArraySource, pair_source
from mine_fast.repeats import MAX_ROWS, affine_copies, constant_columns, duplicate_groups


class Counting(TensorDataset):
    """A dataset that notes how many rows were read."""

    read = 0

    def __getitem__(self, row):
        self.read += 1
        return super().__getitem__(row)


def normal(rows, columns, seed=0):
    return torch.tensor(np.random.default_rng(seed).standard_normal((rows, columns)))


# --- constant columns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ArraySource, lambda x, y: pair_source(TensorDataset(x, y))])
def test_constant_columns_of_arrays_and_datasets(make):
    x, y = normal(3000, 3), normal(3000, 2, seed=1)
    x[:, 1] = 7
    y[:-1, 0], y[-1, 0] = 0, 1e-300  # but for the last row
    found = constant_columns(make(x, y))
    assert [side.tolist() for side in found] == [[False, True, False], [False, False]]
    y[:, :] = -2
    assert constant_columns(make(x, y))[1].tolist() == [True, True]


def test_a_mapped_source_and_images():
    source = pair_source(TensorDataset(torch.ones(50, 2, 3), normal(50, 1)), allow_nd=True)
    assert constant_columns(source)[0].tolist() == [True] * 6
    mapped = source.map(lambda x, y: (torch.cat([x.flatten(1), y], 1), y))
    assert constant_columns(mapped)[0].tolist() == [True] * 6 + [False]


def test_a_dataset_without_constant_columns_gives_up_few_rows():
    dataset = Counting(normal(20_000, 2), normal(20_000, 1))
    constant_columns(pair_source(dataset))
    assert dataset.read <= 2 + 1 + 32  # the source's own two, the first, and one batch


def test_a_large_dataset_is_thinned():
    dataset = Counting(torch.ones(2 * MAX_ROWS + 1, 1), normal(2 * MAX_ROWS + 1, 1))
    assert constant_columns(pair_source(dataset))[0].tolist() == [True]
    assert dataset.read <= MAX_ROWS + 3


# --- duplicate rows ---------------------------------------------------------------------------------------------------


def grouped(groups):
    """The rows of each group, as sets."""
    return {tuple(np.flatnonzero(groups.numpy() == group)) for group in range(int(groups.max()) + 1)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [1, 30])
def test_copies_share_a_group_and_others_do_not(columns, dtype):
    x, y = normal(1000, columns).to(dtype), normal(1000, 1, seed=1).to(dtype)
    copies = torch.arange(1000).repeat(3)[torch.randperm(3000, generator=torch.Generator().manual_seed(0))]
    groups = duplicate_groups(ArraySource(x[copies], y[copies]))
    assert groups.dtype == torch.int64
    _, expected = torch.unique(torch.cat([x, y], 1)[copies], dim=0, return_inverse=True)
    assert grouped(groups) == grouped(expected)


def test_zeros_of_either_sign_are_equal():
    x, y = normal(1000, 2), normal(1000, 1, seed=1)
    x[:, 1] = 0
    groups = duplicate_groups(ArraySource(torch.cat([x, x * torch.tensor([1.0, -1.0])]), y.repeat(2, 1)))
    assert torch.equal(groups[:1000], groups[1000:])


def test_images_are_compared_as_rows():
    x, y = normal(600, 12).reshape(600, 3, 4), normal(600, 1, seed=1)
    groups = duplicate_groups(ArraySource(x.repeat(2, 1, 1), y.repeat(2, 1)))
    assert torch.equal(groups[:600], groups[600:])
    assert int(groups.max()) == 599


def test_few_copies_are_let_be():
    x, y = normal(2000, 1), normal(2000, 1, seed=1)
    for copies, expected in ((5, None), (15, 1985)):
        x[-copies:], y[-copies:] = x[:copies], y[:copies]
        groups = duplicate_groups(ArraySource(x, y))
        assert expected is None if groups is None else int(groups.max()) + 1 == expected


def discrete():
    rng = np.random.default_rng(0)
    u = rng.standard_normal((5000, 2))
    labels = rng.integers(0, 1000, 5000).reshape(-1, 1)
    yield "labels", labels, (labels * 7) % 1000
    yield "counts", rng.poisson(300, (5000, 1)), u[:, :1]
    yield "rounded", u[:, :1].round(1), u[:, 1:].round(1)
    yield "rounded_y", u, (u[:, :1] + u[:, 1:]).round(2)
    yield "few_vectors", rng.standard_normal((200, 3))[labels[:, 0] % 200], labels % 200 + 0.5
    yield "one_side_repeats", np.repeat(u[:2500], 2, 0), u[:, :1]
    yield "continuous", u, u[:, :1]
    # Half the rows are quantities, half are codes that go with another code in four of five rows, or always.
    code = rng.integers(0, 5, 5000)[:, None]
    half = rng.uniform(size=(5000, 1)) < 0.5
    right = rng.uniform(size=(5000, 1)) < 0.8
    yield "half_codes", np.where(half, u[:, :1], code), np.where(half, u[:, 1:], np.where(right, -code, -4 * right))
    yield "half_equal_codes", np.where(half, u[:, :1], code), np.where(half, u[:, 1:], -code)

    items = rng.integers(0, 2, (3000, 10))
    yield "sum_of_binary_items", items, items.sum(1, keepdims=True)
    scales = rng.integers(0, 5, (1000, 4))
    yield "sum_of_ordered_items", scales, scales.sum(1, keepdims=True)
    codes = rng.integers(0, 100, 2000)
    yield "vectors_of_codes", rng.standard_normal((100, 8))[codes], (codes[:, None] * 7) % 100
    yield "one_hot_codes", np.eye(60)[codes % 60], codes[:, None] % 60
    design = np.repeat(np.arange(40), 8)[:, None]
    yield "balanced_design", design, (7 * design) % 40


def copied():
    """Rows of measurements that are there several times, whatever goes with them, and how many are different."""
    rng = np.random.default_rng(0)
    x, label = rng.standard_normal((300, 10)), rng.integers(0, 2, (300, 1))
    four = np.repeat(np.arange(300), 4)
    yield "with_labels", x[four], label[four], 300
    yield "with_rounded_values", x[four], x[four, :1].round(1), 300
    yield "on_the_side_of_y", label[four], x[four], 300
    yield "few_rows", x[four[:400]], x[four[:400], 3:4], 100
    yield "many_copies", x[np.repeat(np.arange(100), 10)], label[np.repeat(np.arange(100), 10)], 100
    drawn = rng.integers(0, 300, 300)
    yield "bootstrap", x[drawn], label[drawn], len(set(drawn))
    minority = np.flatnonzero(label)
    yield "oversampled", *(side[np.r_[:300, np.repeat(minority, 3)]] for side in (x, label)), 300
    yield "some_rows", *(side[np.r_[:300, :60]] for side in (x, label)), 300
    yield "one_column", x[four, :1], label[four], 300
    times = rng.integers(0, 10**9, (500, 1))
    yield "whole_numbers", np.repeat(times, 2, 0), np.repeat(times % 2, 2, 0), 500
    constant = np.column_stack([x[:, 0], np.ones(300)])
    yield "beside_a_constant", constant[four], label[four], 300


@pytest.mark.parametrize(("x", "y", "different"), [c[1:] for c in copied()], ids=[c[0] for c in copied()])
def test_copies_of_measurements_are_duplicates_whatever_goes_with_them(x, y, different):
    x, y = torch.tensor(1.0 * x), torch.tensor(1.0 * y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    groups = duplicate_groups(ArraySource(x[order], y[order]))
    assert int(groups.max()) + 1 == different
    _, expected = torch.unique(torch.cat([x, y], 1)[order], dim=0, return_inverse=True)
    assert grouped(groups) == grouped(expected)


@pytest.mark.parametrize(("x", "y"), [case[1:] for case in discrete()], ids=[case[0] for case in discrete()])
def test_natural_repeats_are_no_duplicates(x, y):
    assert duplicate_groups(ArraySource(torch.tensor(1.0 * x), torch.tensor(1.0 * y))) is None


def test_datasets_are_not_looked_at():
    x = normal(1000, 1).repeat(2, 1)
    assert duplicate_groups(ArraySource(x, x)) is not None
    assert duplicate_groups(pair_source(TensorDataset(x, x))) is None


def test_affine_copies_of_columns():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 500, generator=generator, dtype=torch.float64)
    noise = torch.randn(500, generator=generator, dtype=torch.float64)
    kelvin = (20 + 10 * a).float()
    columns = [a, 5 - 3 * a, b, 1e6 * b, -a, a + 1e-3 * noise, a**3, torch.ones(500), torch.ones(500)]
    assert affine_copies(torch.stack(columns, 1).double()).tolist() == [0, 0, 2, 2, 0, 5, 6, 7, 8]
    in_float32 = torch.stack([kelvin, kelvin * 1.8 + 32], 1).double()
    assert affine_copies(in_float32).tolist() == [0, 0]
    assert affine_copies(torch.stack([a, b], 1)[:500:7]).tolist() == [0, 1]


def test_affine_copies_where_a_few_rows_reach_far():
    # Correlations are 1 here, as both columns are great in the same row.
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[17] = 1e12
    assert affine_copies(x).tolist() == [0, 1]
    assert affine_copies(1 / x[:, :1] @ torch.tensor([[1.0, -2.0]], dtype=torch.float64)).tolist() == [0, 0]


def test_rare_events_are_no_copies():
    bits = torch.zeros(1000, 3, dtype=torch.float64)
    bits[5, :2] = 1  # two pixels that are seen in one image
    bits[::2, 2] = 1
    assert affine_copies(torch.cat([bits, 1 - bits[:, 2:]], 1)).tolist() == [0, 1, 2, 2]


def test_affine_copies_of_wide_tables():
    x = torch.randn(300, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 390] = 2 * x[:, 17] - 1
    copies = affine_copies(x)
    assert (copies != torch.arange(400)).nonzero().flatten().tolist() == [390]
    assert copies[390] == 17
