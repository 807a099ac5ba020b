"""The Gaussian part of a dependence: canonical correlation analysis, and the critic that it implies.

Between jointly Gaussian variables all information is in the canonical correlations (Hotelling 1936), and the optimal
critic is a quadratic form. On normal quantiles of each column that covers every Gaussian copula; a network is left with
what is not Gaussian about the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mine_fast.modules import FittedBuffers

__all__ = ["CanonicalPairs"]


class CanonicalPairs(FittedBuffers):
    """Canonical variates of features of X and of Y, fitted on training rows, and the Gaussian log density ratio.

    Sample correlations of many columns are too high even where there is nothing: of independent columns the squares
    reach (sqrt(p (1 - q/n)) + sqrt(q (1 - p/n)))^2 / n (Wachter 1980). Pairs below that edge are dropped, at least one
    kept; those above it are corrected for their expected excess (Bao, Hu, Pan and Zhou 2019, theorem 1.8).

    Attributes:
        correlations: [k], corrected and decreasing.

    >>> _ = torch.manual_seed(0)
    >>> x, noise = torch.randn(5000, 2), torch.randn(5000, 2)
    >>> pairs = CanonicalPairs().fit(x, 0.6 * x + 0.8 * noise)   # two correlations of 0.6
    >>> abs(pairs.information - 0.446) < 0.05   # the truth is -log(1 - 0.36)
    True
    """

    max_pairs = 64
    #: Directions with less than this share of the largest variance are combinations of others.
    smallest_variance = 1e-4
    #: As far as a sample can tell from 1.
    largest_correlation = 0.9999

    x_mean: Tensor  # [p]
    y_mean: Tensor  # [q]
    x_weights: Tensor  # [p, k]
    y_weights: Tensor  # [q, k]
    correlations: Tensor  # [k]

    def __init__(self) -> None:
        super().__init__()
        for name in ("x_mean", "y_mean", "correlations"):
            self.register_buffer(name, torch.empty(0, device="cpu", dtype=torch.float32))
        for name in ("x_weights", "y_weights"):
            self.register_buffer(name, torch.empty(0, 0, device="cpu", dtype=torch.float32))

    @property
    def width(self) -> int:
        """The number k of pairs."""
        return self.correlations.numel()

    @property
    def information(self) -> float:
        """-1/2 sum log(1 - r^2), the mutual information of a Gaussian with these correlations, in nats."""
        return float(-0.5 * torch.log1p(-(self.correlations.double() ** 2)).sum())

    def fit(self, x: Tensor, y: Tensor) -> CanonicalPairs:
        """Learn the variates from features x [n, p] and y [n, q] of the same rows."""
        covariance = self._covariance(x, y)
        p, n = x.shape[1], x.shape[0]
        return self._decompose(covariance, p, lambda r, p, q: self._corrected(r, p, q, n))

    def fit_sparse(self, x: Tensor, y: Tensor) -> CanonicalPairs:
        """The same from a covariance of few entries: sample correlations that chance explains count as 0.

        Where most columns have nothing to do with each other, that says more with fewer rows than a correction of the
        canonical correlations can (thresholding: Bickel and Levina 2008).
        """
        covariance = self._covariance(x, y)
        deviations = covariance.diagonal().clamp_min(1e-12).sqrt()
        correlation = covariance / deviations / deviations[:, None]
        chance = math.sqrt(2 * math.log(max(100, correlation.numel())) / x.shape[0])  # 3 standard errors at least
        correlation = torch.where(correlation.abs() > chance, correlation, 0.0)
        correlation.fill_diagonal_(1.0)
        # A covariance again: without the directions that have lost their variance.
        variances, directions = torch.linalg.eigh(correlation)
        correlation = (directions * variances.clamp_min(1 - self.largest_correlation)) @ directions.T
        covariance = correlation * deviations * deviations[:, None]
        return self._decompose(covariance, x.shape[1], lambda r, p, q: r.clamp(max=self.largest_correlation))

    def _covariance(self, x: Tensor, y: Tensor) -> Tensor:
        """Of x and y together, [p + q, p + q], float64; the means are kept."""
        self.x_mean, self.y_mean = x.mean(0), y.mean(0)
        both = torch.cat([x - self.x_mean, y - self.y_mean], 1)
        return (both.T @ both).double() / x.shape[0]

    def _decompose(self, covariance: Tensor, p: int, correct: Callable[[Tensor, int, int], Tensor]) -> CanonicalPairs:
        """The canonical pairs of a covariance whose first p columns are x; correct(r, rank of x, rank of y)."""
        x_whitening, y_whitening = self._whitening(covariance[:p, :p]), self._whitening(covariance[p:, p:])
        cross = x_whitening.T @ covariance[:p, p:] @ y_whitening
        u, r, vh = torch.linalg.svd(cross, full_matrices=False)
        correlations = correct(r, x_whitening.shape[1], y_whitening.shape[1])
        k = min(max(1, int((correlations > 1e-6).sum())), self.max_pairs)
        self.x_weights = (x_whitening @ u[:, :k]).float()
        self.y_weights = (y_whitening @ vh[:k].T).float()
        self.correlations = correlations[:k].float()
        return self

    def _whitening(self, covariance: Tensor) -> Tensor:
        """Weights [p, rank] that make the columns uncorrelated and of unit variance, float64."""
        variances, directions = torch.linalg.eigh(covariance)
        kept = variances > self.smallest_variance * variances[-1].clamp_min(1e-12)
        if not bool(kept.any()):  # nothing varies
            return directions[:, -1:]
        return directions[:, kept] / variances[kept].sqrt()

    def _corrected(self, r: Tensor, p: int, q: int, n: int) -> Tensor:
        """The population correlations behind sample correlations r of p and q columns over n rows; 0: none to see."""
        a, b = min(p / n, 0.5), min(q / n, 0.5)
        edge = (math.sqrt(a * (1 - b)) + math.sqrt(b * (1 - a))) ** 2
        squared = r.double() ** 2
        # A population square t above the threshold shows as (t + (1 - t) a) (t + (1 - t) b) / t: inverted on a grid.
        threshold = math.sqrt(a * b / ((1 - a) * (1 - b)))
        t = torch.linspace(threshold, 1, 4097, dtype=torch.float64, device=r.device)[1:]
        seen = (t + (1 - t) * a) * (t + (1 - t) * b) / t
        place = torch.searchsorted(seen, squared).clamp(1, t.numel() - 1)
        share = (squared - seen[place - 1]) / (seen[place] - seen[place - 1])
        found = torch.lerp(t[place - 1], t[place], share.clamp(0, 1)).clamp(0, 1)
        # The edge itself fluctuates by about n^(-2/3) of its size.
        above = squared > edge * (1 + 2 * (n * max(a, 1 / n)) ** (-2 / 3)) + 4 / n
        return torch.where(above, found.sqrt().clamp(max=self.largest_correlation), 0.0)

    def x_variates(self, x: Tensor) -> Tensor:
        """Features x [N, p] -> variates [N, k] of unit variance."""
        return (x - self.x_mean) @ self.x_weights

    def y_variates(self, y: Tensor) -> Tensor:
        """Features y [N, q] -> variates [N, k]."""
        return (y - self.y_mean) @ self.y_weights

    def factors(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Rows whose products are the critic log p(u, v) / (p(u) p(v)) of a Gaussian with these correlations.

        Args:
            u: [N, k] variates of x.
            v: [N, k] variates of y.

        Returns:
            [N, k + 2] of x, [N, k + 2] of y.
        """
        r = self.correlations
        rest = 1 - r * r
        half = 0.5 * r * r / rest
        of_x = ((u * u) @ half + 0.5 * torch.log(rest).sum())[:, None]
        of_y, one = ((v * v) @ half)[:, None], torch.ones_like(of_x)
        return torch.cat([u * (r / rest), -of_x, one], 1), torch.cat([v, one, -of_y], 1)
