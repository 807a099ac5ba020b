"""Distributions in the plane whose modes are known, and how well samples cover them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mine_fast.experiments.experiment import Metrics

__all__ = ["Target", "coverage", "grid", "kl_from_uniform", "spiral"]


@dataclass(frozen=True)
class Target:
    """Points as likely as each other, with normal noise; each point belongs to a mode, each mode to as many points.

    Attributes:
        points: [P, 2].
        modes: [P], from 0 to K - 1.
        sigma: standard deviation of the noise.
    """

    points: Tensor
    modes: Tensor
    sigma: float

    @property
    def count(self) -> int:
        """K, how many modes there are."""
        return int(self.modes.max()) + 1

    def sample(self, rows: int) -> Tensor:
        """Samples [rows, 2], by torch's generator."""
        device = self.points.device
        chosen = self.points[torch.randint(len(self.points), (rows,), device=device)]
        return chosen + self.sigma * torch.randn(rows, 2, device=device)

    def to(self, device: torch.device) -> Target:
        """The same elsewhere."""
        return Target(self.points.to(device), self.modes.to(device), self.sigma)


def grid(spacing: float, sigma: float, side: int = 5) -> Target:
    """A square of side * side normal distributions around the origin.

    Spacing 2 and sigma 0.05 are VEEGAN's (Srivastava et al. 2017, arXiv 1705.07761), and the MINE paper's sigma.
    """
    places = spacing * (torch.arange(side, device="cpu") - (side - 1) / 2)
    points = torch.cartesian_prod(places, places)
    return Target(points, torch.arange(len(points), device="cpu"), sigma)


def spiral(turns: float = 13 / 6, sigma: float = 0.02, sections: int = 25, points: int = 2000) -> Target:
    """Two arms of an Archimedean spiral in [-1, 1]^2, uniform along their length; a mode is a section of an arm.

    Args:
        turns: of each arm; 13/6 (780 degrees) are mine-pytorch's.
        sigma: standard deviation of the noise. Neighbouring turns are 1 / (2 * turns) apart.
        sections: per arm, of the same length.
        points: per arm, along its length; a multiple of `sections`.
    """
    # The length of r = angle grows (but for the innermost turn) with the square of the angle.
    along = (torch.arange(points, device="cpu") + 0.5) / points
    radius, angle = along.sqrt(), 2 * math.pi * turns * along.sqrt()
    arm = torch.stack([-radius * angle.cos(), radius * angle.sin()], 1)
    section = torch.arange(points, device="cpu") * sections // points
    return Target(torch.cat([arm, -arm]), torch.cat([section, sections + section]), sigma)


def coverage(samples: Tensor, target: Target) -> Metrics:
    """How samples [N, 2] cover the modes of a target.

    A sample belongs to the mode of the nearest point, and is good if it is within 3 sigma of that point.

    Returns:
        "modes": with at least one good sample; "share": of good samples; "reverse KL": from the samples' modes, good or
        not, to the target's, in nats (of samples of the target itself about (K - 1) / (2 N)).
    """
    distance, nearest = torch.cdist(samples, target.points).min(1)
    of_sample, good = target.modes[nearest], distance <= 3 * target.sigma
    counts = torch.bincount(of_sample, minlength=target.count)
    return {
        "modes": int(of_sample[good].unique().numel()),
        "share": float(good.double().mean()),
        "reverse KL": kl_from_uniform(counts),
    }


def kl_from_uniform(counts: Tensor) -> float:
    """Divergence in nats from the distribution of counts [K] to the one with K equal parts; from 0 to log K.

    >>> kl_from_uniform(torch.tensor([5, 5, 5, 5]))
    0.0
    >>> round(kl_from_uniform(torch.tensor([5, 0, 0, 5])) / math.log(2), 9)
    1.0
    """
    shares = counts.double() / counts.sum()
    return float(torch.special.xlogy(shares, shares).sum()) + math.log(len(counts))
