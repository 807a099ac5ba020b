"""What the pictures have in common: no screen, and colours that colour-blind readers tell apart (Okabe and Ito)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

__all__ = ["BLACK", "BLUE", "CYCLE", "GREEN", "GREY", "ORANGE", "PURPLE", "SKY", "panels"]

BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"
GREY, BLACK = "#8c8c8c", "#000000"
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
