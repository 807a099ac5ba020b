"""BiGANs: measures of reconstructions on known ones, and runs end to end."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mine_fast.experiments import bigan_25gaussians, bigan_mnist
from mine_fast.experiments.bigan import BiGANSettings, Encoder, perceptrons
from mine_fast.experiments.data import Digits
from mine_fast.experiments.modes import grid
from mine_fast.experiments.runner import run_seed, run_seeds


def test_reconstructions_in_the_plane():
    target = grid(2.0, 0.05)
    x = torch.tensor([[0.0, 0.0], [4.0, 4.0], [-2.0, 2.0], [2.0, 2.0]])
    assert bigan_25gaussians.reconstruction(x, x, target) == {"error": 0, "accuracy": 100}
    again = x + torch.tensor([[0.1, 0.0], [9.0, 0.0], [0.0, -2.0], [0.9, 0.9]])
    found = bigan_25gaussians.reconstruction(x, again, target)
    assert found["error"] == pytest.approx((0.01 + 81 + 4 + 1.62) / 4)
    assert found["accuracy"] == 75  # the second is still nearest to its own mode, the third is not


class ReadsFirstPixel(nn.Module):
    """Tells 1 where the first pixel is bright."""

    def forward(self, images):
        return torch.stack([-images[:, 0, 0, 0], images[:, 0, 0, 0]], 1)


def test_reconstructions_of_digits():
    torch.manual_seed(0)
    images = 2 * torch.rand(4, 1, 28, 28) - 1
    images[:, 0, 0, 0] = torch.tensor([-1.0, 1, -1, 1])
    test = Digits(images, torch.tensor([0, 1, 0, 0]))
    found = bigan_mnist.reconstruction(ReadsFirstPixel(), test, images)
    assert found["error"] == 0
    assert found["accuracy"] == 75
    assert found["MS-SSIM"] == pytest.approx(1, abs=1e-6)
    # One pixel of four images from black to white, in [0, 1].
    again = images.clone()
    again[0, 0, 0, 0] = 1.0
    found = bigan_mnist.reconstruction(ReadsFirstPixel(), test, again)
    assert found["error"] == pytest.approx(0.25)
    assert found["accuracy"] == 50


def test_similarity():
    torch.manual_seed(0)
    # Strokes, as digits have: noise has no structure that blurring leaves.
    x = nn.functional.avg_pool2d(torch.rand(16, 1, 32, 32), 5, stride=1)
    x = (x - x.amin()) / (x.amax() - x.amin())
    noisy, other = (x + 0.1 * torch.randn_like(x)).clamp(0, 1), x.flip(0)
    ordered = [bigan_mnist.similarity(x, y) for y in (x, noisy, other)]
    assert ordered[0] == pytest.approx(1, abs=1e-6)
    assert ordered[0] > ordered[1] + 0.02 > ordered[2] + 0.2


def test_an_encoder_has_noise_of_its_own():
    torch.manual_seed(0)
    encoder = Encoder(nn.Linear(3, 4))
    x = torch.randn(1, 3)
    mean, sd = encoder(x)
    assert mean.shape == sd.shape == (1, 2)
    assert (sd > 0).all()
    draws = encoder.draw(x.expand(20_000, -1))
    torch.testing.assert_close(draws.mean(0, keepdim=True), mean, atol=5 * float(sd.max()) / 20_000**0.5, rtol=0)
    torch.testing.assert_close(draws.std(0, keepdim=True), sd, atol=0, rtol=0.03)


def test_the_noise_of_an_encoder_can_be_given():
    torch.manual_seed(0)
    encoder = perceptrons(BiGANSettings(code=2, hidden=(8,), batch_norm=False, code_noise=0.25), 5).encoder
    x = torch.randn(1, 5)
    mean, sd = encoder(x)
    assert mean.shape == (1, 2)
    assert (sd == 0.25).all()
    torch.testing.assert_close((encoder.draw(x.expand(20_000, -1)) - mean).std(0), sd[0], atol=0, rtol=0.03)


def test_networks():
    networks = perceptrons(BiGANSettings(code=3, hidden=(8,)), 5, [nn.Tanh()])
    x, z = torch.randn(6, 5), torch.randn(6, 3)
    assert networks.generator(z).shape == (6, 5)
    assert networks.generator(10 * z).abs().max() <= 1
    assert networks.discriminator(torch.cat([x, z], 1)).shape == (6, 1)
    assert networks.mine(x, networks.encoder.draw(x)).ndim == 0


def test_smoke_and_resumed_in_the_plane(tmp_path, interrupted):
    experiment = bigan_25gaussians.EXPERIMENT
    metrics = run_seed(experiment, "smoke", tmp_path / "whole")
    for arm in ("beta 0", "beta 1"):
        assert [row["step"] for row in metrics[arm]["curve"]] == [20, 40, 60]
        assert 0 < metrics[arm]["error"] < 100
        assert 0 < metrics[arm]["accuracy"] < 100
        assert metrics[arm]["noise sd"] > 0.05
    assert metrics["beta 0"]["curve"] != metrics["beta 1"]["curve"]
    assert (tmp_path / "whole" / "reconstructions.png").is_file()
    with interrupted(35):
        run_seed(experiment, "smoke", tmp_path / "broken", checkpoint_seconds=0.0)
    assert run_seed(experiment, "smoke", tmp_path / "broken") == metrics


def test_several_seeds_together(tmp_path):
    metrics = run_seeds(bigan_25gaussians.EXPERIMENT, "smoke", tmp_path, [0, 1], overrides=["steps=20"])
    assert len(metrics["beta 1"]["error"]["values"]) == 2
    assert (tmp_path / "reconstruction.png").is_file()


def test_what_is_learnt_is_training_images_and_what_is_measured_test_images(run_on_bars):
    seen, metrics = run_on_bars(bigan_mnist, "train_bigan")
    assert (seen.abs() == 1).all()  # black and white
    # One and the same image, with every label: one of ten is told right.
    assert metrics["classifier error"] == pytest.approx(90)
    # An untrained generator makes images that are nearly grey: of black and white ones, each pixel would be off by 1/4.
    assert metrics["beta 0"]["error"] < 0.1 * 784 / 4


@pytest.mark.usefixtures("real_mnist")
def test_smoke_and_resumed_on_digits(tmp_path, interrupted):
    experiment = bigan_mnist.EXPERIMENT
    metrics = run_seed(experiment, "smoke", tmp_path / "whole")
    assert 3 < metrics["classifier error"] < 50
    for arm in ("beta 0", "beta 1"):
        # Untrained: an image of nothing in particular.
        assert 50 < metrics[arm]["error"] < 400
        assert metrics[arm]["accuracy"] < 40
        assert metrics[arm]["MS-SSIM"] < 0.5
    assert (tmp_path / "whole" / "digits.png").is_file()
    with interrupted(3):
        run_seed(experiment, "smoke", tmp_path / "broken", checkpoint_seconds=0.0)
    assert run_seed(experiment, "smoke", tmp_path / "broken") == metrics
