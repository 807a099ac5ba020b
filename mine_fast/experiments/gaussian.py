"""MINE against nearest neighbours and the truth on correlated Gaussians (Belghazi et al. 2018, section 4.1).

x and y have d columns, each correlated with its partner by rho: the information is -d/2 log(1 - rho^2). Every
estimator is given the same rows. What MINE gives is read off rows that its critic did not train on, by the
Donsker-Varadhan bound, also where the f-divergence bound trained the critic (MINE-f): it is never the lower of the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import mine_fast
from mine_fast.experiments.experiment import Experiment, Metrics
from mine_fast.experiments.figures import panels
from mine_fast.experiments.ksg import ksg
from mine_fast.experiments.run import Run
from mine_fast.files import save_figure
from mine_fast.plotting import BLACK, BLUE, GREEN, ORANGE, PURPLE
from mine_fast.result import History

__all__ = ["EXPERIMENT", "Settings", "truth"]

#: Estimators with the colour that each is drawn in.
ESTIMATORS = {"MINE": BLUE, "MINE-f": GREEN, "estimate()": ORANGE, "KSG": PURPLE}


@dataclass(frozen=True)
class Settings:
    """Of the experiment.

    Attributes:
        dimensions: columns on each side.
        correlations: rho.
        rows: of a sample.
        width: of the two hidden layers of MINE's critic.
        steps: of its training.
        estimator_steps: of the training of `mine_fast.estimate`'s networks.
        neighbours: k of KSG.
    """

    dimensions: tuple[int, ...] = (1, 2, 20)
    correlations: tuple[float, ...] = (-0.99, -0.9, -0.5, 0.0, 0.5, 0.9, 0.99)
    rows: int = 5000
    width: int = 100
    steps: int = 1000
    estimator_steps: int = 600
    batch: int = 256
    rate: float = 2e-3
    neighbours: int = 3

    def __post_init__(self) -> None:
        if not all(-1 < rho < 1 for rho in self.correlations):
            raise ValueError(f"correlations must lie between -1 and 1, got {self.correlations}")


def truth(dimensions: int, correlation: float) -> float:
    """The information in nats.

    >>> round(truth(20, 0.5), 3)
    2.877
    """
    return -0.5 * dimensions * math.log1p(-(correlation**2))


def draw(run: Run[Settings], dimensions: int, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """A sample [N, d] on each side. The same noise for every correlation: what differs along a curve is rho."""
    x, noise = run.generator(dimensions).standard_normal((2, run.settings.rows, dimensions))
    return x, correlation * x + math.sqrt(1 - correlation**2) * noise


def point(run: Run[Settings], dimensions: int, correlation: float) -> Metrics:
    """All estimates of one sample, in nats, and the curves of MINE's training."""
    settings = run.settings
    x, y = draw(run, dimensions, correlation)
    fitted = {}
    for loss in ("mine", "fdiv"):
        critic = nn.Sequential(
            *(nn.Linear(2 * dimensions, settings.width), nn.ReLU()),
            *(nn.Linear(settings.width, settings.width), nn.ReLU()),
            nn.Linear(settings.width, 1),
        )
        mine = mine_fast.MINE(critic, loss=loss, method="concat", seed=run.seed)
        fitted[loss] = mine.fit(
            x,
            y,
            steps=settings.steps,
            batch_size=settings.batch,
            learning_rate=settings.rate,
            device=run.device,
        )
    estimated = mine_fast.estimate(x, y, seed=run.seed, steps=settings.estimator_steps, device=run.device)
    results = {"MINE": fitted["mine"], "MINE-f": fitted["fdiv"], "estimate()": estimated}
    return {
        "truth": truth(dimensions, correlation),
        **{name: result.mi for name, result in results.items()},
        "KSG": ksg(x, y, settings.neighbours),
        "flags": {name: [flag.code for flag in result.flags] for name, result in results.items()},
        "curves": {"MINE": mean_curve(fitted["mine"].history), "MINE-f": mean_curve(fitted["fdiv"].history)},
    }


def mean_curve(history: History) -> dict[str, list[float]]:
    """The folds' mean bound on validation rows, up to where a fold's training diverged."""
    every = range(min(map(len, history.steps)))
    bounds = [float(np.mean([fold[i] for fold in history.validation])) for i in every]
    return {"step": [history.steps[0][i] for i in every], "bound": bounds}


