"""GANs in the plane, with and without the information term: 25 Gaussians and a spiral."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mine_fast
from mine_fast.experiments.experiment import Experiment, Metrics
from mine_fast.experiments.figures import CYCLE, panels
from mine_fast.experiments.gan import GANSettings, Networks, label, sample, train_gan
from mine_fast.experiments.modes import Target, coverage, grid, spiral
from mine_fast.experiments.networks import perceptron
from mine_fast.experiments.run import Run
from mine_fast.files import save_figure
from mine_fast.plotting import BLACK, GREY

__all__ = ["GAUSSIANS", "SPIRAL", "Settings", "target_of"]


@dataclass(frozen=True)
class Settings(GANSettings):
    """Of the experiment, `GANSettings` and these.

    Attributes:
        targets: of "VEEGAN grid", "mine-pytorch grid" and "spiral".
        generator: widths of its hidden layers.
        batch_norm: in the generator.
        discriminator: widths of its hidden layers and of the critic's.
    """

    targets: tuple[str, ...] = ()
    generator: tuple[int, ...] = (500, 500)
    batch_norm: bool = True
    discriminator: tuple[int, ...] = (400, 400, 400)


def target_of(name: str) -> Target:
    """The distribution of a name.

    Raises:
        ValueError: there is none.
    """
    targets = {
        # Spacing 2 and sigma 0.05, divided by 4: networks take steps of the size of their data.
        "VEEGAN grid": lambda: grid(0.5, 0.0125),
        # 3 * 1.41 sigma apart, scaled to standard deviation 1.
        "mine-pytorch grid": lambda: grid(4.23 / (1 + 2 * 4.23**2) ** 0.5, 1 / (1 + 2 * 4.23**2) ** 0.5),
        "spiral": spiral,
    }
    if name not in targets:
        raise ValueError(f"targets must be of {', '.join(targets)}, got {name!r}")
    return targets[name]()


def train(run: Run[Settings], target: Target, beta: float) -> list[Metrics]:
    """One arm: how its samples cover the modes, look by look, and some of them to draw."""
    settings = run.settings
    generator = perceptron([settings.noise + settings.code, *settings.generator, 2], settings.batch_norm)
    discriminator = perceptron([2, *settings.discriminator, 1])
    mine = mine_fast.MINE(perceptron([2 + settings.code, *settings.discriminator, 1]), method="concat")
    networks = Networks(run.on_device(generator), run.on_device(discriminator), run.on_device(mine))

    def look() -> Metrics:
        samples = sample(generator, settings, settings.samples, run.device)
        return {**coverage(samples, target), "drawn": [[round(v, 3) for v in row] for row in samples[:1000].tolist()]}

    return train_gan(run, networks, beta, target.sample, look)


def run(run: Run[Settings]) -> Metrics:
    """Every arm on every target, from the same seed."""
    settings, metrics = run.settings, {}
    for name in settings.targets:
        target = target_of(name).to(run.device)
        arms = {
            label(beta): run.part(f"{name}, {label(beta)}", partial(train, run, target, beta))
            for beta in settings.betas
        }
        truth = target.sample(settings.samples)
        draw_samples(run, name, target, truth.tolist(), arms)
        metrics[name] = {"perfect sampler": coverage(truth, target)}
        for arm, history in arms.items():
            curve = [{key: value for key, value in row.items() if key != "drawn"} for row in history]
            metrics[name][arm] = {**curve[-1], "curve": curve}
    return metrics


def draw_samples(
    run: Run[Settings], name: str, target: Target, truth: list[list[float]], arms: dict[str, list[Metrics]]
) -> None:
    """Samples at four looks, a row per arm, and of the data."""
    looks = len(next(iter(arms.values())))
    shown = sorted({max(1, round(looks * share)) - 1 for share in (0.1, 0.3, 0.6, 1.0)})
    figure, axes = panels(len(arms), len(shown) + 1, size=(2.6, 2.6))
    limit = 1.15 * float(target.points.abs().max()) + 3 * target.sigma
    for row, (colour, (arm, history)) in enumerate(zip(CYCLE, arms.items(), strict=False)):
        for column, at in enumerate(shown):
            panel, noted = axes[row, column], history[at]
            panel.plot(*zip(*noted["drawn"], strict=True), ".", markersize=1.5, color=colour)
            panel.set_title(f"{arm}, step {noted['step']:,}: {noted['modes']} of {target.count}", fontsize="small")
        axes[row, -1].plot(*zip(*truth[:1000], strict=True), ".", markersize=1.5, color=BLACK)
        axes[row, -1].set_title("data", fontsize="small")
    for panel in axes.flat:
        panel.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")
    run.save_figure(name.replace(" ", "-"), figure)


def compare(folder: Path, runs: Sequence[Metrics]) -> None:
    """What was measured by step, a line per seed and arm."""
    names = list(runs[0])
    measures = ("modes", "share", "reverse KL")
    figure, axes = panels(len(names), len(measures), size=(3.6, 2.8))
    for row, name in enumerate(names):
        for panel, measure in zip(axes[row], measures, strict=True):
            for result in runs:
                arms = [arm for arm in result[name] if arm != "perfect sampler"]
                for colour, arm in zip(CYCLE, arms, strict=False):
                    curve = result[name][arm]["curve"]
                    text = arm if result is runs[0] else None
                    panel.plot([p["step"] for p in curve], [p[measure] for p in curve], color=colour, label=text)
            panel.axhline(runs[0][name]["perfect sampler"][measure], color=GREY, linestyle=":", label="the data's own")
            panel.set(xlabel="step", ylabel=f"{name}: {measure}")
            panel.grid(alpha=0.25)
        axes[row, 0].legend(fontsize="x-small")
    save_figure(folder / "coverage.png", figure, dpi=120)


def _experiment(name: str, *targets: str) -> Experiment[Settings]:
    presets = {
        "smoke": Settings(
            targets=targets, steps=60, looks=3, samples=500, rate=1e-3, generator=(32, 32), discriminator=(32, 32)
        ),
        "quick": Settings(
            targets=targets,
            steps=20_000,
            rate=2e-3,
            decay=0.5,
            batch_norm=False,
            generator=(128, 128),
            discriminator=(128, 128),
        ),
        "paper": Settings(targets=targets),
    }
    return Experiment(name, presets, run, compare)


GAUSSIANS = _experiment("gan-25gaussians", "VEEGAN grid", "mine-pytorch grid")
SPIRAL = _experiment("gan-spiral", "spiral")
