"""Noise layers: the engine's noise is torch's in distribution, reproducible by its seed, and off in the estimate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import mine_fast
from mine_fast.native import EngineCritic


def data(rows):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 2, generator=generator)
    return x, x[:, :1] + 0.5 * torch.randn(rows, 1, generator=generator)


def noisy(x_width=2, y_width=1, width=12, input_noise=0.3):
    """The information bottleneck's critic: noise in front and behind every activation."""
    torch.manual_seed(2)
    return nn.Sequential(
        mine_fast.GaussianNoise(input_noise),
        nn.Linear(x_width + y_width, width),
        nn.ELU(),
        mine_fast.GaussianNoise(0.5),
        nn.Linear(width, width),
        nn.ELU(),
        mine_fast.GaussianNoise(0.5),
        nn.Linear(width, 1),
    )


def loss_and_gradient(mine, x, y, engine):
    """Of one step, flat: [1 + parameters]."""
    if engine == "native":
        critic = EngineCritic(mine, x.shape[1], y.shape[1])
        loss, gradient, _ = critic.engine.gradient(x.numpy(), y.numpy(), x.shape[0])
        return np.concatenate([[loss], gradient])
    mine.zero_grad()
    loss = mine(x, y)
    loss.backward()
    return torch.cat([loss.detach().reshape(1), *[p.grad.flatten() for p in mine.parameters()]]).numpy()


@pytest.mark.parametrize("input_noise", [0.0, 0.3])
def test_noise_of_the_engine_is_that_of_torch_in_distribution(input_noise):
    """Mean loss and mean gradient over many draws, each of some 200 entries within 4.5 standard errors."""
    x, y = data(64)
    draws, found = 1500, {}
    for engine in ("native", "torch"):
        mine = mine_fast.MINE(noisy(input_noise=input_noise), "mine_biased", method="concat", seed=0)
        values = []
        for draw in range(draws):
            mine.shuffle_key[1] = 0 if engine == "torch" else draw  # torch: the same pairs, noise from its generator
            mine.shuffle_key[0] = draw
            values.append(loss_and_gradient(mine, x, y, engine))
        found[engine] = np.stack(values).astype(np.float64)
    mean = {name: values.mean(0) for name, values in found.items()}
    error = np.sqrt(sum(values.var(0) for values in found.values()) / draws)
    distance = np.abs(mean["native"] - mean["torch"]) / np.maximum(error, 1e-12)
    assert distance[0] < 4
    assert distance[:-1].max() < 4.5  # the output bias has no gradient but rounding
    spread = found["native"].std(0)[:-1] / found["torch"].std(0)[:-1]
    assert spread.max() < 1.15
    # A joint and a marginal pair that share a row share the noise of its inputs, of which much cancels in the gradient.
    assert spread.min() > (0.4 if input_noise else 0.87)


def test_noise_is_the_seed_s_and_is_off_in_the_estimate():
    x, y = data(400)
    ends = []
    for seed in (3, 3, 4):
        mine = mine_fast.MINE(noisy(), method="concat", seed=seed)
        mine.optimize(x, y, iters=3, batch_size=100, engine="native")
        assert torch.equal(mine.mi(x, y), mine.mi(x, y))
        ends.append(torch.cat([p.detach().flatten() for p in mine.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_training_with_noise_ends_as_well_as_by_torch():
    x, y = data(800)
    results = [
        mine_fast.MINE(noisy(), method="concat").fit(x, y, steps=200, folds=2, engine=engine)
        for engine in ("native", "torch")
    ]
    assert results[0].mi == pytest.approx(results[1].mi, abs=0.1)
    assert results[0].mi > 0.4  # of 0.80: there is something to learn through the noise


@pytest.mark.parametrize(("std", "error"), [(-1.0, ValueError), (math.inf, ValueError), ("1", TypeError)])
def test_deviations_that_are_none(std, error):
    with pytest.raises(error, match="std must be a"):
        mine_fast.GaussianNoise(std)
