"""MNIST for generative models: images in [-1, 1], a classifier that tells digits apart, pictures of many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mine_fast.experiments.data import Digits, mnist
from mine_fast.experiments.experiment import Metrics
from mine_fast.experiments.run import Run

__all__ = ["classifier_of", "digit_classifier", "mosaic", "prepared", "told", "train_classifier"]


def prepared(run: Run[Any], split: str, rows: int) -> Digits:
    """The first images of a split, [N, 1, 28, 28] in [-1, 1], on the device."""
    images, labels = (part[:rows] for part in mnist(split))
    return Digits(run.on_device(images[:, None].float() / 127.5 - 1), run.on_device(labels))


def digit_classifier() -> nn.Sequential:
    """[B, 1, 28, 28] to logits [B, 10]."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def train_classifier(run: Run[Any], training: Digits, test: Digits, epochs: int) -> Metrics:
    """Train a classifier in one part of the run.

    Returns:
        "error", percent of the test images told wrong, and "weights", for `classifier_of`.
    """
    net = run.on_device(digit_classifier())
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, fused=True)
    steps = epochs * -(-len(training.labels) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=max(steps, 2))
    for _ in run.loop(epochs, net=net, optimizer=optimizer, schedule=schedule):
        for rows in torch.randperm(len(training.labels), device=run.device).split(128):
            loss = F.cross_entropy(net(training.images[rows]), training.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    wrong = told(net, test.images) != test.labels
    return {
        "error": 100 * float(wrong.double().mean()),
        "weights": {name: value.tolist() for name, value in net.state_dict().items()},
    }


def classifier_of(run: Run[Any], trained: Metrics) -> nn.Sequential:
    """The classifier that `train_classifier` trained."""
    net = digit_classifier()
    net.load_state_dict({name: torch.tensor(value) for name, value in trained["weights"].items()})
    return run.on_device(net)


@torch.no_grad()
def told(classifier: nn.Module, images: Tensor) -> Tensor:
    """The digit [N] that a classifier tells in each image [N, 1, 28, 28]."""
    return torch.cat([classifier(some).argmax(1) for some in images.split(1000)])


def mosaic(images: Tensor, columns: int) -> Tensor:
    """Images [N, C, 28, 28] in [-1, 1] as one, [rows * 28, columns * 28, C] in [0, 1]; N a multiple of columns."""
    count, channels, height, width = images.shape
    tiles = images.reshape(count // columns, columns, channels, height, width)
    whole = tiles.permute(0, 3, 1, 4, 2).reshape(count // columns * height, columns * width, channels)
    return ((whole + 1) / 2).clamp(0, 1).cpu()
