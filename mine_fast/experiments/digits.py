"""MNIST for generative models: images in [-1, 1], a classifier that tells digits apart, pictures of many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mine_fast.experiments.data import Digits, mnist
from mine_fast.experiments.run import Run

__all__ = ["digit_classifier", "mosaic", "prepared", "told", "train_classifier"]


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


def train_classifier(run: Run[Any], training: Digits, test: Digits, epochs: int) -> tuple[nn.Sequential, float]:
    """A classifier, and the percent of test images that it tells wrong.

    Outside the parts of the run: its weights stay in the loop's checkpoint until the run is finished.
    """
    net = run.on_device(digit_classifier())
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    steps = epochs * -(-len(training.labels) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in run.loop(epochs, "classifier", net=net, optimizer=optimizer, schedule=schedule):
        for rows in torch.randperm(len(training.labels), device=run.device).split(128):
            loss = F.cross_entropy(net(training.images[rows]), training.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net, 100 * float((told(net, test.images) != test.labels).double().mean())


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
