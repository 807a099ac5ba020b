"""A BiGAN on MNIST, with and without the information between data and code: what its reconstructions keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from mine_fast.experiments.bigan import BiGANSettings, Networks, perceptrons, train_bigan
from mine_fast.experiments.data import Digits
from mine_fast.experiments.digits import mosaic, prepared, told, train_classifier
from mine_fast.experiments.experiment import Experiment, Metrics
from mine_fast.experiments.figures import CYCLE, panels
from mine_fast.experiments.gan import label
from mine_fast.experiments.run import Run, seeded
from mine_fast.files import save_figure
from mine_fast.modules import in_mode
from mine_fast.plotting import GREY

__all__ = ["ANCHORS", "EXPERIMENT", "Settings", "reconstruction", "similarity"]

#: Published error, accuracy (percent) and MS-SSIM.
ANCHORS = {"ALI": (14.24, 45.95, 0.97), "ALI+MINE": (9.73, 96.10, 0.99)}


@dataclass(frozen=True)
class Settings(BiGANSettings):
    """Of the experiment, `BiGANSettings` and these.

    Attributes:
        rows: training images, from the first.
        test_rows: test images, from the first, that are reconstructed.
        classifier_epochs: passes over the training images to train the classifier that reads reconstructions.
    """

    steps: int = 60_000  # about 100 epochs
    code: int = 64
    hidden: tuple[int, ...] = (1024, 1024)
    rows: int = 60_000
    test_rows: int = 10_000
    classifier_epochs: int = 3


def similarity(x: Tensor, again: Tensor) -> float:
    """MS-SSIM (Wang et al. 2003) of images [N, 1, 28, 28] in [0, 1], at most 1.

    Three scales in uniform windows of 5 x 5: five scales in the usual windows of 11 x 11 want images above 160 pixels.
    """
    found = multiscale_structural_similarity_index_measure(
        again, x, gaussian_kernel=False, kernel_size=5, betas=(1 / 3, 1 / 3, 1 / 3), normalize="relu", data_range=1.0
    )
    assert isinstance(found, Tensor)
    return float(found)


def reconstruction(classifier: nn.Module, test: Digits, again: Tensor) -> Metrics:
    """How near reconstructions [N, 1, 28, 28] are to images; both in [-1, 1].

    Returns:
        "error": squared, summed over the pixels of images in [0, 1], mean; "accuracy": percent of reconstructions in
        which the classifier tells the image's label; "MS-SSIM".
    """
    x, y = (test.images + 1) / 2, (again + 1) / 2
    return {
        "error": float((x - y).square().flatten(1).sum(1).mean()),
        "accuracy": 100 * float((told(classifier, again) == test.labels).double().mean()),
        "MS-SSIM": similarity(x, y),
    }


def train(run: Run[Settings], training: Digits, test: Digits, classifier: nn.Module, beta: float) -> Metrics:
    """One arm: its reconstructions, look by look, and some of the last and some samples to draw."""
    settings = run.settings
    networks = perceptrons(settings, 784, [nn.Tanh()])
    for network in networks:
        run.on_device(network)
    images = training.images.flatten(1)

    def real(rows: int) -> Tensor:
        return images[torch.randint(len(images), (rows,), device=images.device)]

    def look() -> Metrics:
        again = reconstructed(networks, test.images)
        sd = float(networks.encoder(test.images.flatten(1))[1].mean())
        return {**reconstruction(classifier, test, again), "noise sd": sd}

    history = train_bigan(run, networks, beta, real, look)
    with in_mode(networks.generator, False), in_mode(networks.encoder, False), torch.no_grad():
        shown = test.images[:32]
        pairs = torch.stack([shown, reconstructed(networks, shown)], 1).flatten(0, 1)
        made = networks.generator(torch.randn(64, settings.code, device=run.device)).view(-1, 1, 28, 28)
    drawn = {name: (255 * mosaic(rows, 8)).byte().tolist() for name, rows in (("pairs", pairs), ("made", made))}
    return {"curve": history, "drawn": drawn}


def reconstructed(networks: Networks, images: Tensor) -> Tensor:
    """Images [N, 1, 28, 28] encoded, with the code's noise, and generated again."""
    with seeded(0):
        return networks.generator(networks.encoder.draw(images.flatten(1))).view_as(images)


def run(run: Run[Settings]) -> Metrics:
    """Every arm, from the same seed."""
    settings = run.settings
    training, test = prepared(run, "train", settings.rows), prepared(run, "test", settings.test_rows)
    classifier, wrong = train_classifier(run, training, test, settings.classifier_epochs)
    arms = {
        label(beta): run.part(label(beta), partial(train, run, training, test, classifier, beta))
        for beta in settings.betas
    }
    figure, axes = panels(2, len(arms), size=(4, 4.3))
    for column, (arm, result) in enumerate(arms.items()):
        last = result["curve"][-1]
        axes[0, column].imshow(result["drawn"]["pairs"], cmap="gray")
        axes[0, column].set_title(
            f"{arm}: test digits, each with its reconstruction right of it\n"
            f"error {last['error']:.1f}, read right {last['accuracy']:.1f}%, MS-SSIM {last['MS-SSIM']:.2f}",
            fontsize="x-small",
        )
        axes[1, column].imshow(result["drawn"]["made"], cmap="gray")
        axes[1, column].set_title(f"{arm}: samples, step {last['step']:,}", fontsize="x-small")
    for panel in axes.flat:
        panel.set_axis_off()
    run.save_figure("digits", figure)
    found: Metrics = {"classifier error": wrong}
    for arm, result in arms.items():
        found[arm] = {**result["curve"][-1], "curve": result["curve"]}
    return found


def compare(folder: Path, runs: Sequence[Metrics]) -> None:
    """What was measured by step, a line per seed and arm, beside the published."""
    figure, axes = panels(1, 3, size=(3.8, 3))
    arms = [arm for arm in runs[0] if arm.startswith("beta")]
    texts = ("squared error", "accuracy on reconstructions (%)", "MS-SSIM")
    for place, (panel, measure) in enumerate(zip(axes[0], ("error", "accuracy", "MS-SSIM"), strict=True)):
        for colour, arm in zip(CYCLE, arms, strict=False):
            for result in runs:
                curve = result[arm]["curve"]
                text = arm if result is runs[0] else None
                panel.plot([p["step"] for p in curve], [p[measure] for p in curve], color=colour, label=text)
        for name, published in ANCHORS.items():
            panel.axhline(published[place], color=GREY, linestyle=":", linewidth=0.8)
            panel.annotate(name, (1, published[place]), xycoords=("axes fraction", "data"), fontsize=6, ha="right")
        panel.set(xlabel="step", ylabel=texts[place])
    axes[0, 0].set_ylim(0, None)
    axes[0, 0].legend(fontsize="x-small")
    save_figure(folder / "reconstruction.png", figure, dpi=120)


EXPERIMENT = Experiment(
    "bigan-mnist",
    {
        "smoke": Settings(
            steps=4, batch=16, looks=2, code=8, hidden=(32, 32), rows=1000, test_rows=200, classifier_epochs=2
        ),
        "quick": Settings(steps=10_000, rate=2e-4, code=32, hidden=(256, 256)),
        "paper": Settings(),
    },
    run,
    compare,
)
