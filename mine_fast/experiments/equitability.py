"""Whether MINE cares which function carries the information (Belghazi et al. 2018, section 4.2).

    y = f(x) + sigma * noise,    x uniform on (-1, 1), noise normal, column by column

An equitable measure depends on the noise and not on f. Mutual information itself is not that: a flat stretch of f, as
x^3 has around 0, drowns in less noise. So the estimates are shown beside the truth, which is one integral per column,
and the spread over the functions beside the spread that is really there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

import mine_fast
from mine_fast.experiments.experiment import Experiment, Metrics
from mine_fast.experiments.figures import panels
from mine_fast.experiments.run import Run
from mine_fast.files import save_figure

__all__ = ["EXPERIMENT", "FUNCTIONS", "Settings", "truth"]

FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "x": lambda x: x,
    "x^3": lambda x: x**3,
    "sin x": np.sin,
}
ESTIMATORS = ("MINE", "estimate()")


@dataclass(frozen=True)
class Settings:
    """Of the experiment.

    Attributes:
        columns: of x and of y; 2 in the paper.
        sigmas: of the noise. Without any, the information is infinite and estimates say how much a critic resolved.
        rows: of a sample.
        width: of the two hidden layers of MINE's critic.
        steps: of its training.
        estimator_steps: of the training of `mine_fast.estimate`'s networks.
    """

    columns: int = 2
    sigmas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    rows: int = 5000
    width: int = 100
    steps: int = 1000
    estimator_steps: int = 600
    batch: int = 256
    rate: float = 2e-3


def truth(function: str, sigma: float, columns: int = 1, nodes: int = 4000) -> float:
    """I(X;Y) in nats by quadrature: columns times h(Y) - h(sigma * noise).

    >>> round(truth("x", 0.5), 3)
    0.419
    """
    if sigma == 0:
        return math.inf
    centres = FUNCTIONS[function]((np.arange(nodes) + 0.5) / nodes * 2 - 1)  # midpoints: every x as likely
    y = np.linspace(centres.min() - 9 * sigma, centres.max() + 9 * sigma, 2001)
    density = np.mean(np.exp(-0.5 * ((y[:, None] - centres) / sigma) ** 2), 1) / (sigma * math.sqrt(2 * math.pi))
    entropy = -np.sum(density * np.log(np.maximum(density, 1e-300))) * (y[1] - y[0])
    return columns * float(entropy - 0.5 * math.log(2 * math.pi * math.e * sigma**2))


def point(run: Run[Settings], function: str, sigma: float) -> Metrics:
    """Both estimates of one sample, in nats."""
    settings = run.settings
    generator = run.generator()  # the same x and noise everywhere: only f and sigma differ
    x = generator.uniform(-1, 1, (settings.rows, settings.columns))
    y = FUNCTIONS[function](x) + sigma * generator.standard_normal(x.shape)
    critic = nn.Sequential(
        *(nn.Linear(2 * settings.columns, settings.width), nn.ReLU()),
        *(nn.Linear(settings.width, settings.width), nn.ReLU()),
        nn.Linear(settings.width, 1),
    )
    mine = mine_fast.MINE(critic, method="concat", seed=run.seed)
    fitted = mine.fit(
        x,
        y,
        steps=settings.steps,
        batch_size=settings.batch,
        learning_rate=settings.rate,
        device=run.device,
    )
    estimated = mine_fast.estimate(x, y, seed=run.seed, steps=settings.estimator_steps, device=run.device)
    results = {"MINE": fitted, "estimate()": estimated}
    flags = {name: [flag.code for flag in result.flags] for name, result in results.items()}
    return {**{name: result.mi for name, result in results.items()}, "flags": flags}


def run(run: Run[Settings]) -> Metrics:
    """Every function and noise. Errors leave out sigma = 0, where the truth is infinite."""
    settings = run.settings
    cases = [(name, sigma) for name in FUNCTIONS for sigma in settings.sigmas]
    points = {
        case: run.part(f"{case[0]} sigma={case[1]}", partial(point, run, *case))
        for case in run.bar(cases, "equitability")
    }
    exact = {name: [truth(name, sigma, settings.columns) for sigma in settings.sigmas] for name in FUNCTIONS}
    values = {
        estimator: {name: [points[name, sigma][estimator] for sigma in settings.sigmas] for name in FUNCTIONS}
        for estimator in ESTIMATORS
    }
    noisy = np.array(settings.sigmas) > 0
    flags = {
        estimator: {name: [points[name, sigma]["flags"][estimator] for sigma in settings.sigmas] for name in FUNCTIONS}
        for estimator in ESTIMATORS
    }
    metrics: Metrics = {"sigma": settings.sigmas, "truth": exact, **values, "flags": flags}
    tables = {kind: np.array(list(metrics[kind].values())) for kind in ("truth", *ESTIMATORS)}  # [functions, sigmas]
    metrics["mean absolute error"] = {
        name: float(np.abs(tables[name] - tables["truth"])[:, noisy].mean()) for name in ESTIMATORS
    }
    # Largest difference between two functions at the same noise, averaged over the noises.
    metrics["spread over functions"] = {
        kind: float(np.ptp(table[:, noisy], axis=0).mean()) for kind, table in tables.items()
    }
    draw(run.folder / "heatmap.png", [metrics])
    return metrics


def draw(path: Path, runs: Sequence[Metrics]) -> None:
    """The truth and the mean of the seeds as heat maps on one scale."""
    first = runs[0]
    kinds = ("truth", *ESTIMATORS)
    tables = {
        # None is what a file has for infinity.
        kind: np.mean([[[np.inf if v is None else v for v in row] for row in one[kind].values()] for one in runs], 0)
        for kind in kinds
    }
    finite = tables["truth"][np.isfinite(tables["truth"])]
    figure, axes = panels(1, len(kinds), size=(5.2, 2.3), sharey=True)
    for panel, kind in zip(axes[0], kinds, strict=True):
        shown = panel.imshow(tables[kind], vmin=0, vmax=finite.max(), aspect="auto", cmap="viridis")
        for (row, column), value in np.ndenumerate(tables[kind]):
            colour = "white" if value < 0.6 * finite.max() else "black"
            text = f"{value:.2f}" if np.isfinite(value) else "inf"
            panel.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
        panel.set_xticks(range(len(first["sigma"])), [f"{sigma:g}" for sigma in first["sigma"]])
        panel.set_yticks(range(len(FUNCTIONS)), list(FUNCTIONS))
        panel.set(title=kind, xlabel="sigma")
    figure.colorbar(shown, ax=axes, label="information (nats)")
    save_figure(path, figure, dpi=120)


def compare(folder: Path, runs: Sequence[Metrics]) -> None:
    """The mean of all seeds in one picture."""
    draw(folder / "heatmap.png", runs)


EXPERIMENT = Experiment(
    "equitability",
    {
        "smoke": Settings(columns=1, sigmas=(0.3, 0.9), rows=1000, width=32, steps=150, rate=5e-3, estimator_steps=150),
        "quick": Settings(),
        "paper": Settings(rows=10_000, steps=3000),
    },
    run,
    compare,
)
