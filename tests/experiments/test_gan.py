"""The training loops of GANs and BiGANs, on the smallest networks: what each network is given, which way it goes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import mine_fast
from mine_fast.experiments import bigan, gan
from mine_fast.experiments.gan_plane import target_of
from mine_fast.experiments.networks import perceptron
from mine_fast.experiments.run import Run, seeded


def data(rows):
    return target_of("VEEGAN grid").sample(rows)


def small_gan(**settings):
    # Noise and code of different widths, so that neither can stand in for the other.
    settings = gan.GANSettings(**{"steps": 8, "batch": 32, "noise": 5, "code": 2, "rate": 2e-3, "looks": 2} | settings)
    generator = perceptron([settings.noise + settings.code, 32, 2], batch_norm=True)
    mine = mine_fast.MINE(perceptron([2 + settings.code, 32, 1]), method="concat")
    return gan.train_gan, settings, gan.Networks(generator, perceptron([2, 32, 1]), mine)


def small_bigan(**settings):
    settings = bigan.BiGANSettings(**{"steps": 8, "batch": 32, "rate": 2e-3, "hidden": (32,), "looks": 2} | settings)
    return bigan.train_bigan, settings, bigan.perceptrons(settings, 2)


@pytest.fixture(params=[small_gan, small_bigan])
def trained(request, tmp_path):
    """Trains new networks from the same seed, after `watch` has put hooks on them."""
    numbers = itertools.count()

    def trained(beta, watch=lambda networks: None, **settings):
        with seeded(0):
            train, settings, networks = request.param(**settings)
            watch(networks)
            run = Run(settings, 0, tmp_path / str(next(numbers)), progress=False)
            train(run, networks, beta, data, dict)

    return trained


def test_the_loss_is_the_cross_entropy():
    real, fake = torch.randn(2, 20, 1)
    ones = torch.ones(20, 1)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(gan.discriminator_loss(real, fake), entropy(real, ones) + entropy(fake, 0 * ones))
    torch.testing.assert_close(gan.generator_loss(fake), entropy(fake, ones))


def test_a_generator_that_is_found_out_still_has_a_gradient():
    """The loss that does not saturate: of samples that the discriminator is sure of, it is the size of their logits."""
    fake = torch.full((4, 1), -50.0, requires_grad=True)
    loss = gan.generator_loss(fake)
    loss.backward()
    assert loss.item() == pytest.approx(50)
    torch.testing.assert_close(fake.grad, torch.full((4, 1), -0.25))
    assert gan.generator_loss(torch.full((4, 1), 50.0)).item() == pytest.approx(0, abs=1e-6)


def test_generator_and_encoder_want_to_be_taken_for_the_other(tmp_path, monkeypatch):
    """What a BiGAN's generator and encoder bring down, where the discriminator is sure: it does not saturate either."""

    class Sure(torch.nn.Linear):
        def forward(self, pairs):
            # Data first. The weights have no effect, but are there to be optimised.
            return 50 * torch.tensor([1.0, -1]).repeat_interleave(len(pairs) // 2)[:, None] + 0 * super().forward(pairs)

    def keep(adversarial_loss, *others):
        found.append(adversarial_loss.item())
        backward(adversarial_loss, *others)

    found, backward = [], bigan.backward_adaptively
    monkeypatch.setattr(bigan, "backward_adaptively", keep)
    _, settings, networks = small_bigan(steps=1, looks=1)
    run = Run(settings, 0, tmp_path, progress=False)
    bigan.train_bigan(run, networks._replace(discriminator=Sure(4, 1)), 1.0, data, dict)
    assert found == [pytest.approx(100)]


def test_the_information_rises(trained):
    """A term with the wrong sign drives critic and generator to where the bound is far below 0."""
    found = []

    def watch(networks):
        networks.mine.register_forward_hook(lambda module, given, loss: found.append(-loss.item()))

    trained(1.0, watch, steps=100)
    assert len(found) == 100
    assert sum(found[-20:]) / 20 > 0.2  # 0.4 to 0.7, of six seeds


def test_the_information_is_that_of_sample_and_code(trained):
    """Not of the noise: what the critic is given is what the other networks were given and made."""
    codes, samples, pairs = [], [], []

    def watch(networks):
        if isinstance(networks, gan.Networks):
            networks.generator.register_forward_hook(lambda module, given, made: samples.append(made))
            networks.generator.register_forward_hook(lambda module, given, made: codes.append(given[0][:, 5:]))
        else:
            # The first half are data, each with its code.
            networks.discriminator.register_forward_pre_hook(lambda module, given: samples.append(given[0][:32, :2]))
            networks.discriminator.register_forward_pre_hook(lambda module, given: codes.append(given[0][:32, 2:]))
        networks.mine.register_forward_pre_hook(lambda module, given: pairs.append(given))

    trained(1.0, watch, steps=1, looks=1)
    ((x, code),) = pairs
    torch.testing.assert_close(x, samples[0], rtol=0, atol=0)
    torch.testing.assert_close(code, codes[0], rtol=0, atol=0)


def test_a_weight_of_next_to_nothing_is_the_arm_without(trained):
    """Both are given the same data, codes and noise, of which all reach the discriminator."""
    arms = {}
    for beta in (0.0, 1e-30):
        found = arms[beta] = []

        def watch(networks, found=found):
            networks.discriminator.register_forward_pre_hook(lambda module, given: found.append(given[0].detach()))

        trained(beta, watch)
    assert len(arms[0.0]) == len(arms[1e-30]) >= 16
    # Gradients that are computed in another order differ in the last digits.
    for one, other in zip(*arms.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_rate_without_decay_stays():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    for done in (0.0, 0.5, 0.999, 1.0):
        gan.set_rate(0.1, 0.0, done, optimizer)
        assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_rate_falls_linearly_over_the_last_share():
    optimizers = [torch.optim.SGD([torch.zeros(1)], lr=1.0) for _ in range(2)]
    for done, rate in ((0.0, 0.1), (0.5, 0.1), (0.75, 0.1), (0.8, 0.08), (0.9, 0.04), (1.0, 0.0)):
        gan.set_rate(0.1, 0.25, done, *optimizers)
        assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == 2 * [pytest.approx(rate)]


@pytest.mark.parametrize(("decay", "last"), [(0.0, [1, 1, 1, 1]), (0.5, [1, 0.75, 0.5, 0.25])])
def test_every_step_has_its_rate(trained, decay, last):
    """Of both optimizers."""
    found = []
    handle = register_optimizer_step_post_hook(
        lambda optimizer, args, kwargs: found.append(float(optimizer.param_groups[0]["lr"]))
    )
    try:
        trained(1.0, decay=decay)
    finally:
        handle.remove()
    rates = [2e-3 * share for share in [1, 1, 1, 1, *last]]
    assert found[::2] == found[1::2] == pytest.approx(rates)


def test_samples_are_of_a_generator_in_evaluation_mode():
    """With batch normalisation a row would else depend on those beside it, and looking would change the generator."""
    torch.manual_seed(0)
    _, settings, networks = small_gan()
    before = {name: value.clone() for name, value in networks.generator.state_dict().items()}
    given = []
    networks.generator.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    samples = gan.sample(networks.generator, settings, 1200, torch.device("cpu"))
    assert samples.shape == (1200, 2)
    assert all(module.training for module in networks.generator.modules())  # as it was
    for name, value in networks.generator.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    inputs = torch.cat(given[:2])
    torch.testing.assert_close(samples, networks.generator.eval()(inputs))
    torch.testing.assert_close(samples, gan.sample(networks.generator, settings, 1200, torch.device("cpu")))
    assert inputs.amin() < -0.99
    assert inputs.amax() > 0.99


def test_a_bigan_is_looked_at_in_evaluation_mode(tmp_path):
    _, settings, networks = small_bigan()

    def modes():
        return [part.training for network in (networks.generator, networks.encoder) for part in network.modules()]

    def look():
        looked_at.append(modes())
        assert not torch.is_grad_enabled()
        return {}

    looked_at: list[list[bool]] = []
    history = bigan.train_bigan(Run(settings, 0, tmp_path, progress=False), networks, 1.0, data, look)
    assert [row["step"] for row in history] == [4, 8]
    assert len(looked_at) == 2
    assert not any(itertools.chain(*looked_at))
    assert all(modes())  # and training goes on in its own
