"""What the default critic reads: normal quantiles of each column's ranks, and what ranks lose.

Mutual information does not change under an invertible map of either variable, so each column is replaced by the normal
quantile of its rank. Heavy tails, scales and units are gone after that, and a network trains on what is left. Ranks
also close the gaps between clusters, so few columns are given as they are besides; and the order of codes means
nothing, so those become indicators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["QuantileInputs"]


_TINY = torch.finfo(torch.float64).tiny


class QuantileInputs(nn.Module):
    """Columns of one variable -> features of unit scale, by what `fit` saw of their distribution.

    Every column becomes the normal quantile of its (mid-)rank, interpolated between at most `max_knots` quantiles of
    the fitted rows and held constant outside their range. A variable of at most `max_scaled` columns also keeps each of
    them scaled by its middle 80% and clipped at 3. A column with few distinct values is a code, not a quantity: it also
    becomes one indicator per value, as long as a variable has at most `max_indicators` of them.

    Attributes:
        width: features per row after `fit`.

    >>> inputs = QuantileInputs().fit(torch.tensor([[1.0], [10.0], [100.0], [1000.0], [10000.0]]))
    >>> inputs(torch.tensor([[100.0], [1e9]]))   # the quantile, and the clipped value
    tensor([[0.0000, 0.0000],
            [1.2816, 3.0000]])
    """

    max_knots = 512
    max_rows = 50_000
    max_scaled = 16
    max_levels = 32
    max_indicators = 64
    rows_per_level = 5

    knots: Tensor  # [d, K] ascending values of each column (all values as `_columns` gives them)
    quantiles: Tensor  # [d, K] their normal quantiles
    center: Tensor  # [d] medians of the columns that are also given as they are, or [0]
    scale: Tensor  # [d] half the spread of their middle 80%
    levels: Tensor  # [L] the values that have an indicator
    level_columns: Tensor  # [L] int64, the column of each

    def __init__(self) -> None:
        super().__init__()
        for name in ("knots", "quantiles", "center", "scale", "levels"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float64, device="cpu"))
        self.register_buffer("level_columns", torch.empty(0, dtype=torch.int64, device="cpu"))

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
            low, self.center, high = torch.quantile(columns, columns.new_tensor([0.1, 0.5, 0.9]), dim=1)
            self.scale = 0.5 * (high - low)
        discrete = [(c, levels) for c, (_, _, levels) in enumerate(fitted) if levels.numel() > 1]
        if discrete and sum(levels.numel() for _, levels in discrete) <= self.max_indicators:
            self.levels = torch.cat([levels for _, levels in discrete])
            self.level_columns = torch.cat([torch.full_like(levels, c, dtype=torch.int64) for c, levels in discrete])
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The buffers have the sizes of the data they were fitted to.
        for name, buffer in self.named_buffers():
            if prefix + name in state_dict:
                setattr(self, name, buffer.new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _knots_of(self, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Knots, their normal quantiles, and the levels if the column is a code."""
        n = column.numel()
        values, counts = torch.unique(column, return_counts=True)
        counts = counts.double()
        ranks = (counts.cumsum(0) - 0.5 * counts) / n  # mid-ranks in (0, 1)
        is_code = values.numel() <= self.max_levels and n >= self.rows_per_level * values.numel()
        levels = values if is_code else values[:0]
        if values.numel() > self.max_knots:
            keep = torch.linspace(0, values.numel() - 1, self.max_knots, device=column.device).round().long()
            values, ranks = values[keep], ranks[keep]
        return values, torch.special.ndtri(ranks), levels

    def forward(self, samples: Tensor) -> Tensor:
        """Samples [N, d] -> features [N, width], float32."""
        columns = _columns(samples)  # [d, N]
        if self.knots.shape[1] == 1:
            features = torch.zeros_like(columns)
        else:
            right = torch.searchsorted(self.knots, columns).clamp_(1, self.knots.shape[1] - 1)
            low, high = self.knots.gather(1, right - 1), self.knots.gather(1, right)
            from_, to = self.quantiles.gather(1, right - 1), self.quantiles.gather(1, right)
            # Padding repeats the last knot, where high == low.
            fraction = ((columns - low) / (high - low).clamp_min(_TINY)).clamp_(0, 1)
            features = torch.lerp(from_, to, fraction)
        parts = [features]
        if self.center.numel():
            offset = (columns - self.center[:, None]) / self.scale[:, None].clamp_min(_TINY)
            parts.append(offset.clamp_(-3, 3))
        if self.levels.numel():
            parts.append((columns[self.level_columns] == self.levels[:, None]).double())
        return torch.cat(parts).T.float().contiguous()


def _columns(samples: Tensor) -> Tensor:
    """Columns [d, N] in float64, quartered: exact, and no difference of two finite values overflows."""
    return 0.25 * samples.double().T.contiguous()


def _pad(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values[-1:].expand(length - values.numel())])
