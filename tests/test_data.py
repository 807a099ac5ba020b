"""as_samples, as_pair and the sources of pairs: what is accepted, and how the rest is refused."""

import datetime
import gc
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Pairs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from mine_fast.arrays import alike, as_pair, as_samples
from mine_fast.data import ArraySource, PairSource, pair_source
from mine_fast.datasets import DatasetSource

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


# --- sources ----------------------------------------------------------------------------------------------------------

X = torch.arange(20.0).reshape(10, 2)
Y = 100 + torch.arange(10.0)


class ManyAtOnce(Pairs):
    """Answers lists of rows, and nothing else."""

    def __getitem__(self, row):
        raise AssertionError("one by one")

    def __getitems__(self, rows):
        return [self.items[row] for row in rows]


def double_x(batch):
    x, y = torch.utils.data.default_collate(batch)
    return 2 * x, y


def items(kind):
    return {
        "tensors": [(X[i], Y[i]) for i in range(10)],
        "arrays": [(X[i].numpy(), float(Y[i])) for i in range(10)],
        "lists": [(X[i].tolist(), [int(Y[i])]) for i in range(10)],
        "tuples": [[tuple(X[i].tolist()), np.float32(Y[i])] for i in range(10)],
    }[kind]


def sources():
    yield "arrays", pair_source(X, Y)
    yield "tensor_dataset", pair_source(TensorDataset(X, Y))
    for kind in ("tensors", "arrays", "lists", "tuples"):
        yield kind, pair_source(Pairs(items(kind)))
    yield "many_at_once", pair_source(ManyAtOnce(items("tensors")))
    yield "loader", pair_source(DataLoader(Pairs(items("tensors")), batch_size=3, shuffle=True))
    yield "loader_unbatched", pair_source(DataLoader(Pairs(items("tensors")), batch_size=None))
    yield "loader_2_workers", pair_source(DataLoader(Pairs(items("arrays")), batch_size=3, num_workers=2))
    yield "subset", pair_source(Subset(TensorDataset(X.repeat(2, 1), Y.repeat(2)), range(10)))


@pytest.fixture(scope="module")
def all_sources():
    return dict(sources())


@pytest.mark.parametrize("kind", [name for name, _ in sources()])
def test_rows_in_the_order_asked(kind, all_sources):
    source = all_sources[kind]
    assert isinstance(source, PairSource)
    assert (len(source), source.x_width, source.y_width, source.device.type) == (10, 2, 1, "cpu")
    for index in ([7, 0, 7, 3, 9], [4], list(range(9, -1, -1))):
        x, y = source.rows(torch.tensor(index))
        assert x.dtype == y.dtype
        assert x.tolist() == X[index].tolist()
        assert y.tolist() == Y[index].reshape(-1, 1).tolist()
    empty = source.rows(torch.zeros(0, dtype=torch.int64))
    assert [side.shape for side in empty] == [(0, 2), (0, 1)]
    with pytest.raises(IndexError):
        source.rows(torch.tensor([0, 10]))


@pytest.mark.parametrize("kind", ["arrays", "lists", "loader_2_workers"])
def test_map_leaves_its_source_alone_and_chains(kind, all_sources):
    source = all_sources[kind]
    mapped = source.map(lambda x, y: (torch.cat([x, x], 1), y + 1)).map(lambda x, y: (-x, y))
    assert (mapped.x_width, mapped.y_width, len(mapped)) == (4, 1, 10)
    x, y = mapped.rows(torch.tensor([8, 2]))
    assert x.tolist() == [[-16, -17, -16, -17], [-4, -5, -4, -5]]
    assert y.tolist() == [[109], [103]]
    assert source.rows(torch.tensor([8]))[0].tolist() == [[16, 17]]
    assert source.x_width == 2


def test_map_is_eager_on_arrays_and_lazy_on_datasets():
    def count(x, y):
        seen.append(len(x))
        return x, y

    seen = []
    mapped = pair_source(X, Y).map(count)
    mapped.rows(torch.arange(5))
    assert seen == [10]
    seen.clear()
    mapped = pair_source(TensorDataset(X, Y)).map(count)
    mapped.rows(torch.arange(5))
    assert seen == [2, 5]


def test_two_by_two_lists_are_not_transposed():
    x, _ = DatasetSource(Pairs([([1.0, 2.0], 0.0), ([3.0, 4.0], 1.0)])).rows(torch.tensor([0, 1]))
    assert x.tolist() == [[1, 2], [3, 4]]


def test_collate_function_of_the_loader():
    for workers in (0, 2):
        source = pair_source(DataLoader(Pairs(items("tensors")), collate_fn=double_x, num_workers=workers))
        assert source.rows(torch.tensor([3, 1]))[0].tolist() == (2 * X[[3, 1]]).tolist()


def test_workers_leave_the_global_generator_alone(all_sources):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    all_sources["loader_2_workers"].rows(torch.arange(10))
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_stop_with_their_source():
    source = pair_source(DataLoader(TensorDataset(X, Y), num_workers=2))
    source.rows(torch.arange(10))
    outlived = []

    def watch(process, join):
        def watched(timeout=None):
            join(timeout)
            outlived.append(process.is_alive())

        return watched

    for process in source._workers._loader._iterator._workers:
        process.join = watch(process, process.join)
    source.itself = source  # a cycle, as closures make them: the garbage collector takes it in an order of its own
    del source
    gc.collect()
    assert outlived == [False, False]  # every join ended with the process, none by its time-out


def test_images_where_allowed():
    images = torch.randn(10, 3, 4)
    source = pair_source(TensorDataset(images, Y), allow_nd=True)
    assert source.x_width == 12
    assert torch.equal(source.rows(torch.tensor([5, 2]))[0], images[[5, 2]])
    assert pair_source(images, Y, allow_nd=True).rows(torch.tensor([1]))[0].shape == (1, 3, 4)


