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

__all__ = ["QuantileInputs"]


class QuantileInputs(FittedBuffers):
    """Columns of one variable -> features of unit scale, by what `fit` saw of their distribution.

    Every column becomes the normal quantile of its (mid-)rank, interpolated between at most `max_knots` quantiles of
    the fitted rows and held constant outside their range. A variable of at most `max_scaled` columns also keeps each of
    them scaled by its middle 80% and clipped at 3.

    A column whose values repeat, `rows_per_level` times or more on average, may be a code, whose order means nothing:
    if it has at most `surely_code` values, or integers alone and at most `max_indicators`, it also becomes one
    indicator per value. The columns of fewest values come first, until the variable has `max_indicators` of them; where
    that leaves more than `max_scaled` columns without, none has any. Where most values of a column differ, the
    few that a hundredth of the rows share have an indicator ("nothing measured", a code among quantities).

    Attributes:
        width: features per row after `fit`.
        many_levels: int64 [*], the columns that may be codes and are read as quantities, having too many values.

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

    @property
    def columns(self) -> int:
        """Columns that were fitted; their quantiles are the first features."""
        return self.knots.shape[0]

    @property
    def width(self) -> int:
        """Features per row."""
        return self.knots.shape[0] + self.center.numel() + self.levels.numel()

    def fit(self, samples: Tensor) -> QuantileInputs:
        """Learn the columns' distributions from samples [N, d]; rows beyond `max_rows` are thinned evenly."""
        step = -(-samples.shape[0] // self.max_rows)
        columns = _columns(samples[::step])  # [d, n]
        fitted = [self._knots_of(column) for column in columns]
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
        dropped = sorted(set(codes).difference(chosen))
        chosen.sort()
        self.many_levels = self.level_columns.new_tensor(dropped)
        if chosen:
            self.levels = torch.cat([levels[column] for column in chosen])
            self.level_columns = torch.cat([torch.full_like(levels[c], c, dtype=torch.int64) for c in chosen])

    def _knots_of(self, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Knots, their normal quantiles, and the levels if the column may be a code."""
        n = column.numel()
        values, counts = torch.unique(column, return_counts=True)
        counts = counts.double()
        ranks = (counts.cumsum(0) - 0.5 * counts) / n  # mid-ranks in (0, 1)
        may_be_code = n >= self.rows_per_level * values.numel() and (
            values.numel() <= self.surely_code or bool((values == values.round()).all())
        )
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
