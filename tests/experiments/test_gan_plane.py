"""GANs in the plane, end to end: twins that differ in the information only, the information itself, resuming."""

from __future__ import annotations

import pytest
import torch

import mine_fast
from mine_fast.experiments.adaptive_clipping import backward_adaptively
from mine_fast.experiments.gan_plane import GAUSSIANS, SPIRAL
from mine_fast.experiments.networks import perceptron
from mine_fast.experiments.runner import run_seed, run_seeds


@pytest.mark.parametrize(("experiment", "counts"), [(GAUSSIANS, [25, 25]), (SPIRAL, [50])])
def test_smoke(tmp_path, experiment, counts):
    metrics = run_seed(experiment, "smoke", tmp_path)
    assert list(metrics) == list(experiment.presets["smoke"].targets)
    for (name, arms), count in zip(metrics.items(), counts, strict=True):
        assert list(arms) == ["perfect sampler", "beta 0", "beta 1"]
        assert arms["perfect sampler"]["modes"] == count
        assert arms["perfect sampler"]["reverse KL"] < 0.15
        for arm in ("beta 0", "beta 1"):
            assert [row["step"] for row in arms[arm]["curve"]] == [20, 40, 60]
            assert 0 <= arms[arm]["modes"] <= count
            assert arms[arm]["reverse KL"] > arms["perfect sampler"]["reverse KL"]
        assert arms["beta 0"]["curve"] != arms["beta 1"]["curve"]
        assert (tmp_path / f"{name.replace(' ', '-')}.png").is_file()


def test_an_arm_does_not_depend_on_the_others(tmp_path):
    """The twin of an arm without information gets the same inputs, whatever else was run."""
    of = "targets=('VEEGAN grid',)"
    both = run_seed(GAUSSIANS, "smoke", tmp_path / "both", overrides=[of])
    alone = run_seed(GAUSSIANS, "smoke", tmp_path / "alone", overrides=[of, "betas=(1.0,)"])
    assert alone["VEEGAN grid"]["beta 1"] == both["VEEGAN grid"]["beta 1"]
    # A weight of next to nothing is the arm without.
    none = run_seed(GAUSSIANS, "smoke", tmp_path / "none", overrides=[of, "betas=(1e-30,)"])
    curve, twin = none["VEEGAN grid"]["beta 1e-30"]["curve"], both["VEEGAN grid"]["beta 0"]["curve"]
    assert [row["reverse KL"] for row in curve] == pytest.approx([row["reverse KL"] for row in twin], abs=1e-3)


def test_resumed(tmp_path, interrupted):
    whole = run_seed(SPIRAL, "smoke", tmp_path / "whole")
    with interrupted(35):
        run_seed(SPIRAL, "smoke", tmp_path / "broken", checkpoint_seconds=0.0)
    assert run_seed(SPIRAL, "smoke", tmp_path / "broken") == whole


def test_several_seeds_together(tmp_path):
    metrics = run_seeds(SPIRAL, "smoke", tmp_path, [0, 1], overrides=["steps=20"])
    assert len(metrics["spiral"]["beta 1"]["reverse KL"]["values"]) == 2
    assert (tmp_path / "coverage.png").is_file()


def test_generator_and_critic_both_raise_the_information():
    """Steps on the information alone, as the experiment takes them: samples come to tell their codes."""
    torch.manual_seed(0)
    generator = perceptron([4, 32, 2], batch_norm=True)
    mine = mine_fast.MINE(perceptron([4, 64, 1]), method="concat", seed=0)
    parameters = [*generator.parameters(), *mine.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    found = []
    for _ in range(300):
        z = 2 * torch.rand(256, 4) - 1
        x_fake = generator(z)
        mi_loss = mine(x_fake, z[:, 2:])
        # Beside a loss that only wants samples of size 1.
        size_loss = (x_fake.square().mean() - 1).square()
        backward_adaptively(10 * size_loss, mi_loss, generator.parameters(), mine.parameters())
        optimizer.step()
        found.append(-mi_loss.item())
    assert sum(found[:20]) / 20 < 0.3
    assert sum(found[-20:]) / 20 > 1.0
