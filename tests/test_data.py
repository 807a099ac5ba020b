"""as_samples and as_pair: what is accepted, and how the rest is refused."""

import datetime
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mine_fast.arrays import alike, as_pair, as_samples
from mine_fast.data import pair_source

# --- accepted ---------------------------------------------------------------------------------------------------------

ROWS = [[1.5, 2.0], [3.0, 4.0], [5.0, -6.0]]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (ROWS, torch.float64),
        (tuple(map(tuple, ROWS)), torch.float64),
        (np.array(ROWS), torch.float64),
        (np.array(ROWS, dtype=np.float32), torch.float32),
        (np.array(ROWS, dtype=np.float16), torch.float32),
        (np.array(ROWS, dtype=np.longdouble), torch.float64),
        (np.array(ROWS, dtype=">f8"), torch.float64),
        (np.array(ROWS)[:, ::-1][:, ::-1], torch.float64),
        (np.asfortranarray(ROWS), torch.float64),
        (torch.tensor(ROWS), torch.float32),
        (torch.tensor(ROWS, dtype=torch.float64), torch.float64),
        (torch.tensor(ROWS, dtype=torch.float16), torch.float32),
        (torch.tensor(ROWS, dtype=torch.bfloat16), torch.float32),
        (torch.tensor(ROWS, requires_grad=True), torch.float32),
        ([torch.tensor(row) for row in ROWS], torch.float32),
        ([np.array(row) for row in ROWS], torch.float64),
        (pd.DataFrame(ROWS), torch.float64),
        (pd.DataFrame(ROWS).astype("float32"), torch.float32),
        (pd.DataFrame({"a": pd.array([1.5, 3, 5], dtype="Float64"), "b": np.array([2, 4, -6])}), torch.float64),
        (np.ma.masked_array(ROWS, mask=False), torch.float64),
        (np.array(ROWS, dtype=object), torch.float64),
        (pd.DataFrame(ROWS, dtype=object), torch.float64),
        ([[Decimal("1.5"), 2], [Fraction(3), 4.0], [5, np.float32(-6)]], torch.float64),
    ],
    ids=lambda value: getattr(type(value), "__name__", None),
)
def test_values_and_dtype_are_kept(value, dtype):
    samples = as_samples(value, "x")
    assert samples.dtype == dtype
    assert not samples.requires_grad
    assert samples.tolist() == ROWS


