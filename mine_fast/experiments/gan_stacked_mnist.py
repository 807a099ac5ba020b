"""A GAN on stacked MNIST, 1000 modes: three digits as the channels of one image, with and without the information term.

The networks are the DCGAN of VEEGAN (Srivastava et al. 2017) and PacGAN (Lin et al. 2018), as in the MINE paper; its
critic is the discriminator with ELUs, without batch normalisation, where the code shifts every layer's channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mine_fast
from mine_fast.experiments.data import Digits
from mine_fast.experiments.digits import mosaic, prepared, told, train_classifier
from mine_fast.experiments.experiment import Experiment, Metrics
from mine_fast.experiments.figures import CYCLE, panels
from mine_fast.experiments.gan import GANSettings, Networks, label, sample, train_gan
from mine_fast.experiments.modes import kl_from_uniform
from mine_fast.experiments.run import Run
from mine_fast.files import save_figure
from mine_fast.plotting import GREY

__all__ = ["ANCHORS", "EXPERIMENT", "Settings", "stack_modes"]

#: Published modes and divergences, on 26,000 samples, each with a classifier of its own.
ANCHORS = {
    "DCGAN": (99, 3.40),
    "ALI": (16, 5.40),
    "Unrolled GAN": (48.7, 4.32),
    "VEEGAN": (150, 2.95),
    "PacGAN": (1000, 0.06),
    "GAN+MINE": (1000, 0.05),
}


@dataclass(frozen=True)
class Settings(GANSettings):
    """Of the experiment, `GANSettings` and these.

    Attributes:
        width: channels of the layer next to the images; the others have twice, 4 and 8 times as many.
        rows: training images, from the first.
        classifier_epochs: passes over them to train the classifier that counts modes.
    """

    steps: int = 50_000  # 50 epochs of 128,000 stacks
    batch: int = 128
    rate: float = 2e-4
    noise: int = 90
    code: int = 10
    samples: int = 26_000
    width: int = 64
    rows: int = 60_000
    classifier_epochs: int = 3


class Generator(nn.Module):
    """[B, inputs] to [B, 3, 28, 28] in [-1, 1]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        channels = [8 * width, 4 * width, 2 * width, width, 3]
        self.first = nn.Linear(inputs, 8 * width * 2 * 2)
        self.layers = nn.Sequential()
        for before, after, padding in zip(channels[:-1], channels[1:], (1, 0, 1, 1), strict=True):  # 2, 4, 7, 14, 28
            self.layers += nn.Sequential(
                *(nn.BatchNorm2d(before), nn.ReLU()),
                nn.ConvTranspose2d(before, after, 5, stride=2, padding=2, output_padding=padding),
            )

    def forward(self, z: Tensor) -> Tensor:
        """Images of inputs."""
        return self.layers(self.first(z).unflatten(1, (-1, 2, 2))).tanh()


def discriminator(width: int) -> nn.Sequential:
    """[B, 3, 28, 28] to logits [B, 1]."""
    return nn.Sequential(
        *(nn.Conv2d(3, width, 5, stride=2, padding=2), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(width, 2 * width, 5, stride=2, padding=2), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(2 * width, 4 * width, 5, stride=2, padding=2), nn.BatchNorm2d(4 * width), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(4 * width, 8 * width, 5, stride=2, padding=2), nn.BatchNorm2d(8 * width), nn.LeakyReLU(0.2)),
        *(nn.Flatten(), nn.Linear(8 * width * 2 * 2, 1)),
    )


