"""The picture of an `MIMatrix`: a heat map in the order of an average linkage, with its tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mine_fast.clustering import Merge, average_linkage
from mine_fast.plotting import GREY, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mine_fast.matrix import MIMatrix

__all__ = ["plot_matrix", "tree_of"]

#: Up to so many variables every cell has its number.
NUMBERED = 12


def tree_of(mi: np.ndarray) -> list[Merge]:
    """The average linkage of variables [d] by exp(-MI), in (0, 1]: nothing shared is 1, what was not estimated too."""
    shared = np.where(np.isnan(mi), 0.0, np.maximum(mi, 0.0))
    return average_linkage(np.exp(-shared))


def plot_matrix(matrix: MIMatrix, level: float = 0.05, figure: Figure | None = None) -> Figure:
    """Draw a matrix; see `MIMatrix.plot`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    size = 3 + 0.32 * len(matrix.names)
    if figure is None:
        figure = new_figure((size + 1, size))
    merges = tree_of(matrix.mi)
    order = list(merges[-1].left + merges[-1].right)
    tree, cells = figure.subplots(2, 1, height_ratios=(1, 6), sharex=True)
    _draw_tree(tree, merges, order)
    _draw_cells(cells, matrix, order, level)
    return figure


def _draw_tree(axes: Axes, merges: list[Merge], order: list[int]) -> None:
    place = {member: float(i) for i, member in enumerate(order)}
    top: dict[tuple[int, ...], tuple[float, float]] = {
        (member,): (place[member], 0.0) for member in order
    }  # where the line of a cluster ends
    for left, right, height in merges:
        (a, from_a), (b, from_b) = (top[_key(side)] for side in (left, right))
        axes.plot([a, a, b, b], [from_a, height, height, from_b], color=GREY, linewidth=1)
        top[_key(left + right)] = (a + b) / 2, height
    axes.set_axis_off()


def _key(members: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(members))


def _draw_cells(axes: Axes, matrix: MIMatrix, order: list[int], level: float) -> None:
    mi, q = (values[np.ix_(order, order)] for values in (matrix.mi, matrix.q_value))
    names = [matrix.names[i] for i in order]
    image = axes.imshow(np.maximum(mi, 0.0), cmap="viridis", vmin=0.0, aspect="auto")
    axes.set_facecolor("#dddddd")  # what was not estimated, the diagonal among it
    rows, columns = np.nonzero(q > level)
    axes.plot(columns, rows, linestyle="none", marker=".", markersize=2, color="white")
    if len(names) <= NUMBERED:
        middle = 0.5 * float(np.nanmax(mi)) if bool(np.isfinite(mi).any()) else 0.0
        for (row, column), value in np.ndenumerate(mi):
            if not np.isnan(value):
                color = "white" if value < middle else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="bottom", fontsize=7, color=color)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.figure.colorbar(image, ax=axes, label="mutual information (nats)")
    axes.set_xlabel(f"dots: q > {level:g}", fontsize="small")