@pytest.mark.parametrize(
    "value",
    [
        [0, 1, 2],
        range(3),
        np.array([0, 1, 2], dtype=np.uint8),
        np.array([0, 1, 2], dtype=np.uint64),
        torch.tensor([0, 1, 2]),
        torch.tensor([0, 1, 2], dtype=torch.uint8),
        pd.Series([0, 1, 2]),
        pd.Series([0, 1, 2], dtype="Int64"),
        pd.Series(pd.arrays.SparseArray([0, 1, 2])),
        pd.DataFrame({"a": [0, 1, 2]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_integers_become_float64_columns(value):
    samples = as_samples(value, "x")
    assert samples.dtype == torch.float64
    assert samples.tolist() == [[0], [1], [2]]


def test_booleans():
    assert as_samples([True, False, True], "x").tolist() == [[1], [0], [1]]
    assert as_samples(pd.DataFrame({"a": [True, False], "b": [0.5, 2]}), "x").tolist() == [[1, 0.5], [0, 2]]
    assert as_samples(torch.tensor([True, False]), "x").tolist() == [[1], [0]]


def test_float64_ranks_survive():
    near = np.array([1.0, 1.0 + 2**-50, 1.0 + 2**-49])
    assert len(set(as_samples(near, "x").flatten().tolist())) == 3


def test_read_only_arrays_are_copied_and_others_are_not():
    array = np.arange(3.0)
    assert as_samples(array, "x").data_ptr() == array.ctypes.data
    array.flags.writeable = False
    assert as_samples(array, "x").data_ptr() != array.ctypes.data


def test_duplicate_column_names():
    assert as_samples(pd.DataFrame(ROWS, columns=["a", "a"]), "x").tolist() == ROWS


def test_more_dimensions_where_allowed():
    images = np.zeros((4, 3, 3))
    assert as_samples(images, "x", allow_nd=True).shape == (4, 3, 3)
    assert [side.shape for side in as_pair(images, [0, 1, 2, 3], allow_nd=True)] == [(4, 3, 3), (4, 1)]


@given(hnp.arrays(st.sampled_from([np.float32, np.float64, np.int32]), st.tuples(st.integers(2, 6), st.integers(1, 4))))
def test_as_samples_is_exact_or_refuses(array):
    """Whatever the numbers: the same numbers come out, or an error that says that they are not finite."""
    if np.isfinite(array).all():
        np.testing.assert_array_equal(as_samples(array, "x").numpy(), array)
    else:
        first = tuple(np.argwhere(~np.isfinite(array))[0])
        with pytest.raises(ValueError, match=rf"row {first[0]}, column {first[1]} "):
            as_samples(array, "x")


# --- refused ----------------------------------------------------------------------------------------------------------

GAPS = np.ones((5, 3))
GAPS[3, 1], GAPS[4, 0] = np.nan, np.inf
ONE_GAP = pd.Series([1, None, 3], dtype="Int64")
RAGGED = [torch.zeros(2), torch.zeros(3)]
TEXT_FRAME = pd.DataFrame({"age": [1, 2], "city": ["Oslo", "Rome"], "dog": ["a", "b"]})
BAD = [
    (None, TypeError, r"array, tensor.*got None"),
    ("1,2,3", TypeError, r"got '1,2,3'"),
    (b"12", TypeError, r"got b'12'"),
    ({"a": [1, 2]}, TypeError, r"got an object of type builtins\.dict"),
    ({1, 2}, TypeError, r"builtins\.set"),
    (object(), TypeError, r"builtins\.object"),
    ((i for i in range(3)), TypeError, r"generator"),
    (["a", "b"], TypeError, r"got text in column 0, 'a' at row 0"),
    (np.array(["a", "b"]), TypeError, r"got text .*shape \[2\]"),
    ([1.0, "b"], TypeError, r"Python objects, 'b' at row 1, column 0"),
    (["b", 1.0], TypeError, r"Python objects, 'b' at row 0, column 0"),
    (["b", b"b"], TypeError, r"Python objects, b'b' at row 1, column 0"),
    (np.array([b"a", b"b"]), TypeError, r"got bytes"),
    ([1.0, None, 2.0], ValueError, r"missing values, got None at row 1, column 0"),
    (np.array([[1, 2], [pd.NA, "b"]], dtype=object), ValueError, r"missing values, got <NA> at row 1, column 0"),
    (pd.DataFrame({"a": [1, 2], "b": [True, None]}), ValueError, r"missing values, got None at row 1, column 'b'"),
    (np.array([[1, 2], [3, "b"]], dtype=object), TypeError, r"'b' at row 1, column 1"),
    (np.array([[1, 2], [3]], dtype=object), TypeError, r"\[1, 2\] at row 0"),
    ([1 + 2j, 3], TypeError, r"complex"),
    (np.array([1 + 2j, 3], dtype=object), TypeError, r"\(1\+2j\) at row 0"),
    (torch.nested.nested_tensor(RAGGED, layout=torch.strided), TypeError, r"nested .* 2 rows"),
    (torch.nested.nested_tensor(RAGGED, layout=torch.jagged), TypeError, r"nested .* 2 rows"),
    (torch.zeros(3, device="meta", dtype=torch.int64), TypeError, r"meta device, which has none"),
    (torch.eye(3).to_sparse_csr(), TypeError, r"dense.*sparse_csr"),
    (2**80, ValueError, r"single value, 1208925819614629174706176"),
    (np.array(None, dtype=object), ValueError, r"single value, None"),
    (np.zeros((0, 2), dtype=object), ValueError, r"at least 2 rows, got 0"),
    (np.array([2**60, 2**60 + 1]), ValueError, r"integers below 2\^53, .*got 1152921504606846976 to \d+7 in column 0"),
    ([[0.5, 2**60], [0.5, 2**60 + 1]], ValueError, r"integers below 2\^53, .* in column 1; subtract a start"),
    ([2**80 + 1, 0.5], ValueError, r"integers below 2\^53"),
    (pd.DataFrame({"a": [1, 2], "id": [2**60, 2**60 + 1]}), ValueError, r"integers below 2\^53, .* in column 'id'"),
    (np.ma.masked_array([[1, 2], [3, 4]], mask=[[0, 1], [0, 1]]), ValueError, r"2 masked .* first at row 0, column 1"),
    (torch.tensor([1 + 2j, 3]), TypeError, r"real.*torch\.complex64"),
    (torch.eye(3).to_sparse(), TypeError, r"dense.*sparse"),
    (np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[D]"), TypeError, r"dates"),
    ([datetime.date(2024, 1, 1)] * 2, TypeError, r"Python objects, datetime\.date\(2024, 1, 1\) at row 0"),
    (np.zeros(3, dtype=[("a", float), ("b", int)]), TypeError, r"records"),
    (TEXT_FRAME, TypeError, r"column 'city' of dtype"),
    (TEXT_FRAME["city"], TypeError, r"column 'city'"),
    (
        pd.DataFrame({"a": [1, 2], "when": pd.to_datetime(["2024-01-01", "2024-01-02"])}),
        TypeError,
        r"'when'.*datetime64",
    ),
    (pd.DataFrame({"a": [1, 2], "z": [1j, 2j]}), TypeError, r"column 'z' of dtype complex128"),
    (pd.Series(["a", "b"], dtype="category"), TypeError, r"category.*factorize"),
    (5, ValueError, r"single number, 5"),
    (np.float64(5), ValueError, r"single number"),
    (torch.tensor(5.0), ValueError, r"single number"),
    (np.zeros((4, 2, 2)), ValueError, r"\[N\] or \[N, d\], got .*\[4, 2, 2\]; flatten"),
    (torch.zeros(4, 2, 2), ValueError, r"shape \[4, 2, 2\]"),
    (np.zeros((4, 0)), ValueError, r"at least one column.*\[4, 0\]"),
    (pd.DataFrame(index=range(4)), ValueError, r"at least one column"),
    ([], ValueError, r"at least 2 rows, got 0"),
    (np.zeros((0, 3)), ValueError, r"at least 2 rows, got 0"),
    (pd.DataFrame({"a": []}), ValueError, r"at least 2 rows, got 0"),
    (TEXT_FRAME[:0], ValueError, r"at least 2 rows, got 0"),
    ([1.0], ValueError, r"at least 2 rows, got 1"),
    (torch.zeros(1, 5), ValueError, r"at least 2 rows, got 1 .*transposed\?"),
    ([[1, 2], [3]], ValueError, r"rows of one length"),
    ([torch.zeros(2), torch.zeros(3)], ValueError, r"rows of one shape"),
    (GAPS, ValueError, r"2 values that are NaN or infinite, first at row 3, column 1 \(nan\)"),
    (torch.tensor(GAPS, dtype=torch.float16), ValueError, r"2 values.*row 3, column 1"),
    (pd.DataFrame(GAPS), ValueError, r"2 values.*row 3, column 1"),
    ([0.0, float("-inf")], ValueError, r"1 value .*row 1, column 0 \(-inf\)"),
    (ONE_GAP, ValueError, r"1 value .*row 1, column 0 \(nan\)"),
    (np.ma.masked_array([1.0, 2.0, 3.0], mask=[0, 0, 1]), ValueError, r"got 1 masked value, at row 2;"),
]
if np.finfo(np.longdouble).max > np.finfo(np.float64).max:
    BAD.append((np.array([1, np.finfo(np.longdouble).max]), ValueError, r"1 value .*row 1"))


@pytest.mark.parametrize(("value", "error", "message"), BAD, ids=range(len(BAD)))
@pytest.mark.parametrize("name", ["x", "z_marg"])
def test_bad_samples_are_named(name, value, error, message):
    with pytest.raises(error, match=rf"^{name} .*(?:{message})"):
        as_samples(value, name)


@pytest.mark.parametrize(("value", "error", "message"), BAD, ids=range(len(BAD)))
def test_bad_y_is_called_y(value, error, message):
    with pytest.raises(error, match=rf"^y .*(?:{message})"):
        as_pair([1.0, 2.0, 3.0], value)


def test_position_in_more_dimensions():
    images = torch.zeros(4, 3, 3)
    images[2, 0, 1] = float("nan")
    with pytest.raises(
        ValueError, match=re.escape("x must be finite, got 1 value that is NaN or infinite, at index [2, 0, 1]")
    ):
        as_samples(images, "x", allow_nd=True)


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_unequal_lengths():
    with pytest.raises(ValueError, match=r"x and y .*got 3 rows in x and 4 in y"):
        as_pair(np.zeros(3), np.zeros((4, 2)))


def test_two_tensors_of_different_floating_dtypes():
    with pytest.raises(TypeError, match=r"x and y .*torch\.float32 for x and torch\.float64 for y"):
        as_pair(torch.zeros(3), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("x", "y", "dtype"),
    [
        (torch.zeros(3), torch.tensor([0, 1, 2]), torch.float64),
        (torch.zeros(3), torch.zeros(3), torch.float32),
        (torch.zeros(3), np.zeros(3), torch.float64),
        (np.zeros(3, np.float32), np.zeros(3), torch.float64),
        (np.zeros(3, np.float32), np.zeros(3, np.float16), torch.float32),
    ],
)
def test_pairs_share_the_wider_dtype(x, y, dtype):
    a, b = as_pair(x, y)
    assert a.dtype == b.dtype == dtype


@pytest.mark.parametrize("call", [as_pair, pair_source])
def test_errors_use_the_callers_names(call):
    names = ("X", "z")
    bad = [
        ([1, 2], [1, 2, 3], r"^X and z must have the same number of rows, got 2 rows in X and 3 in z"),
        ([1, 2], [1, float("nan")], r"^z must be finite"),
        (None, [1, 2], r"^X must be"),
        (torch.zeros(2), torch.zeros(2).double(), r"^X and z .*float32 for X and .*float64 for z"),
        (torch.zeros(2), torch.zeros(2, device="meta"), r"^X and z .*X on cpu and z on meta"),
        ([1, 2], None, r"^z must be .*got None"),
    ]
    for x, y, message in bad:
        with pytest.raises((ValueError, TypeError), match=message):
            call(x, y, names=names)


def test_mixed_devices():
    class Elsewhere(torch.Tensor):
        """A CPU tensor that says that it is on a GPU: no GPU is needed to be refused one."""

        @property
        def device(self):
            return torch.device("cuda", 0)

        __torch_function__ = torch._C._disabled_torch_function_impl

    with pytest.raises(ValueError, match=r"x and y .*x on cpu and y on cuda:0"):
        alike(torch.zeros(3, 1), torch.zeros(3, 1).as_subclass(Elsewhere))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_tensors_stay_and_do_not_mix():
    x, y = as_pair(torch.zeros(3, device="cuda"), torch.arange(3, device="cuda"))
    assert x.is_cuda
    assert y.is_cuda
    with pytest.raises(ValueError, match=r"x on cuda:0 and y on cpu"):
        as_pair(torch.zeros(3, device="cuda"), np.zeros(3))
