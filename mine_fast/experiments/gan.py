"""A GAN with the information between its samples and a part of their input, as the MINE paper adds it.

The generator reads noise and a code. Where it forgets modes it also forgets codes, so that

    adversarial loss - beta * I(generator(noise, code); code)

asks it for more of them (Belghazi et al. 2018, section 5.1: the information is a lower bound on the samples' entropy).
MINE's loss is minus the information, and both its critic and the generator bring it down: one sign, one optimizer step.
With beta = 0 the same networks get the same inputs in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mine_fast
from mine_fast.experiments.adaptive_clipping import backward_adaptively
from mine_fast.experiments.experiment import Metrics, check_at_least
from mine_fast.experiments.run import Run, seeded
from mine_fast.modules import in_mode

__all__ = ["GANSettings", "Networks", "discriminator_loss", "generator_loss", "label", "sample", "train_gan"]


@dataclass(frozen=True)
class GANSettings:
    """Of an experiment with GANs.

    Attributes:
        steps: of the generator, each after one of the discriminator.
        batch: rows per step.
        rate: of Adam, for every network.
        decay: share of the steps, the last ones, over which the rate falls linearly to 0.
        noise: dimensions of the noise, uniform in [-1, 1].
        code: dimensions of the code, uniform in [-1, 1].
        betas: weight of the information in each arm.
        looks: how often samples are looked at, evenly over the steps; the last look is the result.
        samples: per look.
    """

    steps: int = 10_000
    batch: int = 100
    rate: float = 1e-4
    decay: float = 0.0
    noise: int = 8
    code: int = 2
    betas: tuple[float, ...] = (0.0, 1.0)
    looks: int = 10
    samples: int = 2500

    def __post_init__(self) -> None:
        check_at_least(self, steps=1, batch=2, noise=1, code=1, looks=1, samples=1)
        check_betas(self.betas)


class Networks(NamedTuple):
    """Of a GAN with an information term.

    Attributes:
        generator: [B, noise + code] to samples.
        discriminator: samples to logits [B, 1].
        mine: of samples and codes.
    """

    generator: nn.Module
    discriminator: nn.Module
    mine: mine_fast.MINE


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Mean cross entropy of the logits of real and of generated samples."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """The non-saturating loss (Goodfellow et al. 2014) of the logits of generated samples."""
    return F.softplus(-fake).mean()


def two_optimizers(
    rate: float, of_discriminator: Iterable[nn.Parameter], of_others: Iterable[nn.Parameter]
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """One for the discriminator, one for what is trained against it."""
    first, second = (
        torch.optim.Adam(parameters, lr=rate, betas=(0.5, 0.999), fused=True)
        for parameters in (of_discriminator, of_others)
    )
    return first, second


def set_rate(rate: float, decay: float, done: float, *optimizers: torch.optim.Optimizer) -> None:
    """Give optimizers the rate of a moment: constant, then over the last share of the training linearly down to 0.

    Args:
        rate: before it falls.
        decay: that share.
        done: of the training.
        optimizers: that get it.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (1 - done) / decay) if decay else rate


def steps_to_look(steps: int, looks: int) -> set[int]:
    """So many steps, evenly, the last among them."""
    return {round(steps * (i + 1) / looks) for i in range(looks)}


def note(run: Run[Any], history: list[Metrics], step: int, noted: Metrics) -> None:
    """Keep what was noted after a step, and log its numbers."""
    history.append({"step": step, **noted})
    run.log(step, **{name: value for name, value in noted.items() if isinstance(value, (int, float))})


def label(beta: float) -> str:
    """The name of an arm."""
    return f"beta {beta:g}"


def check_betas(betas: Sequence[float]) -> None:
    """Refuse no arm, and arms whose names are the same."""
    if not betas or len({label(beta) for beta in betas}) < len(betas):
        raise ValueError(f"betas must be one or more that differ in six digits, got {betas!r}")


def inputs(settings: GANSettings, rows: int, device: torch.device) -> Tensor:
    """Noise, then code: [rows, noise + code]."""
    return 2 * torch.rand(rows, settings.noise + settings.code, device=device) - 1


@torch.no_grad()
def sample(generator: nn.Module, settings: GANSettings, rows: int, device: torch.device) -> Tensor:
    """What a generator in evaluation mode makes of inputs that are the same at every call."""
    with seeded(0), in_mode(generator, False):
        return torch.cat([generator(inputs(settings, min(1000, rows - at), device)) for at in range(0, rows, 1000)])


def train_gan(
    run: Run[Any], networks: Networks, beta: float, real: Callable[[int], Tensor], look: Callable[[], Metrics]
) -> list[Metrics]:
    """Train the networks in place.

    Args:
        run: whose settings are `GANSettings`.
        networks: on the run's device.
        beta: weight of the information.
        real: as many samples of the data as it is asked for.
        look: what to note of the generator as it is; its numbers are logged.

    Returns:
        What was noted, with the step, `settings.looks` times or after every step.
    """
    settings = run.settings
    generator, discriminator, mine = networks
    of_generator, of_critic = list(generator.parameters()), list(mine.parameters())
    # The critic goes where the generator goes: its parameters belong with the generator's.
    discriminator_optimizer, generator_optimizer = two_optimizers(
        settings.rate, discriminator.parameters(), [*of_generator, *of_critic]
    )
    looks = steps_to_look(settings.steps, settings.looks)
    history: list[Metrics] = []
    for step in run.loop(
        settings.steps,
        generator=generator,
        discriminator=discriminator,
        mine=mine,
        discriminator_optimizer=discriminator_optimizer,
        generator_optimizer=generator_optimizer,
        history=history,
    ):
        set_rate(settings.rate, settings.decay, step / settings.steps, discriminator_optimizer, generator_optimizer)
        x = real(settings.batch)
        z = inputs(settings, settings.batch, run.device)
        x_fake = generator(z)

        loss = discriminator_loss(discriminator(x), discriminator(x_fake.detach()))
        discriminator_optimizer.zero_grad()
        loss.backward()
        discriminator_optimizer.step()

        adversarial_loss = generator_loss(discriminator(x_fake))
        if beta:
            mi_loss = mine(x_fake, z[:, settings.noise :])
            backward_adaptively(adversarial_loss, beta * mi_loss, of_generator, of_critic)
        else:
            generator_optimizer.zero_grad()
            adversarial_loss.backward(inputs=of_generator)
        generator_optimizer.step()

        if step + 1 in looks:
            note(run, history, step + 1, look())
    return history
