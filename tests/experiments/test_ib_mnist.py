"""The bottleneck on MNIST: the information of known mixtures, the sign of MINE's term, and a run end to end."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

import mine_fast
from mine_fast.experiments import ib_mnist
from mine_fast.experiments.ib_mnist import (
    ARMS,
    EXPERIMENT,
    entropy,
    rate_above_normal,
    sampled_information,
)
from mine_fast.experiments.run import drawing_from
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


SMALL = dataclasses.replace(
    EXPERIMENT.presets["smoke"], rows=300, test_rows=200, described=100, hidden=16, codes=4, critic_width=16, epochs=2
)


@pytest.fixture
def synthetic_digits(monkeypatch):
    """Images whose label is where they are bright; those of the test split are labelled one further."""

    def images_of(split):
        generator = torch.Generator().manual_seed(len(split))
        labels = torch.randint(10, (400,), generator=generator)
        images = 40 * torch.rand(400, 28, 28, generator=generator)
        images[torch.arange(400), 2 + 2 * labels] += 200
        return images.byte(), (labels + (split == "test")) % 10

    monkeypatch.setattr("mine_fast.experiments.digits.mnist", images_of)


def objective_of(arm, beta=0.5):
    """The loss of an arm, its network and critic, and a batch."""
    torch.manual_seed(0)
    settings = dataclasses.replace(SMALL, beta=beta)
    net = ib_mnist.Bottleneck(settings) if arm in ib_mnist.STOCHASTIC else ib_mnist.Classifier(settings)
    mine = mine_fast.MINE(ib_mnist.make_critic(settings), method="concat", seed=1)
    objective = ib_mnist.Objective(settings, arm, net, mine, torch.Generator().manual_seed(0))
    return objective, net, mine, torch.randn(256, 784), torch.randint(10, (256,))


def gradients_of(loss, module):
    found = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


def test_the_encoder_goes_against_its_critic():
    """The gradient of the MINE arm: minus beta times that of the loss for the encoder, that itself for the critic."""
    objective, net, mine, x, y = objective_of("MINE")
    torch.manual_seed(5)
    loss = objective(x, y)
    encoder, critic = gradients_of(loss, net.encoder), gradients_of(loss, mine)
    torch.manual_seed(5)
    logits, z, _, _ = net(x)
    of_labels = gradients_of(nn.functional.cross_entropy(logits, y), net.encoder)
    mine.shuffle_key[1] -= 1  # the same pairs once more
    mine.log_ema.fill_(-math.inf)
    with drawing_from(torch.Generator().manual_seed(0)):
        information_loss = mine(x, z)
    torch.testing.assert_close(encoder - of_labels, -0.5 * gradients_of(information_loss, net.encoder))
    torch.testing.assert_close(critic, gradients_of(information_loss, mine))
    assert float((encoder - of_labels).norm()) > 1e-4 * float(of_labels.norm())


def test_what_each_arm_minimises():
    """Beside the cross-entropy: nothing, the divergence of the codes, less entropy, other labels."""

    def loss(arm, beta=0.5):
        objective, _, _, x, y = objective_of(arm, beta)
        torch.manual_seed(5)
        return objective(x, y)

    def forward(arm):
        _, net, _, x, y = objective_of(arm)
        torch.manual_seed(5)
        return net(x), y

    (logits, _, mean, sd), y = forward("VIB")
    plain = nn.functional.cross_entropy(logits, y)
    torch.testing.assert_close(loss("stochastic, beta 0"), plain)
    torch.testing.assert_close(loss("VIB"), plain + 0.5 * rate_above_normal(mean, sd))
    logits, y = forward("baseline")
    plain, log_p = nn.functional.cross_entropy(logits, y), logits.log_softmax(1)
    torch.testing.assert_close(loss("baseline"), plain)
    torch.testing.assert_close(loss("confidence penalty"), plain + SMALL.penalty * (log_p.exp() * log_p).sum(1).mean())
    torch.testing.assert_close(loss("label smoothing"), 0.9 * plain - 0.1 * log_p.mean())


@pytest.mark.usefixtures("synthetic_digits")
def test_the_arms_with_a_beta_of_nothing_are_their_control(tmp_path):
    """The same weights, batches and codes: the critic's noise and shuffles are its own."""
    arms = "arms=('stochastic, beta 0','VIB','MINE')"
    metrics = run(tmp_path, arms, "beta=0.0")
    control, vib, mine = ([one["error"], one["averaged error"], one["noise sd"]] for one in metrics.values())
    assert control == vib == mine
    assert run(tmp_path / "other", arms, "beta=1.0")["MINE"]["noise sd"] != mine[2]


def run(folder, *overrides):
    fields = ("rows", "test_rows", "described", "hidden", "codes", "critic_width", "epochs")
    return run_seed(
        EXPERIMENT, "smoke", folder, overrides=[*(f"{name}={getattr(SMALL, name)}" for name in fields), *overrides]
    )


@pytest.mark.usefixtures("synthetic_digits")
def test_errors_are_of_test_images_and_dropout_and_smoothing_are_not_idle(tmp_path):
    metrics = run(tmp_path, "arms=baseline,dropout,label smoothing", "epochs=12", "hidden=32", "rate=1e-2")
    assert metrics["baseline"]["error"] > 95  # all but none of the labels that it was taught
    seen = set()
    for arm in metrics.values():
        seen.add(tuple(row["averaged error"] for row in arm["curve"]))
    assert len(seen) == 3


@pytest.mark.usefixtures("synthetic_digits")
def test_the_rate_falls_every_second_epoch_and_noise_is_measured_against_the_signal(tmp_path, monkeypatch):
    rates, step = [], torch.optim.Adam.step

    def noting(self, *rest):
        rates.append(self.param_groups[0]["lr"])
        assert net_in_training()
        return step(self, *rest)

    nets, made = [], ib_mnist.Bottleneck.__init__

    def kept(self, settings):
        made(self, settings)
        nets.append(self)

    def net_in_training():
        return nets[0].training

    monkeypatch.setattr(torch.optim.Adam, "step", noting)
    monkeypatch.setattr(ib_mnist.Bottleneck, "__init__", kept)
    metrics = run(tmp_path, "arms=VIB", "epochs=5", "decay=0.5", "rate=0.01")["VIB"]
    per_epoch = -(-SMALL.rows // SMALL.batch)
    assert rates[::per_epoch] == pytest.approx([0.01, 0.01, 0.005, 0.005, 0.0025])
    torch.manual_seed(3)
    mean, sd = 4 * torch.randn(50, 4), torch.full((50, 4), 0.5)
    monkeypatch.setattr(nets[0], "encode", lambda x: (mean, sd))
    found = ib_mnist.described(nets[0], None, torch.zeros(50, 784))
    assert found["noise to signal"] == pytest.approx(0.5 / 4, rel=0.1)
    assert metrics["noise to signal"] > 0


def test_arms_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match=r"arms must be some of 'baseline', .* each once, got \('vib',\)"):
        EXPERIMENT.settings("smoke", ["arms=vib"])
    with pytest.raises(ValueError, match="each once"):
        EXPERIMENT.settings("smoke", ["arms=VIB,VIB"])
    assert EXPERIMENT.settings("smoke", ["arms=MINE, VIB"]).arms == ("MINE", "VIB")


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
