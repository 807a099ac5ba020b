"""Sources of pairs: arrays, datasets and loaders, rows in any order, what is refused when one is made or read."""

import gc

import numpy as np
import pytest
import torch
from helpers import Pairs
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from mine_fast.data import ArraySource, PairSource, pair_source
from mine_fast.datasets import DatasetSource

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
