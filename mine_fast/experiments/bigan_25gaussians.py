"""A BiGAN on 25 Gaussians, with and without the information between data and code: what its reconstructions keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mine_fast.experiments.bigan import BiGANSettings, Encoder, perceptrons, train_bigan
from mine_fast.experiments.experiment import Experiment, Metrics
from mine_fast.experiments.figures import CYCLE, panels
from mine_fast.experiments.gan import label
from mine_fast.experiments.gan_plane import target_of
from mine_fast.experiments.modes import Target, coverage
from mine_fast.experiments.run import Run, seeded
from mine_fast.files import save_figure
from mine_fast.plotting import BLACK

__all__ = ["EXPERIMENT", "Settings", "reconstruction"]


@dataclass(frozen=True)
class Settings(BiGANSettings):
    """Of the experiment, `BiGANSettings` and these.

    Attributes:
        target: "VEEGAN grid" or "mine-pytorch grid".
        samples: per look, of the data and of the generator.
    """

    target: str = "VEEGAN grid"
    samples: int = 2500


def reconstruction(x: Tensor, again: Tensor, target: Target) -> Metrics:
    """How near reconstructions [N, 2] are to x [N, 2].

    Returns:
        "error": mean squared distance; "accuracy": percent of rows whose reconstruction is nearest to x's own mode.
    """
    mode, mode_again = (torch.cdist(rows, target.points).argmin(1) for rows in (x, again))
    return {
        "error": float((again - x).square().sum(1).mean()),
        "accuracy": 100 * float((mode == mode_again).double().mean()),
    }


def train(run: Run[Settings], target: Target, beta: float) -> list[Metrics]:
    """One arm: its reconstructions and samples, look by look, and some of them to draw."""
    settings = run.settings
    networks = perceptrons(settings, 2)
    for network in networks:
        run.on_device(network)
    generator, encoder = networks.generator, networks.encoder

    def look() -> Metrics:
        with seeded(0):  # the same rows at every look
            x = target.sample(settings.samples)
            again = generator(encoder.draw(x))
            made = generator(torch.randn(settings.samples, settings.code, device=run.device))
        return {
            **reconstruction(x, again, target),
            **{f"samples: {name}": value for name, value in coverage(made, target).items()},
            "noise sd": mean_sd(encoder, x),
            "drawn": {name: rows[:600].tolist() for name, rows in (("x", x), ("again", again), ("made", made))},
        }

    return train_bigan(run, networks, beta, target.sample, look)


def mean_sd(encoder: Encoder, x: Tensor) -> float:
    """Mean standard deviation of the codes of rows: the information of an encoder without noise has no meaning."""
    return float(encoder(x)[1].mean())


def run(run: Run[Settings]) -> Metrics:
    """Every arm, from the same seed."""
    target = target_of(run.settings.target).to(run.device)
    arms = {label(beta): run.part(label(beta), partial(train, run, target, beta)) for beta in run.settings.betas}
    draw(run, arms)
    metrics = {}
    for arm, history in arms.items():
        curve = [{key: value for key, value in row.items() if key != "drawn"} for row in history]
        metrics[arm] = {**curve[-1], "curve": curve}
    return metrics


def draw(run: Run[Settings], arms: dict[str, list[Metrics]]) -> None:
    """Data and reconstructions joined by lines, and samples, of every arm at the end."""
    figure, axes = panels(2, len(arms), size=(3.4, 3.4), sharex=True, sharey=True)
    for column, (colour, (arm, history)) in enumerate(zip(CYCLE, arms.items(), strict=False)):
        last = history[-1]
        x, again, made = (last["drawn"][name] for name in ("x", "again", "made"))
        for a, b in zip(x, again, strict=True):
            axes[0, column].plot([a[0], b[0]], [a[1], b[1]], color=colour, linewidth=0.3, alpha=0.5)
        axes[0, column].plot(*zip(*x, strict=True), ".", markersize=2, color=BLACK)
        axes[0, column].plot(*zip(*again, strict=True), ".", markersize=2, color=colour)
        axes[0, column].set_title(
            f"{arm}: error {last['error']:.2g}, {last['accuracy']:.0f}% in their mode",
            fontsize="x-small",
        )
        axes[1, column].plot(*zip(*made, strict=True), ".", markersize=2, color=colour)
        axes[1, column].set_title(f"samples: {last['samples: modes']} modes", fontsize="x-small")
    run.save_figure("reconstructions", figure)


def compare(folder: Path, runs: Sequence[Metrics]) -> None:
    """What was measured by step, a line per seed and arm."""
    measures = ("error", "accuracy", "samples: modes")
    figure, axes = panels(1, len(measures), size=(3.6, 2.8))
    for panel, measure in zip(axes[0], measures, strict=True):
        for result in runs:
            for colour, (arm, metrics) in zip(CYCLE, result.items(), strict=False):
                curve = metrics["curve"]
                text = arm if result is runs[0] else None
                panel.plot([p["step"] for p in curve], [p[measure] for p in curve], color=colour, label=text)
        panel.set(xlabel="step", ylabel={"error": "squared error", "accuracy": "accuracy (%)"}.get(measure, measure))
        panel.grid(alpha=0.25)
    axes[0, 0].set_yscale("log")
    axes[0, 0].legend(fontsize="x-small")
    save_figure(folder / "reconstruction.png", figure, dpi=120)


EXPERIMENT = Experiment(
    "bigan-25gaussians",
    {
        "smoke": Settings(steps=60, looks=3, samples=500, rate=1e-3, hidden=(32, 32)),
        "quick": Settings(steps=20_000, rate=5e-4, decay=0.5, hidden=(128, 128), batch_norm=False, code_noise=0.1),
        "paper": Settings(),
    },
    run,
    compare,
)
