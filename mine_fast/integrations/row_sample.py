"""A bounded sample of rows that come batch by batch."""

from __future__ import annotations

import numpy as np

__all__ = ["RowSample"]


class RowSample:
    """Keeps at most `most` pairs of rows: the latest, or a random sample of all that were added.

    Every row gets a key, and the rows with the largest keys stay. With random keys all rows are as likely to stay; keys
    that count up keep the latest.

    Args:
        most: rows to keep.
        latest: the latest rows, not a random sample.
        seed: of the random sample.

    >>> sample = RowSample(3, latest=True, seed=0)
    >>> for start in (0, 2, 4):
    ...     sample.add(np.arange(start, start + 2)[:, None], np.zeros((2, 1)))
    >>> sample.rows()[0].flatten().tolist()
    [3, 4, 5]
    """

    def __init__(self, most: int, *, latest: bool, seed: int) -> None:
        self.most = most
        self.latest = latest
        self.generator = np.random.default_rng(seed % 2**64)
        self.clear()

    def clear(self) -> None:
        """Forget all rows."""
        self.seen = 0
        self.keys = np.empty(0)
        self.sides: tuple[np.ndarray, ...] = ()

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add rows x [B, dx] and y [B, dy].

        Raises:
            ValueError: other widths than before.
        """
        count = len(x)
        keys: np.ndarray = np.arange(self.seen, self.seen + count) if self.latest else self.generator.random(count)
        self.seen += count
        if self.sides:
            widths = [(side.shape[1], new.shape[1]) for side, new in zip(self.sides, (x, y), strict=True)]
            if any(before != now for before, now in widths):
                raise ValueError(f"rows must have as many columns in every batch, got {widths} before and now")
            keys = np.concatenate([self.keys, keys])
            x, y = (np.concatenate(both) for both in zip(self.sides, (x, y), strict=True))
        if len(keys) > self.most:
            kept = np.sort(np.argpartition(keys, -self.most)[-self.most :])
            keys, x, y = keys[kept], x[kept], y[kept]
        self.keys, self.sides = keys, (x, y)

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows x and y that are kept, in the order in which they came."""
        x, y = self.sides or (np.empty((0, 1)), np.empty((0, 1)))
        return x, y