def test_a_source_passes_through():
    source = ArraySource(X, Y.reshape(-1, 1))
    assert pair_source(source) is source


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


class NoLength(Dataset):
    def __getitem__(self, row):
        return 0.0, 0.0


def with_row(row, item):
    changed = items("tensors")
    changed[row] = item
    return Pairs(changed)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (X, None, TypeError, r"^y must be .*got None: x is a torch\.float32 tensor"),
        (None, None, TypeError, r"^y must be .*x is None"),
        (None, Y, TypeError, r"^x must be .*got None"),
        (
            TensorDataset(X, Y),
            Y,
            TypeError,
            r"^y must be None when x is a TensorDataset.*float32 tensor of shape \[10\]",
        ),
        (DataLoader(TensorDataset(X, Y)), Y, TypeError, r"^y must be None when x is a DataLoader"),
        (X, TensorDataset(X, Y), TypeError, r"^y must be .*TensorDataset"),
        (Stream(), None, TypeError, r"^x must be a map-style Dataset.*got Stream.*random access.*collect"),
        (DataLoader(Stream()), None, TypeError, r"^x must be a map-style.*got Stream"),
        (NoLength(), None, TypeError, r"^x must be a map-style Dataset.*NoLength"),
        (Pairs([]), None, ValueError, r"^x needs at least 2 rows, got a Pairs of 0"),
        (Pairs([(0.0, 1.0)]), None, ValueError, r"^x needs at least 2 rows, got a Pairs of 1"),
        (TensorDataset(X), None, TypeError, r"pairs \(x, y\), got items that are a \w+ of 1"),
        (TensorDataset(X, Y, Y), None, TypeError, r"pairs \(x, y\), got items that are a \w+ of 3"),
        (Pairs([{"x": 1.0, "y": 2.0}] * 3), None, TypeError, r"pairs \(x, y\), got items that are a dict"),
        (Pairs([1.0] * 3), None, TypeError, r"pairs \(x, y\), got items that are a Tensor"),
        (Pairs([("a", 1.0)] * 3), None, TypeError, r"^x of the dataset .*text"),
        (Pairs([(1.0, object())] * 3), None, TypeError, r"pairs \(x, y\) of numbers.*object"),
        (Pairs([(1.0, None)] * 3), None, TypeError, r"pairs \(x, y\) of numbers.*NoneType"),
        (
            TensorDataset(torch.zeros(4, 2, 2), torch.zeros(4)),
            None,
            ValueError,
            r"^x of the dataset .*got shape \[2, 2\]",
        ),
        (TensorDataset(X, torch.zeros(10, 0)), None, ValueError, r"^y of the dataset must have at least one column"),
        (with_row(1, (torch.zeros(3), Y[1])), None, ValueError, r"^x of the dataset .*got \[3\] at row 1 after \[2\]"),
        (with_row(1, (X[1],)), None, TypeError, r"got a tuple of 1 at row 1"),
        (
            DataLoader(TensorDataset(X, Y), sampler=WeightedRandomSampler([1.0] * 10, 10)),
            None,
            ValueError,
            r"^x must be a DataLoader that goes once over all rows, got one with a WeightedRandomSampler",
        ),
        (DataLoader(TensorDataset(X, Y), batch_sampler=[[0, 1], [2]]), None, ValueError, r"got one with a list"),
        (
            DataLoader(TensorDataset(X, Y), sampler=torch.utils.data.RandomSampler(X, replacement=True)),
            None,
            ValueError,
            r"a RandomSampler, which training would not follow",
        ),
    ],
)
def test_bad_sources(x, y, error, message):
    with pytest.raises(error, match=message):
        pair_source(x, y)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (
            (torch.tensor([0.0, float("nan")]), Y[6]),
            ValueError,
            r"^x of the dataset must be finite.*row 6, column 1 \(nan\)",
        ),
        ((X[6], torch.tensor(float("inf"))), ValueError, r"^y of the dataset must be finite.*row 6, column 0 \(inf\)"),
        ((torch.zeros(3), Y[6]), ValueError, r"^x of the dataset .*got \[3\] at row 6"),
        ((X[6], torch.zeros(2)), ValueError, r"^y of the dataset .*got \[2\] at row 6"),
        ({"x": 0}, TypeError, r"pairs \(x, y\)|row 6"),
    ],
)
def test_a_bad_row_is_named_when_it_is_fetched(workers, item, error, message):
    source = pair_source(DataLoader(with_row(6, item), num_workers=workers))
    source.rows(torch.tensor([4, 5, 7, 8]))
    with pytest.raises(error, match=message):
        source.rows(torch.tensor([2, 5, 3, 6]))
    with pytest.raises(error):
        source.rows(torch.tensor([6]))
    assert source.rows(torch.tensor([9, 8]))[1].tolist() == [[109], [108]]  # and the source lives on


def test_a_collate_function_that_loses_rows():
    with pytest.raises(ValueError, match=r"^x of the dataset must have a row per index, got .*\[1, 2\] for 2 rows"):
        DatasetSource(TensorDataset(X, Y), collate_fn=lambda batch: double_x(batch[:1]))


@pytest.mark.parametrize("sides", [(torch.zeros(3), torch.zeros(3, 1)), (torch.zeros(3, 1), torch.zeros(2, 1))])
def test_array_source_checks_a_transform(sides):
    with pytest.raises(ValueError, match=r"^x and y must be \[N, dx\] and \[N, dy\]"):
        ArraySource(X, Y.reshape(-1, 1)).map(lambda x, y: sides)
