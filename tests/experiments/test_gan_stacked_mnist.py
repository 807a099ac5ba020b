"""Stacked MNIST: networks, the count of modes by a classifier that is right, and a run end to end."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mine_fast.experiments import gan_stacked_mnist
from mine_fast.experiments.data import Digits
from mine_fast.experiments.digits import mosaic, told, train_classifier
from mine_fast.experiments.gan_stacked_mnist import (
    EXPERIMENT,
    Critic,
    Generator,
    Settings,
    discriminator,
    random_stacks,
    stack_modes,
)
from mine_fast.experiments.run import Run
from mine_fast.experiments.runner import run_seed


class ReadsFirstPixel(nn.Module):
    """Tells digits that are written into a pixel."""

    def forward(self, images):
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), 10)


def stacks_of(digits):
    """Digits [N, 3] as stacks that `ReadsFirstPixel` reads."""
    return digits.float()[:, :, None, None].expand(-1, -1, 28, 28)


def test_every_mode_once():
    every = torch.cartesian_prod(*3 * [torch.arange(10)])
    found = stack_modes(ReadsFirstPixel(), stacks_of(every))
    assert found["modes"] == 1000
    assert found["KL"] == pytest.approx(0, abs=1e-9)


def test_modes_are_ordered_triples():
    digits = torch.tensor([[1, 2, 3], [3, 2, 1], [3, 2, 1], [0, 0, 0]])
    found = stack_modes(ReadsFirstPixel(), stacks_of(digits))
    assert found["modes"] == 3
    assert found["KL"] == pytest.approx(math.log(1000) - 1.5 * math.log(2))  # shares 1/4, 1/2, 1/4


def test_a_perfect_sampler():
    torch.manual_seed(0)
    images = torch.arange(10.0)[:, None, None, None].expand(-1, 1, 28, 28)
    found = stack_modes(ReadsFirstPixel(), random_stacks(images, 26_000))
    assert found["modes"] == 1000
    # (K - 1) / (2 N) on average, with standard deviation sqrt(2 (K - 1)) / (2 N).
    assert found["KL"] == pytest.approx(999 / 52_000, abs=5 * (2 * 999) ** 0.5 / 52_000)


def test_the_channels_of_a_stack_are_drawn_apart():
    images = torch.arange(1000.0)[:, None, None, None].expand(-1, 1, 28, 28)
    stacks = random_stacks(images, 64)
    assert stacks.shape == (64, 3, 28, 28)
    assert stacks[:, :, 0, 0].unique().numel() > 150


def test_networks():
    torch.manual_seed(0)
    made = Generator(7, 4)(torch.randn(5, 7))
    assert made.shape == (5, 3, 28, 28)
    assert made.abs().max() <= 1
    assert made.min() < -0.1  # no ReLU before the tanh
    assert discriminator(4)(made).shape == (5, 1)
    critic, code = Critic(2, 4), torch.randn(5, 2)
    assert critic(made, code).shape == (5, 1)
    assert (critic(made, code) - critic(made, code.flip(0))).abs().max() > 1e-4


def test_a_mosaic():
    images = torch.linspace(-1, 1, 6)[:, None, None, None].expand(-1, 3, 28, 28)
    whole = mosaic(images, 3)
    assert whole.shape == (56, 84, 3)
    torch.testing.assert_close(whole[::28, ::28, 0], torch.linspace(0, 1, 6).view(2, 3))


def test_a_classifier_learns_training_images_only(bars, tmp_path):
    torch.manual_seed(0)
    training, test = (Digits(images[:, None] / 127.5 - 1, labels) for images, labels in map(bars, ("train", "test")))
    classifier, wrong = train_classifier(Run(Settings(), 0, tmp_path, progress=False), training, test, 6)
    assert (told(classifier, training.images) == training.labels).float().mean() > 0.8
    assert wrong == pytest.approx(90)


def test_what_is_learnt_is_training_images_and_what_is_measured_test_images(run_on_bars):
    seen, metrics = run_on_bars(gan_stacked_mnist, "train_gan")
    assert (seen.abs() == 1).all()  # black and white
    # One and the same image, with every label: one of ten is told right.
    assert metrics["classifier error"] == pytest.approx(90)
    assert metrics["test images"] == {"modes": 1, "KL": pytest.approx(math.log(1000))}


@pytest.mark.usefixtures("real_mnist")
def test_smoke_and_resumed(tmp_path, interrupted):
    metrics = run_seed(EXPERIMENT, "smoke", tmp_path / "whole")
    # A thousand digits, two passes: far from chance (90%), far from good.
    assert 3 < metrics["classifier error"] < 50
    assert metrics["test images"]["modes"] > 120  # of 200 stacks
    for arm in ("beta 0", "beta 1"):
        assert [row["step"] for row in metrics[arm]["curve"]] == [2, 4]
        assert 1 <= metrics[arm]["modes"] <= 200
        assert 0 < metrics[arm]["KL"] <= math.log(1000)
    assert (tmp_path / "whole" / "samples.png").is_file()
    with interrupted(3):
        run_seed(EXPERIMENT, "smoke", tmp_path / "broken", checkpoint_seconds=0.0)
    assert run_seed(EXPERIMENT, "smoke", tmp_path / "broken") == metrics