class Critic(nn.Module):
    """Scores [B, 1] of images [B, 3, 28, 28] and codes [B, code]."""

    def __init__(self, code: int, width: int) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 8 * width]
        pairs = list(pairwise(channels))
        self.images = nn.ModuleList(nn.Conv2d(a, b, 5, stride=2, padding=2) for a, b in pairs)
        self.codes = nn.ModuleList(nn.Linear(code, b, bias=False) for _, b in pairs)
        self.last = nn.Linear(8 * width * 2 * 2, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Scores of pairs."""
        for of_image, of_code in zip(self.images, self.codes, strict=True):
            x = F.elu(of_image(x) + of_code(code)[:, :, None, None])
        return self.last(x.flatten(1))


def stack_modes(classifier: nn.Module, stacks: Tensor) -> Metrics:
    """Modes among stacks [N, 3, 28, 28], each digit told by a classifier, and the divergence of their shares from the
    uniform ones, in nats (of stacks of random digits about 1000 / (2 N)).
    """
    digits = told(classifier, stacks.flatten(0, 1)[:, None]).view(-1, 3)
    counts = torch.bincount(digits @ torch.tensor([100, 10, 1], device=digits.device), minlength=1000)
    return {"modes": int((counts > 0).sum()), "KL": kl_from_uniform(counts)}


def random_stacks(images: Tensor, rows: int) -> Tensor:
    """Stacks [rows, 3, 28, 28] of digits [N, 1, 28, 28] drawn apart."""
    return images[torch.randint(len(images), (rows, 3), device=images.device)].squeeze(2)


def train(run: Run[Settings], training: Digits, classifier: nn.Module, beta: float) -> Metrics:
    """One arm: the modes of its samples, look by look, and some of the last to draw."""
    settings = run.settings
    generator = run.on_device(Generator(settings.noise + settings.code, settings.width))
    mine = mine_fast.MINE(Critic(settings.code, settings.width))
    networks = Networks(generator, run.on_device(discriminator(settings.width)), run.on_device(mine))

    def look() -> Metrics:
        return stack_modes(classifier, sample(generator, settings, settings.samples, run.device))

    history = train_gan(run, networks, beta, lambda rows: random_stacks(training.images, rows), look)
    drawn = mosaic(sample(generator, settings, 64, run.device), 8)
    return {"curve": history, "drawn": (255 * drawn).byte().tolist()}


def run(run: Run[Settings]) -> Metrics:
    """Every arm, from the same seed."""
    settings = run.settings
    training, test = prepared(run, "train", settings.rows), prepared(run, "test", 10_000)
    classifier, wrong = train_classifier(run, training, test, settings.classifier_epochs)
    arms = {
        label(beta): run.part(label(beta), partial(train, run, training, classifier, beta)) for beta in settings.betas
    }
    figure, axes = panels(1, len(arms), size=(4, 4.3))
    for panel, (arm, result) in zip(axes[0], arms.items(), strict=True):
        panel.imshow(result["drawn"])
        panel.set_axis_off()
        last = result["curve"][-1]
        panel.set_title(f"{arm}, step {last['step']:,}: {last['modes']} modes, KL {last['KL']:.2f}", fontsize="small")
    run.save_figure("samples", figure)
    real = stack_modes(classifier, random_stacks(test.images, settings.samples))
    found: Metrics = {"classifier error": wrong, "test images": real}
    for arm, result in arms.items():
        found[arm] = {**result["curve"][-1], "curve": result["curve"]}
    return found


def compare(folder: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Modes and divergence by step, a line per seed and arm, beside the published."""
    figure, axes = panels(1, 2, size=(4.6, 3.4))
    arms = [arm for arm in runs[0] if arm.startswith("beta")]
    for panel, measure, place in zip(axes[0], ("modes", "KL"), (0, 1), strict=True):
        for colour, arm in zip(CYCLE, arms, strict=False):
            for result in runs:
                curve = result[arm]["curve"]
                text = arm if result is runs[0] else None
                panel.plot([p["step"] for p in curve], [p[measure] for p in curve], color=colour, label=text)
        for name, published in ANCHORS.items():
            if name != "PacGAN":  # on GAN+MINE's line
                panel.axhline(published[place], color=GREY, linestyle=":", linewidth=0.8)
                panel.annotate(name, (1, published[place]), xycoords=("axes fraction", "data"), fontsize=6, ha="right")
        panel.set(xlabel="step", ylabel={"modes": "modes of 1000", "KL": "KL from uniform (nats)"}[measure])
        panel.set_ylim(*((0, 1050) if measure == "modes" else (0, math.log(1000))))
    axes[0, 0].legend(fontsize="x-small", loc="center left")
    save_figure(folder / "modes.png", figure, dpi=120)


EXPERIMENT = Experiment(
    "gan-stacked-mnist",
    {
        "smoke": Settings(steps=4, batch=16, looks=2, samples=200, width=4, rows=1000, classifier_epochs=2),
        "quick": Settings(steps=10_000, batch=64, width=16),
        "paper": Settings(),
    },
    run,
    compare,
)
