"""Gaussian noise between the layers of a critic, as in the noisy critics of the MINE paper and of mine-pytorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mine_fast.checks import as_number

__all__ = ["GaussianNoise"]


class GaussianNoise(nn.Module):
    """Adds independent normal noise to its input in training mode; the identity in evaluation mode.

    Before the first Linear layer of a critic and behind its activations the native engine draws it too. There it comes
    from a counter under the seed of `MINE`, by torch from torch's generator: the same distribution, other numbers, each
    reproducible by its own seed. The engine draws the noise of the inputs once for each row, so that with several
    shuffles the pairs of a row share it.

    Args:
        std: standard deviation, at least 0.

    Raises:
        ValueError, TypeError: not a finite number from 0 on.

    >>> import torch, mine_fast
    >>> noise = mine_fast.GaussianNoise(0.3)
    >>> x = torch.zeros(1000)
    >>> 0.2 < noise(x).std() < 0.4
    tensor(True)
    >>> noise.eval()(x).std()
    tensor(0.)
    """

    std: float

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = as_number("std", std)
        if not 0 <= self.std < math.inf:
            raise ValueError(f"std must be a finite number from 0 on, got {std!r}")

    def extra_repr(self) -> str:
        """The setting, for `print`."""
        return f"std={self.std:g}"

    def forward(self, x: Tensor) -> Tensor:
        """X [...] with noise, or as it is in evaluation mode."""
        return x + self.std * torch.randn_like(x) if self.training else x
