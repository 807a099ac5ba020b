"""Columns that are told in numbers made up from all rows: huge integers, text, categories, dates."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Pairs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mine_fast
from mine_fast.arrays import as_samples
from mine_fast.data import pair_source

BIG = 2**60 + 1
DAYS = np.array(["2024-02-01", "2024-01-01", "2024-02-01"], dtype="datetime64[D]")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array([BIG, BIG + 2, BIG + 1]), [0, 2, 1]),
        (np.array([-BIG, -BIG - 2, -BIG - 1]), [2, 0, 1]),
        (np.array([2**64 - 1, 2**64 - 3, 2**64 - 1], dtype=np.uint64), [2, 0, 2]),
        (torch.tensor([BIG, BIG + 2, BIG + 1]), [0, 2, 1]),
        (torch.tensor([2**64 - 1, 2**64 - 3], dtype=torch.uint64), [2, 0]),
        ([torch.tensor([BIG]), torch.tensor([BIG + 2])], [0, 2]),
        (pd.Series([BIG, BIG + 2, BIG + 1]), [0, 2, 1]),
        (pd.Series([BIG, BIG + 2, BIG + 1], dtype="UInt64"), [0, 2, 1]),
        (pd.Series([BIG, BIG + 2], dtype=object), [0, 2]),
        ([BIG, BIG + 2], [0, 2]),
        ([2**200 + 5, 2**200 + 7], [0, 2]),
        (np.array([-(2**63), 2**63 - 1]), [0, 1]),  # one step apart
        (np.array([BIG, BIG + 3 * 2**56, BIG + 24 * 2**56]), [0, 3 * 2**56, 24 * 2**56]),
        (np.array([BIG, BIG + 3 * (2**55 + 1), BIG + 6 * (2**55 + 1)]), [0, 1, 2]),  # in steps of 3 (2^55 + 1)
        (np.array([2**60, 5, -(2**63)]), [2**60, 5, -(2**63)]),  # float64 holds them all
        ([2**80, 5], [2**80, 5]),
        (np.array([2**53, -(2**53)]), [2**53, -(2**53)]),
        (["no", "yes", "no"], [0, 1, 0]),
        (np.array(["no", "yes", "no"]), [0, 1, 0]),
        (np.array([b"no", b"yes", b"no"]), [0, 1, 0]),
        (np.array(["no", "yes", "no"], dtype=object), [0, 1, 0]),
        ([np.str_("no"), "yes"], [0, 1]),
        (pd.Series(["no", "yes", "no"]), [0, 1, 0]),
        (pd.Series(["no", "yes", "no"], dtype=object), [0, 1, 0]),
        (pd.Series(["no", "yes", "no"], dtype="string"), [0, 1, 0]),
        (pd.Series(["low", "high", "low"]).astype(pd.CategoricalDtype(["low", "high"])), [0, 1, 0]),
        (pd.Categorical(["b", "a"]), [1, 0]),
        (DAYS, [19754, 19723, 19754]),
        (DAYS.astype("datetime64[s]") - DAYS[1], [31 * 86400, 0, 31 * 86400]),
        (pd.Series(pd.to_datetime(DAYS).tz_localize("Europe/Oslo")).dt.as_unit("s"), [1706742000, 1704063600] * 2),
    ],
    ids=range(30),
)
def test_recoded_columns(value, expected):
    samples = as_samples(value, "x", recode=True)
    assert samples.dtype == torch.float64
    assert samples.flatten().tolist() == expected[: len(value)]


@pytest.mark.parametrize("make", [lambda v: v, pd.Series, lambda v: pd.DataFrame({"t": v})])
def test_nanoseconds_over_years_are_rounded(make):
    times = np.datetime64("2020-01-01", "ns") + np.random.default_rng(0).integers(0, 10**17, 300).astype("m8[ns]")
    found = as_samples(make(times), "x", recode=True)[:, 0]
    exact = (times - times.min()).astype(np.int64)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), exact, rtol=0, atol=16)
    assert (torch.as_tensor(exact).argsort() == found.argsort()).all()


def test_a_nan_among_text_is_a_missing_value():
    for value in (np.array(["a", np.nan, "b"] * 9, dtype=object), pd.Series(["a", np.nan, "b"] * 9, dtype=object)):
        with pytest.raises(ValueError, match=r"x must not have missing values, got (nan|None) at row 1"):
            as_samples(value, "x", recode=True)


def test_columns_are_recoded_apart():
    frame = pd.DataFrame({"id": [BIG, BIG + 1], "kind": ["b", "a"], "on": [True, False], "x": [0.5, 1], "n": [3, 4]})
    assert as_samples(frame, "x", recode=True).tolist() == [[0, 1, 1, 0.5, 3], [1, 0, 0, 1, 4]]
    assert as_samples(np.array([["a", "b"], ["c", "b"]]), "x", recode=True).tolist() == [[0, 0], [1, 0]]
    assert as_samples([[BIG, 0.5], [BIG + 1, 0.25]], "x", recode=True).tolist() == [[0, 0.5], [1, 0.25]]
    images = BIG + np.arange(8).reshape(2, 2, 2)
    columns = as_samples(images, "x", recode=True, allow_nd=True)
    assert columns.tolist() == [[[0, 0], [0, 0]], [[4, 4], [4, 4]]]


@given(hnp.arrays(st.sampled_from([np.int64, np.uint64]), st.tuples(st.integers(2, 6), st.integers(1, 3))))
def test_integers_stay_as_different_as_they_were_or_are_refused(array):
    spans = [int(column.max()) - int(column.min()) for column in array.T]
    try:
        samples = as_samples(array, "x", recode=True).numpy()
    except ValueError as error:
        assert str(error).startswith("x must hold integers within 2^53")  # noqa: PT017  # either may be right
        assert max(spans) > 2**53
        return
    for before, after in zip(array.T, samples.T, strict=True):
        np.testing.assert_array_equal(np.argsort(before, kind="stable"), np.argsort(after, kind="stable"))
        assert len(set(before.tolist())) == len(set(after.tolist()))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([BIG, BIG + 1, BIG + 2**55 + 2]), r"x must hold integers within 2\^53 .* in column 0"),
        ([f"id{i}" for i in range(20)], r"x must repeat its categories, .*20 different values in 20 rows in column 0"),
        (pd.DataFrame({"id": [f"id{i}" for i in range(20)]}), r"x must repeat .* in column 'id'"),
        (pd.Series([f"id{i % 15}" for i in range(29)], name="id").astype("category"), r"15 .* 29 rows in column 'id'"),
        (pd.Series(["a", None], name="k"), r"x must not have missing values, got None at row 1, column 'k'"),
        (pd.Series(["a", np.nan], dtype=object, name="k"), r"missing values, got None at row 1, column 'k'"),
        (pd.Series(["a", None], dtype="category", name="k"), r"missing values, got a gap at row 1, column 'k'"),
        (np.array([["2024-01-01"], ["NaT"]], dtype="datetime64[D]"), r"missing values, got NaT at row 1, column 0"),
        (pd.Series(pd.to_datetime(["2024-01-01", None]), name="t"), r"missing values, got NaT at row 1, column 't'"),
        (np.array("a"), r"single value"),
        (np.array([], dtype=str), r"at least 2 rows, got 0"),
    ],
    ids=range(11),
)
def test_what_cannot_be_recoded_is_named(value, message):
    with pytest.raises(ValueError, match=message):
        as_samples(value, "x", recode=True)


def test_categories_up_to_every_second_row():
    assert as_samples([f"id{i % 15}" for i in range(30)], "x", recode=True).unique().numel() == 15


def test_sources_recode_arrays():
    x, y = pair_source([BIG, BIG + 1, BIG], ["no", "yes", "no"]).rows(torch.arange(3))
    assert (x.flatten().tolist(), y.flatten().tolist()) == ([0, 1, 0], [0, 1, 0])
    with pytest.raises(TypeError, match=r"^y .*got text"):
        pair_source([0, 1, 0], ["no", "yes", "no"], recode=False)


@pytest.mark.parametrize("item", [BIG, [0.5, BIG], [2, BIG], torch.tensor([0, BIG])])
def test_datasets_refuse_integers_that_float64_collapses(item):
    with pytest.raises(ValueError, match=r"^x of the dataset must hold integers below 2\^53"):
        pair_source(Pairs([(item, 1.0)] * 3))


def test_datasets_keep_integers_beside_fractions():
    x, _ = pair_source(Pairs([([0.5, 2**53 - 1], 1.0)] * 2)).rows(torch.arange(2))
    assert x.tolist() == [[0.5, 2**53 - 1]] * 2


def test_labels_of_two_classes_just_work():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.standard_normal((400, 2)), columns=["a", "b"])
    yes = np.where(frame["a"] > 0, "yes", "no")
    frame["label"] = yes
    settings = {"steps": 60, "folds": 2}
    as_numbers = mine_fast.estimate(frame[["a", "b"]], 1.0 * (yes == "yes"), **settings).mi
    assert 0.4 < as_numbers < 0.75  # ln 2 in truth
    assert mine_fast.estimate(frame[["a", "b"]], frame["label"], **settings).mi == as_numbers
    assert mine_fast.estimate(frame[["a", "b"]], yes, **settings).mi == as_numbers
