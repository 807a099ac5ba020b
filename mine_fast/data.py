"""Where the trainer reads its pairs: `pair_source` turns what users hand over into a `PairSource`.

The arrays themselves are checked in arrays.py, datasets are read in datasets.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mine_fast.arrays import as_pair
from mine_fast.describing import WANTED, describe

__all__ = ["ArraySource", "PairSource", "Transform", "pair_source"]

#: (x [B, dx], y [B, dy]) -> (x [B, any], y [B, any]), row by row: the result of a row may not depend on the others.
Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class PairSource(ABC):
    """Paired rows by random access: what the trainer draws its batches and its held-out rows from.

    Attributes:
        x_width: numbers in a row of x.
        y_width: numbers in a row of y.
        device: where `rows` returns its tensors.
    """

    x_width: int
    y_width: int
    device: torch.device

    @abstractmethod
    def __len__(self) -> int:
        """N, the number of pairs."""

    @abstractmethod
    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Fetch pairs.

        Args:
            index: int64 [B], any rows in any order.

        Returns:
            x [B, x_width] and y [B, y_width], in the order of the index ([B, ...] where more dimensions were allowed).

        Raises:
            IndexError: an index outside [0, N).
        """

    @abstractmethod
    def map(self, transform: Transform) -> PairSource:
        """Pass every pair through `transform`: at once for arrays, batch by batch for datasets."""


class ArraySource(PairSource):
    """Pairs held in memory, x [N, ...] and y [N, ...] as `as_pair` returns them.

    Raises:
        ValueError: unequal lengths, or 1-D arrays.

    >>> source = ArraySource(torch.arange(4.0).reshape(4, 1), torch.zeros(4, 2))
    >>> source.rows(torch.tensor([3, 1]))[0].tolist()
    [[3.0], [1.0]]
    >>> source.map(lambda x, y: (10 * x, y)).rows(torch.tensor([3]))[0].tolist()
    [[30.0]]
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        if x.ndim < 2 or y.ndim < 2 or len(x) != len(y):
            raise ValueError(f"x and y must be [N, dx] and [N, dy], got {describe(x)} and {describe(y)}")
        self.x = x
        self.y = y
        self.x_width = x.shape[1:].numel()
        self.y_width = y.shape[1:].numel()
        self.device = x.device

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """See `PairSource.rows`."""
        index = index.to(self.device)
        return self.x.index_select(0, index), self.y.index_select(0, index)

    def map(self, transform: Transform) -> ArraySource:
        """See `PairSource.map`."""
        return ArraySource(*transform(self.x, self.y))


def pair_source(
    x: object,
    y: object = None,
    *,
    allow_nd: bool = False,
    recode: bool = True,
    names: tuple[str, str] = ("x", "y"),
) -> PairSource:
    """Make the source of pairs from whatever the caller has.

    Args:
        x: an array (see `as_samples`) with y beside it, or the pairs in one: a map-style `torch.utils.data.Dataset`
            of (x, y) items, a `DataLoader` over one, or a `PairSource`.
        y: an array of as many rows, or None.
        allow_nd: accept rows of more than one dimension (images, sequences), and keep their shape.
        recode: accept arrays of text, categories, dates and huge integers, see `as_samples`; datasets, of which no one
            sees all rows, must give plain numbers.
        names: what error messages call x and y.

    Returns:
        A source of at least two pairs.

    Raises:
        TypeError: an iterable-style dataset, an array without y, a dataset with y, or what `as_pair` refuses.
        ValueError: what `as_pair` or `DatasetSource` refuses.

    >>> len(pair_source([1.0, 2.0, 3.0], ["a", "b", "b"]))
    3
    >>> pair_source(torch.utils.data.TensorDataset(torch.randn(9, 4), torch.randn(9))).x_width
    4
    """
    x_name, y_name = names
    if not isinstance(x, (PairSource, Dataset, DataLoader)):
        if y is None:
            raise TypeError(
                f"{y_name} must be {WANTED}, got None: {x_name} is {describe(x)}; only a Dataset or DataLoader of "
                f"(x, y) pairs goes without {y_name}"
            )
        return ArraySource(*as_pair(x, y, allow_nd=allow_nd, recode=recode, names=names))
    if y is not None:
        raise TypeError(
            f"{y_name} must be None when {x_name} is a {type(x).__name__}, whose items are (x, y), got {describe(y)}"
        )
    if isinstance(x, PairSource):
        return x
    dataset = x.dataset if isinstance(x, DataLoader) else x
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"{x_name} must be a map-style Dataset (with __getitem__ and __len__), or a DataLoader over one, got "
            f"{type(dataset).__name__}, which cannot be read in any order; held-out rows need random access: "
            "collect it into arrays, or write a Dataset that looks rows up by number"
        )
    # Here, because datasets.py builds on this file.
    from mine_fast.datasets import DatasetSource

    if isinstance(x, DataLoader):
        return DatasetSource.from_loader(x, allow_nd=allow_nd)
    return DatasetSource(x, allow_nd=allow_nd)
