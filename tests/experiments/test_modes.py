"""Targets whose modes are known, and what is counted on known samples."""

from __future__ import annotations

import math

import pytest
import torch

from mine_fast.experiments.gan_plane import target_of
from mine_fast.experiments.modes import coverage, grid, kl_from_uniform, spiral

TARGETS = ("VEEGAN grid", "mine-pytorch grid", "spiral")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


def test_the_grids():
    veegan, peer = target_of("VEEGAN grid"), target_of("mine-pytorch grid")
    # Spacing 2 and sigma 0.05, in units of 4.
    assert veegan.points.unique().tolist() == [-1, -0.5, 0, 0.5, 1]
    assert veegan.sigma == 0.0125
    # 3 * 1.41 sigma apart, the whole of standard deviation 1.
    assert (peer.points[1] - peer.points[0]).norm() / peer.sigma == pytest.approx(4.23)
    assert peer.sample(200_000).std() == pytest.approx(1, abs=0.01)
    with pytest.raises(ValueError, match=r"targets must be of VEEGAN grid, .*, got 'ring'"):
        target_of("ring")


def test_the_spiral_is_even_along_its_length():
    target = spiral()
    assert target.count == 50
    steps = (target.points[1:2000] - target.points[:1999]).norm(dim=1)
    # Even from the first quarter of the length on; its innermost turn is a little denser.
    assert steps[500:].max() / steps[500:].min() < 1.05
    assert target.points.norm(dim=1).max() <= 1
    assert torch.equal(target.modes.bincount(), torch.full((50,), 80))
    # Two arms, each the other turned by half a turn.
    assert torch.equal(target.points[2000:], -target.points[:2000])


@pytest.mark.parametrize("name", TARGETS)
def test_a_perfect_sampler(name):
    target = target_of(name)
    found = coverage(target.sample(20_000), target)
    assert found["modes"] == target.count
    # (K - 1) / (2 N) on average; in the peer's grid and the spiral a sample may be nearer to a neighbouring mode.
    bias = (target.count - 1) / 40_000
    assert 0 < found["reverse KL"] < 4 * bias + 0.002
    if name == "VEEGAN grid":
        # Rayleigh: within 3 sigma of the centre, in the plane.
        assert found["share"] == pytest.approx(1 - math.exp(-4.5), abs=4 * (0.011 / 20_000) ** 0.5)
    if name == "spiral":  # one dimension across the curve
        assert found["share"] == pytest.approx(0.9973, abs=0.003)


def test_known_samples():
    target = grid(2.0, 0.05)
    # Two at one mode, one at another, one outside 3 sigma of its mode.
    samples = torch.tensor([[-4.0, -4.0], [-4.0, -3.86], [4.0, 4.0], [0.16, 0.0]])
    found = coverage(samples, target)
    assert found["modes"] == 2
    assert found["share"] == 0.75
    # Shares 1/2, 1/4, 1/4 of 25.
    assert found["reverse KL"] == pytest.approx(math.log(25) - 1.5 * math.log(2))


def test_one_mode_is_log_k_away():
    target = grid(2.0, 0.05)
    assert coverage(target.points[7:8].repeat(100, 1), target) == {
        "modes": 1,
        "share": 1.0,
        "reverse KL": pytest.approx(math.log(25)),
    }
    assert kl_from_uniform(torch.tensor([0, 3, 0])) == pytest.approx(math.log(3))
