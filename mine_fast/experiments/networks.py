"""The networks that several experiments share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

__all__ = ["perceptron"]


def perceptron(widths: Sequence[int], batch_norm: bool = False, slope: float = 0.2) -> nn.Sequential:
    """Linear layers from widths[0] to widths[-1], with leaky ReLUs in between.

    Args:
        widths: of the input, the hidden layers and the output.
        batch_norm: before every ReLU.
        slope: of the ReLUs below 0.

    >>> perceptron([2, 8, 1])
    Sequential(
      (0): Linear(in_features=2, out_features=8, bias=True)
      (1): LeakyReLU(negative_slope=0.2)
      (2): Linear(in_features=8, out_features=1, bias=True)
    )
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs), *([nn.BatchNorm1d(outputs)] if batch_norm else []), nn.LeakyReLU(slope)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
