"""What the default critic reads: normal quantiles of each column's ranks, and what ranks lose.

Mutual information does not change under an invertible map of either variable, so each column is replaced by the normal
quantile of its rank. Heavy tails, scales and units are gone after that, and a network trains on what is left. Ranks
also close the gaps between clusters, so few columns are given as they are besides; and the order of codes means
nothing, so those become indicators.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mine_fast.modules import FittedBuffers

__all__ = ["QuantileInputs", "is_unordered"]

#: A quantity is taken for a code so often, if the other variable has the same distribution at each of its values.
UNORDERED_LEVEL = 1e-3


class QuantileInputs(FittedBuffers):
    """Columns of one variable -> features of unit scale, by what `fit` saw of their distribution.

    Every column becomes the normal quantile of its (mid-)rank, interpolated between at most `max_knots` quantiles of
    the fitted rows and held constant outside their range. A variable of at most `max_scaled` columns also keeps each of
    them scaled by its middle 80% and clipped at 3.

    A column whose values repeat, `rows_per_level` times or more on average, may be a code, whose order means nothing:
    if it has at most `surely_code` values, or integers alone and at most `max_indicators`, it also becomes one
    indicator per value. So does one whose values repeat less often, down to `few_rows_per_level` times, if the other
    variable shows that their order means nothing (see `is_unordered`). The columns of fewest values come first, until
    the variable has `max_indicators` of them; where that leaves more than `max_scaled` columns without, none has any.
    Where most values of a column differ, the few that a hundredth of the rows share have an indicator ("nothing
    measured", a code among quantities).

    Attributes:
        width: features per row after `fit`.
        many_levels: int64 [*], the columns that may be codes and are read as quantities, having too many values.
        undecided: whether the other variable was not given and has to tell of a column if it is a code.

    >>> inputs = QuantileInputs().fit(torch.tensor([[1.0], [10.0], [100.0], [1000.0], [10000.0]]))
    >>> inputs(torch.tensor([[100.0], [1e9]]))   # the quantile, and the clipped value
    tensor([[0.0000, 0.0000],
            [1.2816, 3.0000]])
    >>> labels = torch.arange(3000.0)[:, None] % 300
    >>> QuantileInputs().fit(labels).many_levels
    tensor([0])
    """

    max_knots = 512
    max_rows = 50_000
    max_scaled = 16
    surely_code = 32
    max_indicators = 256
    rows_per_level = 5
    few_rows_per_level = 2
    atom_share = 0.01

    knots: Tensor  # [d, K] ascending values of each column
    quantiles: Tensor  # [d, K] their normal quantiles
    center: Tensor  # [d] medians of the columns that are also given as they are, or [0]
    scale: Tensor  # [d] half the spread of their middle 80%
    levels: Tensor  # [L] the values that have an indicator
    level_columns: Tensor  # [L] int64, the column of each
    many_levels: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("knots", "quantiles", "center", "scale", "levels"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float64, device="cpu"))
        for name in ("level_columns", "many_levels"):
            self.register_buffer(name, torch.empty(0, dtype=torch.int64, device="cpu"))
        self.undecided = False

    @property
    def columns(self) -> int:
        """Columns that were fitted; their quantiles are the first features."""
        return self.knots.shape[0]

    @property
    def width(self) -> int:
        """Features per row."""
        return self.knots.shape[0] + self.center.numel() + self.levels.numel()

    def fit(self, samples: Tensor, other: Tensor | None = None) -> QuantileInputs:
        """Learn the columns' distributions from samples [N, d]; rows beyond `max_rows` are thinned evenly.

        Args:
            samples: training rows.
            other: [N, e], quantiles of the other variable in these rows, which tell codes of few rows a value from
                quantities; None: those are quantities.
        """
        step = -(-samples.shape[0] // self.max_rows)
        columns = _columns(samples[::step])  # [d, n]
        other = None if other is None else other[::step].double()
        self.undecided = False
        fitted = [self._knots_of(column, other) for column in columns]
        most = max(knots.numel() for knots, _, _ in fitted)
        self.knots = torch.stack([_pad(knots, most) for knots, _, _ in fitted])
        self.quantiles = torch.stack([_pad(quantiles, most) for _, quantiles, _ in fitted])
        if columns.shape[0] <= self.max_scaled:
            low, self.center, high = _deciles(columns, (0.1, 0.5, 0.9))
            self.scale = 0.5 * high - 0.5 * low
        self._fit_indicators([levels for _, _, levels in fitted])
        return self

    def _fit_indicators(self, levels: list[Tensor]) -> None:
        """Give indicators to the columns' levels, fewest first, as far as they go; [0] of a column that is no code."""
        codes = [column for column in range(len(levels)) if levels[column].numel()]
        codes.sort(key=lambda column: levels[column].numel())
        chosen, room = list[int](), self.max_indicators
        for column in codes:
            room -= levels[column].numel()
            if room < 0:
                break
            chosen.append(column)
        if len(codes) - len(chosen) > self.max_scaled:
            # An image or the like: its levels are quantities, and indicators of a few pixels only distract.
            chosen, codes = [], []
        dropped = [column for column in sorted(set(codes).difference(chosen)) if levels[column].numel() > 2]
        chosen.sort()
        self.many_levels = self.level_columns.new_tensor(dropped)
        if chosen:
            self.levels = torch.cat([levels[column] for column in chosen])
            self.level_columns = torch.cat([torch.full_like(levels[c], c, dtype=torch.int64) for c in chosen])

    def _knots_of(self, column: Tensor, other: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Knots, their normal quantiles, and the levels if the column may be a code."""
        n = column.numel()
        values, level, counts = torch.unique(column, return_inverse=True, return_counts=True)
        counts = counts.double()
        ranks = (counts.cumsum(0) - 0.5 * counts) / n  # mid-ranks in (0, 1)
        may_be_code = n >= self.few_rows_per_level * values.numel() and (
            values.numel() <= self.surely_code or bool((values == values.round()).all())
        )
        if may_be_code and n < self.rows_per_level * values.numel():
            may_be_code = other is not None and is_unordered(level, counts, other)
            self.undecided |= other is None
        levels = values[:0] if values.numel() == 1 else values if may_be_code else values[self._atoms(counts, n)]
        if values.numel() > self.max_knots:
            keep = torch.linspace(0, values.numel() - 1, self.max_knots, device=column.device).round().long()
            values, ranks = values[keep], ranks[keep]
        return values, torch.special.ndtri(ranks), levels

    def _atoms(self, counts: Tensor, n: int) -> Tensor:
        """Which values of a column are no quantities, being shared by many rows where most of the others differ."""
        atoms = counts >= max(self.rows_per_level, self.atom_share * n)
        other_rows = n - float(counts[atoms].sum())
        return atoms if int((~atoms).sum()) > 0.5 * other_rows else torch.zeros_like(atoms)

    def forward(self, samples: Tensor) -> Tensor:
        """Samples [N, d] -> features [N, width], float32."""
        columns = _columns(samples)  # [d, N]
        parts = [self._quantile_features(columns)]
        if self.center.numel():
            offset = columns - self.center[:, None]
            scale = self.scale[:, None]
            parts.append(torch.where(scale > 0, offset / scale, 3 * offset.sign()).clamp_(-3, 3))
        if self.levels.numel():
            indicators = (columns[self.level_columns] == self.levels[:, None]).double()
            parts.append(indicators * self._indicator_size()[:, None])
        return torch.cat(parts).T.float().contiguous()

    def _quantile_features(self, columns: Tensor) -> Tensor:
        if self.knots.shape[1] == 1:
            return torch.zeros_like(columns)
        right = torch.searchsorted(self.knots, columns).clamp_(1, self.knots.shape[1] - 1)
        low, high = self.knots.gather(1, right - 1), self.knots.gather(1, right)
        from_, to = self.quantiles.gather(1, right - 1), self.quantiles.gather(1, right)
        # Only where the range overflows, as elsewhere a quarter of the smallest numbers would be 0.
        span = self.knots[:, -1:] - self.knots[:, :1]
        factor = torch.where(span.isinf(), 0.25, 1.0)
        gap = factor * high - factor * low
        fraction = (factor * columns - factor * low) / gap
        # Padding repeats the last knot: there the gap is 0, and both quantiles are the same.
        return torch.lerp(from_, to, torch.where(gap > 0, fraction, 1.0).clamp_(0, 1))

    def _indicator_size(self) -> Tensor:
        """Value of each indicator [L]: one of many levels is seldom there to learn from, so it speaks louder."""
        count = torch.bincount(self.level_columns)[self.level_columns]
        return (count.double() / self.surely_code).clamp_min(1).sqrt()


def is_unordered(level: Tensor, counts: Tensor, other: Tensor) -> bool:
    """Whether another variable says that the order of a column's values means nothing.

    Of an ordered quantity, values that are neighbours go with similar means of the other variable. Of a code they are
    as far apart as any: their differences are beyond the noise of the rows of a level (an F-test), and no smaller than
    those of all levels (von Neumann's ratio, which is 1 where the order means nothing).

    Args:
        level: int64 [n], the place of each row's value among K ascending ones.
        counts: [K], rows of each.
        other: [n, e], about normal. How far it is out is looked at too, for a code that changes the spread.

    >>> level = torch.arange(300) % 100
    >>> order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    >>> noise = torch.randn(300, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    >>> counts = torch.full((100,), 3.0, dtype=torch.float64)
    >>> [is_unordered(level, counts, rank[level, None] / 50 + 0.1 * noise) for rank in (torch.arange(100), order)]
    [False, True]
    """
    rows, levels = level.numel(), counts.numel()
    if levels < 8 or rows - levels < 8:  # too few to say so
        return False
    seen = torch.cat([other, other.abs()], 1)
    seen = seen - seen.mean(0)
    means = torch.zeros(levels, seen.shape[1], dtype=seen.dtype, device=seen.device).index_add_(0, level, seen)
    means /= counts[:, None]
    within = (seen - means[level]).square().sum(0) / (rows - levels)
    between = (counts[:, None] * means.square()).sum(0) / (levels - 1)
    apart = 1 / counts[1:] + 1 / counts[:-1]
    of_neighbours = ((means[1:] - means[:-1]).square() / apart[:, None]).mean(0)
    # Where neighbours have one mean, the ratio is about F-distributed; its root of third order is about normal (Paulson
    # 1942). Differences that share a level are as good as two thirds of as many independent ones.
    ratio = (of_neighbours / within.clamp_min(1e-12)) ** (1 / 3)
    above, below = (2 / (9 * degrees) for degrees in (2 / 3 * (levels - 1), rows - levels))
    z = ((1 - below) * ratio - (1 - above)) / (below * ratio.square() + above).sqrt()
    surprise = torch.special.ndtr(-z) * seen.shape[1]
    return bool(((surprise < UNORDERED_LEVEL) & (2 * of_neighbours > between)).any())


def _columns(samples: Tensor) -> Tensor:
    """Columns [d, N] in float64."""
    return samples.double().T.contiguous()


def _deciles(columns: Tensor, shares: tuple[float, ...]) -> list[Tensor]:
    """Quantiles [d] of columns [d, N], linearly between the nearest; `torch.quantile` overflows at a large range."""
    ordered = columns.sort(1).values
    result = []
    for share in shares:
        place = share * (columns.shape[1] - 1)
        weight = place - int(place)
        low, high = ordered[:, int(place)], ordered[:, min(int(place) + 1, columns.shape[1] - 1)]
        result.append(torch.where(low == high, low, (1 - weight) * low + weight * high))
    return result


def _pad(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values[-1:].expand(length - values.numel())])
