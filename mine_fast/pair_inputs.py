"""What the default critics read of a pair (x, y): features of each variable, fitted on training rows of both."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mine_fast.canonical import CanonicalPairs
from mine_fast.inputs import QuantileInputs

__all__ = ["PairInputs"]


class PairInputs(nn.Module):
    """Features of x and of y, fitted on training rows.

    Of each variable, in this order:

    - its `QuantileInputs`: normal quantiles, scaled columns, indicators of codes;
    - the logarithm of the mean squared quantile, the radius, which is what heavy-tailed and rotated data share;
    - its canonical variates with the other variable, the directions of linear dependence;
    - its waves: cosines and sines of k pi times the rank, k = 1, 2, 4, ..., which let a network of few steps see fine
      structure. Only of few columns (`max_waves` features for both variables): beyond, they are noise to it.

    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(200, 2)
    >>> inputs = PairInputs().fit(x, x[:, :1] + torch.randn(200, 1))
    >>> [features.shape[1] for features in inputs(x, x[:, :1])]
    [22, 12]
    >>> inputs.plain_widths
    (6, 4)
    """

    max_waves = 32
    max_octaves = 4

    def __init__(self) -> None:
        super().__init__()
        self.x = QuantileInputs()
        self.y = QuantileInputs()
        self.canonical = CanonicalPairs()
        #: [2, 2], mean and standard deviation of the log radius of x and of y.
        self.register_buffer("radius_scale", torch.tensor([[0.0, 1.0], [0.0, 1.0]], device="cpu", dtype=torch.float32))

    def fit(self, x: Tensor, y: Tensor) -> PairInputs:
        """Learn the features from training rows x [n, dx] and y [n, dy]."""
        self.to(x.device)
        self.x.fit(x)
        self.y.fit(y)
        read = [side(samples) for side, samples in ((self.x, x), (self.y, y))]
        self.canonical.fit(*(_without_scaled(side, r) for side, r in zip((self.x, self.y), read, strict=True)))
        radii = [_log_radius(side, r) for side, r in zip((self.x, self.y), read, strict=True)]
        self.radius_scale = torch.stack([torch.stack([r.mean(), r.std().clamp_min(0.1)]) for r in radii])
        return self

    @property
    def plain_widths(self) -> tuple[int, int]:
        """Features of x and of y before the waves."""
        k = self.canonical.width
        return self.x.width + 1 + k, self.y.width + 1 + k

    @property
    def octaves(self) -> int:
        """Frequencies of the waves: 0 where there are too many columns."""
        columns = self.x.columns + self.y.columns
        return min(self.max_octaves, self.max_waves // (2 * columns))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """X [N, dx], y [N, dy] -> features of x and of y, [N, width of each], float32."""
        features = []
        canonical = (self.canonical.x_variates, self.canonical.y_variates)
        for i, (side, samples) in enumerate(((self.x, x), (self.y, y))):
            read = side(samples)
            mean, deviation = self.radius_scale[i]
            parts = [read, (_log_radius(side, read) - mean) / deviation, canonical[i](_without_scaled(side, read))]
            ranks = torch.special.ndtr(read[:, : side.columns])
            for octave in range(self.octaves):
                angle = 2**octave * math.pi * ranks
                parts += [torch.cos(angle), torch.sin(angle)]
            features.append(torch.cat(parts, 1))
        return features[0], features[1]

    def log_ratio(self, x_features: Tensor, y_features: Tensor) -> Tensor:
        """The Gaussian critic [N] of features of this object."""
        k = self.canonical.width
        u, v = (f[:, w - k : w] for f, w in zip((x_features, y_features), self.plain_widths, strict=True))
        return self.canonical.log_ratio(u, v)


def _without_scaled(side: QuantileInputs, read: Tensor) -> Tensor:
    """The features but the scaled columns, which repeat the quantiles."""
    return torch.cat([read[:, : side.columns], read[:, side.columns + side.center.numel() :]], 1)


def _log_radius(side: QuantileInputs, read: Tensor) -> Tensor:
    return torch.log((read[:, : side.columns] ** 2).mean(1, keepdim=True) + 1e-3)
