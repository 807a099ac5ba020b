"""What the default critics read of a pair (x, y): features of each variable, fitted on training rows of both."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mine_fast.canonical import CanonicalPairs
from mine_fast.inputs import QuantileInputs
from mine_fast.pair_scoring import PairScorer, factor_scores

__all__ = ["PairInputs"]


class PairInputs(nn.Module):
    """Features of x and of y, fitted on training rows, and the Gaussian critics on them.

    Of each variable, in this order:

    - plain: its `QuantileInputs` (normal quantiles, scaled columns, indicators of codes), and the logarithm of the mean
      squared quantile, the radius, which is what heavy-tailed and rotated data share;
    - its canonical variates with the other variable, the directions of linear dependence;
    - waves: cosines and sines of k pi times the rank, k = 1, 2, 4, ..., which let a network of few steps see fine
      structure. Only of few columns (`max_waves` features for both variables): beyond, they are noise to it;
    - the variates of the other Gaussian critics.

    The Gaussian critics are that of the canonical pairs of the quantiles (right for any Gaussian copula), that of their
    sparse covariance (right with fewer rows where few columns depend), and that of the scaled columns (right with fewer
    rows for Gaussian columns: the ranks of few rows are noise).

    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(200, 2)
    >>> inputs = PairInputs().fit(x, x[:, :1] + torch.randn(200, 1))
    >>> inputs.plain_widths, inputs.wave_widths   # both with those before them
    ((5, 3), (22, 12))
    """

    max_waves = 32
    max_octaves = 4
    #: Columns of both variables, indicators counted, up to which a sparse covariance is fitted.
    max_sparse = 512

    gaussians: Any  # three CanonicalPairs

    def __init__(self) -> None:
        super().__init__()
        self.x = QuantileInputs()
        self.y = QuantileInputs()
        self.gaussians = nn.ModuleList(CanonicalPairs() for _ in range(3))
        # [2, 2], mean and standard deviation of the log radius of x and of y.
        self.register_buffer("radius_scale", torch.tensor([[0.0, 1.0], [0.0, 1.0]], device="cpu", dtype=torch.float32))

    def fit(self, x: Tensor, y: Tensor) -> PairInputs:
        """Learn the features from training rows x [n, dx] and y [n, dy]."""
        self.to(x.device)
        self.x.fit(x)
        self.y.fit(y)
        x_read, y_read = self.x(x), self.y(y)
        if self.x.undecided or self.y.undecided:
            self.x.fit(x, y_read[:, : self.y.columns])
            self.y.fit(y, x_read[:, : self.x.columns])
            x_read, y_read = self.x(x), self.y(y)
        of_quantiles, of_few, of_scaled = self.gaussians
        unscaled = _quantiles_and_codes(self.x, x_read), _quantiles_and_codes(self.y, y_read)
        of_quantiles.fit(*unscaled)
        if unscaled[0].shape[1] + unscaled[1].shape[1] <= self.max_sparse:
            of_few.fit_sparse(*unscaled)
        else:
            of_few.load_state_dict(of_quantiles.state_dict())
        of_scaled.fit(_scaled(self.x, x_read), _scaled(self.y, y_read))
        radii = _log_radius(self.x, x_read), _log_radius(self.y, y_read)
        self.radius_scale = torch.stack([torch.stack([r.mean(), r.std().clamp_min(0.1)]) for r in radii])
        return self

    @property
    def plain_widths(self) -> tuple[int, int]:
        """Features of x and of y before the variates."""
        return self.x.width + 1, self.y.width + 1

    @property
    def variate_widths(self) -> tuple[int, int]:
        """Features of x and of y up to the canonical variates."""
        x, y = self.plain_widths
        return x + self.gaussians[0].width, y + self.gaussians[0].width

    @property
    def wave_widths(self) -> tuple[int, int]:
        """Features of x and of y up to the waves."""
        x, y = self.variate_widths
        return x + 2 * self._octaves * self.x.columns, y + 2 * self._octaves * self.y.columns

    @property
    def _octaves(self) -> int:
        return min(self.max_octaves, self.max_waves // (2 * (self.x.columns + self.y.columns)))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """X [N, dx], y [N, dy] -> features of x and of y, [N, width of each], float32."""
        return self._features(self.x, self.x(x), 0), self._features(self.y, self.y(y), 1)

    def _features(self, side: QuantileInputs, read: Tensor, i: int) -> Tensor:
        mean, deviation = self.radius_scale[i]
        project = [(g.x_variates, g.y_variates)[i] for g in self.gaussians]
        unscaled = _quantiles_and_codes(side, read)
        parts = [read, (_log_radius(side, read) - mean) / deviation, project[0](unscaled)]
        ranks = torch.special.ndtr(read[:, : side.columns])
        for octave in range(self._octaves):
            angle = 2**octave * math.pi * ranks
            parts += [torch.cos(angle), torch.sin(angle)]
        return torch.cat([*parts, project[1](unscaled), project[2](_scaled(side, read))], 1)

    def gaussian_critics(self) -> list[PairScorer]:
        """The three Gaussian critics, on features of x and of y, [N, any from these on]."""
        of_few = self.gaussians[1]
        begins = [
            (plain, waves, waves + of_few.width)
            for plain, waves in zip(self.plain_widths, self.wave_widths, strict=True)
        ]

        def critic(gaussian: CanonicalPairs, x_begin: int, y_begin: int) -> PairScorer:
            x_part, y_part = (slice(begin, begin + gaussian.width) for begin in (x_begin, y_begin))
            return lambda x, y, partner: factor_scores(*gaussian.factors(x[:, x_part], y[:, y_part]), partner)

        return [critic(*given) for given in zip(self.gaussians, *begins, strict=True)]


def _quantiles_and_codes(side: QuantileInputs, read: Tensor) -> Tensor:
    return torch.cat([read[:, : side.columns], read[:, side.columns + side.center.numel() :]], 1)


def _scaled(side: QuantileInputs, read: Tensor) -> Tensor:
    """The scaled columns, or the quantiles where columns are too many to be given both ways."""
    return (
        read[:, side.columns : side.columns + side.center.numel()] if side.center.numel() else read[:, : side.columns]
    )


def _log_radius(side: QuantileInputs, read: Tensor) -> Tensor:
    return torch.log((read[:, : side.columns] ** 2).mean(1, keepdim=True) + 1e-3)
