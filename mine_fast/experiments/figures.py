"""What the pictures have in common: no screen, and the order of the colours."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mine_fast.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY

__all__ = ["CYCLE", "panels"]

#: For curves, in this order.
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, GREY)


def panels(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (4.0, 3.2), **options: Any
) -> tuple[Figure, Any]:
    """A figure and its axes, an array [rows, columns].

    Args:
        rows: of panels.
        columns: of panels.
        size: of a panel, in inches.
        options: of `Figure.subplots`: sharex, sharey, ...
    """
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes: np.ndarray = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, axes
