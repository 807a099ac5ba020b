"""A GAN that also encodes (ALI, BiGAN), with the information between data and code, as the MINE paper adds it.

The discriminator tells pairs (x, encoder(x)) of data from pairs (generator(z), z). At the optimum the two are alike and
the encoder undoes the generator; before it, how well it does is bounded by I(x; encoder(x)) (Belghazi et al. 2018,
section 5.2), hence

    adversarial loss - beta * I(x; encoder(x))

The encoder is stochastic (Dumoulin et al. 2017, arXiv 1606.00704): x gives a normal distribution of codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mine_fast
from mine_fast.experiments.adaptive_clipping import backward_adaptively
from mine_fast.experiments.experiment import Metrics, check_at_least
from mine_fast.experiments.gan import check_betas, discriminator_loss, note, set_rate, steps_to_look, two_optimizers
from mine_fast.experiments.networks import perceptron
from mine_fast.experiments.run import Run
from mine_fast.modules import in_mode

__all__ = ["BiGANSettings", "Encoder", "Networks", "perceptrons", "train_bigan"]


@dataclass(frozen=True)
class BiGANSettings:
    """Of an experiment with BiGANs.

    Attributes:
        steps: of generator and encoder, each after one of the discriminator.
        batch: rows per step.
        rate: of Adam, for every network.
        decay: share of the steps, the last ones, over which the rate falls linearly to 0.
        code: dimensions of the code, standard normal.
        hidden: widths of the hidden layers of every network.
        batch_norm: in generator and encoder.
        code_noise: standard deviation of the encoder's noise; 0: the encoder chooses it for each row, and can then make
            the information as large as it likes by making the noise small.
        betas: weight of the information in each arm.
        looks: how often the networks are looked at, evenly over the steps; the last look is the result.
    """

    steps: int = 10_000
    batch: int = 100
    rate: float = 1e-4
    decay: float = 0.0
    code: int = 2
    hidden: tuple[int, ...] = (400, 400)
    batch_norm: bool = True
    code_noise: float = 0.0
    betas: tuple[float, ...] = (0.0, 1.0)
    looks: int = 10

    def __post_init__(self) -> None:
        check_at_least(self, steps=1, batch=2, code=1, looks=1)
        check_betas(self.betas)


class Encoder(nn.Module):
    """[B, D] to the mean and standard deviation [B, code] of the code of each row.

    Args:
        layers: [B, D] to [B, 2 * code], or to [B, code] with a noise that is given.
        noise: standard deviation; 0: the second half of what `layers` gives, through a softplus.
    """

    def __init__(self, layers: nn.Module, noise: float = 0.0) -> None:
        super().__init__()
        self.layers = layers
        self.noise = noise

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation."""
        found: Tensor = self.layers(x)
        if self.noise:
            return found, torch.full_like(found, self.noise)
        mean, raw = found.chunk(2, 1)
        return mean, F.softplus(raw)

    def draw(self, x: Tensor) -> Tensor:
        """A code of each row."""
        mean, sd = self(x)
        return mean + sd * torch.randn_like(sd)


class Networks(NamedTuple):
    """Of a BiGAN with an information term.

    Attributes:
        generator: codes to data.
        encoder: data to codes.
        discriminator: data and codes, concatenated, to logits [B, 1].
        mine: of data and codes.
    """

    generator: nn.Module
    encoder: Encoder
    discriminator: nn.Module
    mine: mine_fast.MINE


def perceptrons(settings: BiGANSettings, width: int, last: Sequence[nn.Module] = ()) -> Networks:
    """The networks for data of a width, all perceptrons, the generator ending in layers of its own."""
    hidden, code = settings.hidden, settings.code
    generator = nn.Sequential(*perceptron([code, *hidden, width], settings.batch_norm), *last)
    outputs = code if settings.code_noise else 2 * code
    encoder = Encoder(perceptron([width, *hidden, outputs], settings.batch_norm), settings.code_noise)
    discriminator = perceptron([width + code, *hidden, 1])
    mine = mine_fast.MINE(perceptron([width + code, *hidden, 1]), method="concat")
    return Networks(generator, encoder, discriminator, mine)


def train_bigan(
    run: Run[Any], networks: Networks, beta: float, real: Callable[[int], Tensor], look: Callable[[], Metrics]
) -> list[Metrics]:
    """Train the networks in place.

    Args:
        run: whose settings are `BiGANSettings`.
        networks: on the run's device.
        beta: weight of the information.
        real: as many rows [B, D] of the data as it is asked for.
        look: what to note of the networks as they are; its numbers are logged.

    Returns:
        What was noted, with the step, `settings.looks` times or after every step.
    """
    settings = run.settings
    generator, encoder, discriminator, mine = networks
    shared, of_critic = [*generator.parameters(), *encoder.parameters()], list(mine.parameters())
    discriminator_optimizer, generator_optimizer = two_optimizers(
        settings.rate, discriminator.parameters(), [*shared, *of_critic]
    )
    looks = steps_to_look(settings.steps, settings.looks)
    history: list[Metrics] = []
    for step in run.loop(
        settings.steps,
        generator=generator,
        encoder=encoder,
        discriminator=discriminator,
        mine=mine,
        discriminator_optimizer=discriminator_optimizer,
        generator_optimizer=generator_optimizer,
        history=history,
    ):
        set_rate(settings.rate, settings.decay, step / settings.steps, discriminator_optimizer, generator_optimizer)
        x = real(settings.batch)
        code = encoder.draw(x)
        z = torch.randn(settings.batch, settings.code, device=run.device)
        pairs = torch.cat([torch.cat([x, code], 1), torch.cat([generator(z), z], 1)])

        of_data, of_generator = discriminator(pairs.detach()).chunk(2)
        loss = discriminator_loss(of_data, of_generator)
        discriminator_optimizer.zero_grad()
        loss.backward()
        discriminator_optimizer.step()

        of_data, of_generator = discriminator(pairs).chunk(2)
        adversarial_loss = discriminator_loss(of_generator, of_data)  # each taken for the other
        if beta:
            backward_adaptively(adversarial_loss, beta * mine(x, code), shared, of_critic)
        else:
            generator_optimizer.zero_grad()
            adversarial_loss.backward(inputs=shared)
        generator_optimizer.step()

        if step + 1 in looks:
            with in_mode(generator, False), in_mode(encoder, False), torch.no_grad():
                noted = look()
            note(run, history, step + 1, noted)
    return history