def run(run: Run[Settings]) -> Metrics:
    """Every dimension and correlation; errors are means over the correlations."""
    settings = run.settings
    cases = [(d, rho) for d in settings.dimensions for rho in settings.correlations]
    points = {
        (d, rho): run.part(f"d={d} rho={rho}", partial(point, run, d, rho)) for d, rho in run.bar(cases, "gaussian")
    }
    metrics: Metrics = {}
    for d in settings.dimensions:
        found = [points[d, rho] for rho in settings.correlations]
        metrics[f"d={d}"] = {
            "rho": settings.correlations,
            "truth": [one["truth"] for one in found],
            **{name: [one[name] for one in found] for name in ESTIMATORS},
            "flags": {name: [one["flags"][name] for one in found] for name in found[0]["flags"]},
            "mean absolute error": {
                name: float(np.mean([abs(one[name] - one["truth"]) for one in found])) for name in ESTIMATORS
            },
        }
    draw_values(run.folder / "values.png", [metrics])
    draw_convergence(run, points)
    return metrics


def draw_values(path: Path, runs: Sequence[Metrics]) -> None:
    """Estimates over rho, a panel per dimension, mean and range of the seeds."""
    figure, axes = panels(1, len(runs[0]))
    for panel, (name, first) in zip(axes[0], runs[0].items(), strict=True):
        rho = np.linspace(min(first["rho"]), max(first["rho"]), 401)
        dimensions = int(name.removeprefix("d="))
        panel.plot(rho, [truth(dimensions, r) for r in rho], color=BLACK, linewidth=1, label="truth")
        for estimator, colour in ESTIMATORS.items():
            values = np.array([one[name][estimator] for one in runs], dtype=float)
            panel.plot(first["rho"], values.mean(0), "o", color=colour, markersize=4, alpha=0.8, label=estimator)
            panel.vlines(first["rho"], values.min(0), values.max(0), color=colour, linewidth=1)
        panel.set(title=name, xlabel="rho")
        panel.grid(alpha=0.25)
    axes[0, 0].set_ylabel("information (nats)")
    axes[0, 0].legend(fontsize="x-small")
    save_figure(path, figure, dpi=120)


def draw_convergence(run: Run[Settings], points: dict[tuple[int, float], Any]) -> None:
    """Validation bound by training step at the largest correlation that is no extreme one."""
    settings = run.settings
    rho = max((rho for rho in settings.correlations if rho < 0.95), default=max(settings.correlations))
    figure, axes = panels(1, len(settings.dimensions))
    for panel, d in zip(axes[0], settings.dimensions, strict=True):
        one = points[d, rho]
        for name in ("MINE", "MINE-f"):
            curve = one["curves"][name]
            panel.plot(curve["step"], curve["bound"], color=ESTIMATORS[name], label=name)
        panel.axhline(one["truth"], color=BLACK, linewidth=1, label="truth")
        panel.axhline(one["KSG"], color=ESTIMATORS["KSG"], linestyle="--", linewidth=1, label="KSG")
        panel.set(title=f"d={d}, rho={rho:g}", xlabel="training step")
        # A bound that breaks down leaves the panel, above or below.
        panel.set_ylim(min(0, one["KSG"]) - 0.1, 1.1 * max(one["truth"], one["KSG"]) + 0.1)
        panel.grid(alpha=0.25)
    axes[0, 0].set_ylabel("bound on validation rows (nats)")
    axes[0, 0].legend(fontsize="x-small")
    run.save_figure("convergence", figure)


def compare(folder: Path, runs: Sequence[Metrics]) -> None:
    """All seeds in one picture."""
    draw_values(folder / "values.png", runs)


EXPERIMENT = Experiment(
    "gaussian",
    {
        "smoke": Settings(
            dimensions=(1,), correlations=(0.0, 0.9), rows=1000, width=32, steps=150, rate=5e-3, estimator_steps=150
        ),
        "quick": Settings(),
        "paper": Settings(
            correlations=(-0.99, -0.9, -0.7, -0.5, -0.3, -0.1, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99),
            rows=10_000,
            steps=3000,
        ),
    },
    run,
    compare,
)
