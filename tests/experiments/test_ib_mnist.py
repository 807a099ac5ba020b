"""The bottleneck on MNIST: the information of known mixtures, the sign of MINE's term, and a run end to end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import mine_fast
from mine_fast.experiments.ib_mnist import (
    ARMS,
    EXPERIMENT,
    entropy,
    rate_above_normal,
    reversed_gradient,
    sampled_information,
)
from mine_fast.experiments.runner import run_seed


def codes_of(mean, sd, repeats, seed=0):
    """Centres [C, K] as `repeats` rows each, with a code of every row."""
    mean, sd = (rows.repeat(repeats, 1) for rows in (mean, sd))
    z = mean + sd * torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
    return z, mean, sd


def test_the_information_of_centres_far_apart_is_all_of_it():
    mean = 100.0 * torch.eye(50, 64)
    assert sampled_information(*codes_of(mean, torch.ones(50, 64), 1)) == pytest.approx(math.log(50), abs=1e-9)


def test_the_information_of_one_centre_is_none():
    assert sampled_information(*codes_of(torch.ones(1, 8), 0.3 * torch.ones(1, 8), 200)) == pytest.approx(0, abs=1e-9)


def test_the_information_of_two_centres_by_integration():
    mean, sd = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5], [1.5]])
    z = np.linspace(-12, 14, 200_001)
    normal = [np.exp(-0.5 * ((z - m) / s) ** 2) / s / math.sqrt(2 * math.pi) for m, s in ((0, 0.5), (1, 1.5))]
    mixture = (normal[0] + normal[1]) / 2
    truth = np.trapezoid(sum(n * np.log(n.clip(1e-300) / mixture) for n in normal) / 2, z)
    found = sampled_information(*codes_of(mean, sd, 1000))
    # 2,000 draws of a log-ratio whose standard deviation is below 0.8.
    assert found == pytest.approx(truth, abs=4 * 0.8 / 2000**0.5)
    assert truth > 0.15


def test_what_regularises():
    mean, sd = torch.randn(40, 6), torch.rand(40, 6) + 0.1
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(normal(mean, sd), normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(rate_above_normal(mean, sd), divergence)
    logits = 3 * torch.randn(40, 10)
    torch.testing.assert_close(entropy(logits), torch.distributions.Categorical(logits=logits).entropy().mean())


def test_the_encoder_goes_against_its_critic():
    """One gradient step on the loss as the experiment writes it: the critic's bound rises, the code holds less."""
    torch.manual_seed(0)
    x = torch.randn(512, 4)
    encoder = nn.Linear(4, 4)
    critic = nn.Sequential(nn.Linear(8, 64), nn.ELU(), nn.Linear(64, 1))
    mine = mine_fast.MINE(critic, method="concat", seed=1)
    warm_up = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for _ in range(200):
        warm_up.zero_grad()
        mine(x, encoder(x).detach() + torch.randn(512, 4)).backward()
        warm_up.step()
    z = encoder(x) + torch.randn(512, 4)
    critic.zero_grad()
    mine(x, reversed_gradient(z, 0.5)).backward()
    bound = mine.mi(x, z)
    with torch.no_grad():
        noise = z - encoder(x)
        for parameter in encoder.parameters():
            parameter -= 0.1 * parameter.grad
        assert mine.mi(x, encoder(x) + noise) < bound
        for parameter in critic.parameters():
            parameter -= 1e-3 * parameter.grad
        assert mine.mi(x, z) > bound


@pytest.mark.usefixtures("real_mnist")
def test_smoke(tmp_path):
    metrics = run_seed(EXPERIMENT, "smoke", tmp_path, overrides=["beta=0.03"])
    assert list(metrics) == list(ARMS)
    for result in metrics.values():
        assert len(result["curve"]) == 2
        # A thousand images, two passes: far from chance (90%), far from good.
        assert 10 < result["averaged error"] < 70
        assert 10 < result["error"] < 70
    free, vib, mine = (metrics[arm] for arm in ("stochastic, beta 0", "VIB", "MINE"))
    for result in (free, vib, mine):
        assert 0 < result["I(X;Z), exact"] < math.log(1000) + 1e-9
        assert result["I(X;Z), exact"] < result["I(X;Z), VIB bound"]
    assert vib["I(X;Z), exact"] < free["I(X;Z), exact"] - 0.5
    assert vib["noise to signal"] > free["noise to signal"]
    assert mine["I(X;Z), MINE"] < mine["I(X;Z), exact"] + 0.1
    assert (tmp_path / "curves.png").is_file()


@pytest.mark.usefixtures("real_mnist")
def test_resumed(tmp_path, interrupted):
    arms = ["arms=('MINE',)"]
    whole = run_seed(EXPERIMENT, "smoke", tmp_path / "whole", overrides=arms)
    with interrupted(15):  # in the second pass over ten batches
        run_seed(EXPERIMENT, "smoke", tmp_path / "broken", overrides=arms, checkpoint_seconds=0.0)
    assert run_seed(EXPERIMENT, "smoke", tmp_path / "broken", overrides=arms) == whole
