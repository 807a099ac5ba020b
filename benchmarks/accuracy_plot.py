"""docs/accuracy.png: the error of every estimator on every case.

python benchmarks/accuracy_plot.py [--output docs/accuracy.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from accuracy_rows import Row
from accuracy_tables import OURS, ROWS, reported
from contenders import CONTENDERS
from distributions import FAMILIES
from matplotlib.axes import Axes
from readme_table import load
from record import ROOT

#: Errors beyond it are drawn on the edge, as arrows.
EDGE = 2.0
#: Marker and colour (Okabe and Ito's, which the colour-blind tell apart), and the size of the marker.
STYLES: dict[str, tuple[str, str, float]] = {
    "mine_fast": ("o", "#000000", 6.5),
    "sklearn": ("^", "#56B4E9", 5),
    "ksg": ("s", "#0072B2", 4.5),
    "cca": ("x", "#999999", 5.5),
    "mine_pytorch": ("D", "#D55E00", 4),
    "torch_mist": ("v", "#CC79A7", 5),
}

Line = tuple[str, str | None]  # text of a line of the picture, and the case in it, if it is not a heading


def lines_of_columns() -> tuple[list[Line], list[Line]]:
    """The families in turn, each to the column that is shorter so far."""
    columns: tuple[list[Line], list[Line]] = ([], [])
    for family, cases in FAMILIES.items():
        min(columns, key=len).extend([(family, None), *((name, name) for name in cases)])
    return columns


def draw_column(axes: Axes, lines: list[Line], rows: dict[tuple[str, str], Row], length: int) -> None:
    axes.axvspan(-0.1, 0.1, color="#eeeeee", zorder=0)
    axes.axvline(0, color="black", linewidth=0.8, zorder=1)
    labels = []
    for height, (text, case) in enumerate(lines):
        if case is None:
            labels.append(text)
            continue
        truths = [rows[key]["truth"] for key in rows if key[0] == case]
        labels.append(f"{text}   {truths[0]:.2f}" if truths else text)
        axes.axhline(height, color="#dddddd", linewidth=0.5, zorder=0)
        for place, (name, (marker, colour, size)) in enumerate(STYLES.items()):
            error = rows.get((case, name), {}).get("mean_error")
            if error is None:
                continue
            shown = min(max(error, -EDGE), EDGE)
            beyond = shown != error
            axes.plot(
                shown,
                height + 0.07 * (place - 2.5),  # so that equal errors do not hide each other
                marker=("<" if error < 0 else ">") if beyond else marker,
                color=colour,
                markersize=size,
                linestyle="",
                clip_on=not beyond,
                zorder=4 if name == OURS else 3,
            )
    axes.set_yticks(range(len(lines)), labels, fontsize=8)
    for tick, (_, case) in zip(axes.get_yticklabels(), lines, strict=True):
        tick.set_fontweight("normal" if case else "bold")
    axes.set_ylim(length - 0.3, -0.7)
    axes.set_xscale("symlog", linthresh=0.1, linscale=1.2)
    axes.set_xlim(-1.3 * EDGE, 1.3 * EDGE)  # arrows clear of the labels
    marks = [-2, -1, -0.5, -0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.5, 1, 2]
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks], fontsize=8)
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.tick_params(length=0)
    axes.set_xlabel("estimate minus truth, nats (mean over seeds)", fontsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def draw(document: dict[str, Any]) -> plt.Figure:
    rows = {(row["case"], row["estimator"]): row for row in reported(document)}
    columns = lines_of_columns()
    length = max(len(lines) for lines in columns)
    figure, both = plt.subplots(1, 2, figsize=(15, 0.2 * length + 1.3), layout="constrained")
    for axes, lines in zip(both, columns, strict=True):
        draw_column(axes, lines, rows, length)
    handles = [
        plt.Line2D([], [], marker=marker, color=colour, markersize=size, linestyle="", label=CONTENDERS[name].label)
        for name, (marker, colour, size) in STYLES.items()
        if any(name == estimator for _, estimator in rows)
    ]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
        fontsize=10,
        title=f"{ROWS:,} rows. Beside each case its truth. Grey: within 0.1 nats. Arrows: beyond {EDGE:g} nats.",
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "accuracy.png")
    options = parser.parse_args()
    draw(load("accuracy")).savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
