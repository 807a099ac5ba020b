"""The picture of an estimate: training and validation curves beside the histograms of the critic's scores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mine_fast.result import MIResult

__all__ = ["needing_matplotlib", "new_figure", "plot_result"]

#: Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"
GREY, BLACK = "#8c8c8c", "#000000"


@contextlib.contextmanager
def needing_matplotlib(what: str) -> Iterator[None]:
    """Say how to install matplotlib where an import of it in the block fails.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what} needs matplotlib: pip install '.[plot]' in the repository") from error


def new_figure(size: tuple[float, float]) -> Figure:
    """A figure of pyplot's, of this size in inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with needing_matplotlib("plot()"):
        from matplotlib import pyplot
    return pyplot.figure(figsize=size, layout="constrained")


def plot_result(result: MIResult, truth: float | None = None, figure: Figure | None = None) -> Figure:
    """Draw a result; see `MIResult.plot`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if figure is None:
        figure = new_figure((10, 4))
    curves, scores = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_curves(curves, result, truth)
    _draw_scores(scores, result)
    return figure


def _draw_curves(axes: Axes, result: MIResult, truth: float | None) -> None:
    history = result.history
    style: dict[str, Any] = {"linewidth": 1.2, "alpha": 0.8}
    for k, (steps, train, validation) in enumerate(zip(history.steps, history.train, history.validation, strict=True)):
        # One entry per kind in the legend, not one per fold.
        label = {"train": "training batches", "held_out": "validation rows"} if k == 0 else {}
        axes.plot(steps, train, color=GREY, label=label.get("train"), **{**style, "linewidth": 0.8})
        axes.plot(steps, validation, color=BLUE, label=label.get("held_out"), **style)
    axes.axhspan(
        result.mi - 1.96 * result.stderr, result.mi + 1.96 * result.stderr, color=ORANGE, alpha=0.2, linewidth=0
    )
    axes.axhline(
        result.mi, color=ORANGE, linewidth=1.5, label=f"estimate {result.mi:.3f} ± {result.stderr:.3f} (band: 95%)"
    )
    if truth is not None:
        axes.axhline(truth, color="black", linestyle="--", linewidth=1.2, label=f"truth {truth:.3f}")
    axes.set_ylim(*_limits(result, truth))
    axes.set_xlabel("training step")
    axes.set_ylabel("mutual information (nats)")
    folds = len(history.steps)
    axes.set_title(f"Training, {folds} folds" if folds > 1 else "Training")
    axes.legend(loc="lower right", fontsize="small")
    axes.grid(alpha=0.25)


def _limits(result: MIResult, truth: float | None) -> tuple[float, float]:
    """All of the estimate, and of the curves what is not a spike: the first steps can be far below zero."""
    readings = np.array([*chain(*result.history.train), *chain(*result.history.validation)], dtype=float)
    readings = readings[np.isfinite(readings)]
    marks = [0.0, result.mi - 2.5 * result.stderr, result.mi + 2.5 * result.stderr, *([] if truth is None else [truth])]
    low, high = min(marks), max(marks)
    if readings.size:
        low, high = min(low, *np.quantile(readings, [0.05])), max(high, *np.quantile(readings, [0.99]))
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def _draw_scores(axes: Axes, result: MIResult) -> None:
    axes.set_title("Critic scores, held-out rows")
    axes.set_xlabel("T (nats)")
    axes.set_yticks([])
    sides = [
        (np.asarray(scores, dtype=float), label, color)
        for scores, label, color in (
            (result.joint_scores, "pairs as they came", GREEN),
            (result.marginal_scores, "shuffled pairs", BLUE),
        )
    ]
    sides = [(scores[np.isfinite(scores)], label, color) for scores, label, color in sides]
    sides = [side for side in sides if side[0].size]
    if not sides:
        axes.text(0.5, 0.5, "no scores kept", transform=axes.transAxes, ha="center", color=GREY)
        return
    # A few scores far out would squeeze the rest into one bar: they are left out.
    low = min(float(np.quantile(scores, 0.01)) for scores, _, _ in sides)
    high = max(float(np.quantile(scores, 0.999)) for scores, _, _ in sides)
    edges = np.linspace(low, high if high > low else low + 1, 61).tolist()
    for scores, label, color in sides:
        axes.hist(scores, edges, density=True, histtype="stepfilled", color=color, alpha=0.35)
        axes.hist(scores, edges, density=True, histtype="step", color=color, linewidth=1.2, label=label)
    axes.set_ylabel("density")
    axes.legend(loc="upper left", fontsize="small")
