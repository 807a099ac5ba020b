"""Pairs from a map-style dataset: data that does not fit in memory, read row by row where they are needed."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    default_collate,
)

from mine_fast.arrays import MINIMUM_ROWS, alike, check_finite
from mine_fast.conversion import as_floating
from mine_fast.data import PairSource, Transform
from mine_fast.describing import describe

__all__ = ["DatasetSource"]


class DatasetSource(PairSource):
    """Pairs of a map-style dataset whose items are (x, y): 1-D arrays or tensors of fixed width, or single numbers.

    Every batch fetched is checked: finite, of the widths of the first row; an error names the row.

    Args:
        dataset: with `__len__`, `__getitem__` and, if it has one, `__getitems__` (many rows in one call).
        collate_fn: list of items -> (x [B, dx], y [B, dy]); by default torch's.
        num_workers: processes that fetch; they start with the first `rows` and live as long as the source.
        allow_nd: accept rows of more than one dimension (images, sequences), and keep their shape.
        worker_options: `worker_init_fn`, `multiprocessing_context` and `timeout`, as for a `DataLoader`.

    Raises:
        TypeError: items that are no pairs of numbers.
        ValueError: fewer than two rows, no columns, items of more than one dimension, NaN or infinite values, integers
            beyond 2^53 that float64 cannot hold.

    >>> class Squares(Dataset):
    ...     def __len__(self): return 5
    ...     def __getitem__(self, row): return float(row), float(row * row)
    >>> source = DatasetSource(Squares())
    >>> source.map(lambda x, y: (x, y + 1)).rows(torch.tensor([4, 2]))[1].tolist()
    [[17.0], [5.0]]
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        allow_nd: bool = False,
        **worker_options: Any,
    ) -> None:
        self._dataset: Any = dataset
        self._size = len(dataset)  # type: ignore[arg-type]  # Dataset declares no length
        if self._size < MINIMUM_ROWS:
            raise ValueError(f"x needs at least {MINIMUM_ROWS} rows, got a {type(dataset).__name__} of {self._size}")
        self._allow_nd = allow_nd
        self._collate = _Collate(collate_fn or default_collate)
        self._workers = _Workers(dataset, self._collate, num_workers, **worker_options) if num_workers else None
        self._transforms: tuple[Transform, ...] = ()
        # The first rows tell the shapes, and stand in for all rows where those after a transform are asked.
        first = torch.arange(MINIMUM_ROWS)
        self._shapes: tuple[torch.Size, torch.Size] | None = None
        head = self._check(self._fetch_here(first.tolist()), first)
        self._shapes = head[0].shape[1:], head[1].shape[1:]
        self._show(head)

    def _show(self, head: tuple[Tensor, Tensor]) -> None:
        self._head = head
        self.x_width = head[0].shape[1:].numel()
        self.y_width = head[1].shape[1:].numel()
        self.device = head[0].device

    @classmethod
    def from_loader(cls, loader: DataLoader[Any], *, allow_nd: bool = False) -> DatasetSource:
        """Take a DataLoader's dataset, collate function and workers; order and batches are the trainer's own.

        Raises:
            ValueError: a sampler that draws a part of the rows or weighs them: it would not be followed.
        """
        sampler, size = loader.sampler, len(loader.dataset)  # type: ignore[arg-type]
        plain = type(sampler) is SequentialSampler or (
            type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == size
        )
        if not plain or type(loader.batch_sampler) not in (BatchSampler, type(None)):
            custom = sampler if not plain else loader.batch_sampler
            raise ValueError(
                f"x must be a DataLoader that goes once over all rows, got one with a {type(custom).__name__}, which "
                "training would not follow; choose rows with torch.utils.data.Subset instead"
            )
        batched = loader.batch_sampler is not None  # with batch_size=None the collate function sees single items
        workers: dict[str, Any] = {}
        if loader.num_workers:
            names = ("worker_init_fn", "multiprocessing_context", "timeout")
            workers = {name: getattr(loader, name) for name in names}
        return cls(
            loader.dataset,
            collate_fn=loader.collate_fn if batched else None,
            num_workers=loader.num_workers,
            allow_nd=allow_nd,
            **workers,
        )

    def __len__(self) -> int:
        return self._size

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """See `PairSource.rows`; raises what the class does for the rows fetched."""
        wanted = index.tolist()
        if wanted and not 0 <= min(wanted) <= max(wanted) < self._size:
            raise IndexError(f"index must be within [0, {self._size}), got {min(wanted)} to {max(wanted)}")
        if not wanted:
            return self._head[0][:0], self._head[1][:0]
        if self._workers is not None and len(wanted) > 1:
            parts = torch.tensor_split(index, min(self._workers.count, len(wanted)))
            fetched = self._workers.fetch([part.tolist() for part in parts])
            pairs = [self._check(batch, part) for batch, part in zip(fetched, parts, strict=True)]
            x, y = (torch.cat(side) for side in zip(*pairs, strict=True))
        else:
            x, y = self._check(self._fetch_here(wanted), index)
        for transform in self._transforms:
            x, y = transform(x, y)
        return x, y

    def map(self, transform: Transform) -> DatasetSource:
        """See `PairSource.map`."""
        mapped = copy.copy(self)  # shares dataset and workers
        mapped._transforms = (*self._transforms, transform)
        mapped._show(transform(*self._head))
        return mapped

    def _fetch_here(self, rows: list[int]) -> Any:
        many = getattr(self._dataset, "__getitems__", None)
        return self._collate(many(rows) if many else [self._dataset[row] for row in rows])

    def _check(self, batch: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(batch, _Failure):
            raise batch.explanation(rows)
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            amount = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
            raise TypeError(f"x must be a dataset of pairs (x, y), got items that are a {type(batch).__name__}{amount}")
        return alike(self._check_side(batch[0], 0, rows), self._check_side(batch[1], 1, rows))

    def _check_side(self, value: Any, side: int, rows: Tensor) -> Tensor:
        name = f"{'xy'[side]} of the dataset"
        if isinstance(value, tuple | list) and value and all(isinstance(column, Tensor) for column in value):
            # What default_collate makes of rows that are lists: a list of columns, each of its own dtype.
            value = torch.stack([as_floating(column, name) for column in value], 1)
        samples = as_floating(value, name)
        if samples.ndim == 1:
            samples = samples.reshape(-1, 1)
        if samples.ndim == 0 or len(samples) != len(rows):
            raise ValueError(f"{name} must have a row per index, got {describe(value)} for {len(rows)} rows")
        shape, row = samples.shape[1:], int(rows[0])
        if len(shape) > 1 and not self._allow_nd:
            raise ValueError(f"{name} must be a number or 1-D, got shape {list(shape)} at row {row}; flatten it")
        if shape.numel() == 0:
            raise ValueError(f"{name} must have at least one column, got shape {list(shape)} at row {row}")
        if self._shapes is not None and shape != self._shapes[side]:
            raise ValueError(
                f"{name} must have one shape in all rows, got {list(shape)} at row {row} after "
                f"{list(self._shapes[side])} at row 0"
            )
        check_finite(samples, name, rows)
        return samples


class _GivenOrder(Sampler[list[int]]):
    """A batch sampler that hands out the rows wanted next."""

    def __init__(self) -> None:
        self.parts: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


class _Workers:
    """Processes that fetch given rows: a DataLoader that is told, for each pass, what to go through."""

    def __init__(self, dataset: Dataset[Any], collate: _Collate, count: int, **options: Any) -> None:
        self.count = count
        self._order = _GivenOrder()
        self._loader = DataLoader(
            dataset,
            batch_sampler=self._order,
            collate_fn=collate,
            num_workers=count,
            persistent_workers=True,
            generator=torch.Generator().manual_seed(0),  # a loader without one advances torch's global generator
            **options,
        )
        # Collected as part of a reference cycle, a loader loses its queues before it has told its workers to stop, and
        # waits 5 s for each. The finalizer's reference keeps it out of the cycle.
        weakref.finalize(self, _let_go, self._loader).atexit = False

    def fetch(self, parts: list[list[int]]) -> list[Any]:
        self._order.parts = parts
        return list(self._loader)


def _let_go(loader: DataLoader[Any]) -> None:
    """Nothing but to have held the loader until now."""


class _Collate:
    """A collate function whose failure comes back with the items, so that the row to blame can be found."""

    def __init__(self, collate_fn: Callable[[list[Any]], Any]) -> None:
        self.collate_fn = collate_fn

    def __call__(self, items: list[Any]) -> Any:
        try:
            return self.collate_fn(items)
        except (RuntimeError, TypeError, ValueError) as error:
            return _Failure(items, f"{type(error).__name__}: {error}")


class _Failure:
    def __init__(self, items: Sequence[Any], reason: str) -> None:
        self.items = items
        self.reason = reason

    def explanation(self, rows: Tensor) -> Exception:
        """The error that names the first row that is no pair or differs in shape from the row before it."""
        before: list[Any] | None = None
        for item, row in zip(self.items, rows.tolist(), strict=False):
            if not isinstance(item, tuple | list) or len(item) != 2:
                return TypeError(f"x must be a dataset of pairs (x, y), got {describe(item)} at row {row}")
            shapes = [_shape(part) for part in item]
            for side, shape, last in zip("xy", shapes, before or shapes, strict=True):
                if shape != last:
                    return ValueError(
                        f"{side} of the dataset must have one shape in all rows, got {shape} at row {row} after {last}"
                    )
            before = shapes
        return TypeError(f"x must be a dataset of pairs (x, y) of numbers; its items cannot be collated: {self.reason}")


def _shape(value: Any) -> list[int]:
    return list(value.shape) if hasattr(value, "shape") else [len(value)] if isinstance(value, tuple | list) else []
