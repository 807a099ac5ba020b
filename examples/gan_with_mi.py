"""Add an information term to a GAN of your own: the lines marked new are all that it takes.

The generator reads noise and a code. A generator that drops modes also loses its code on the way, so the information
between samples and codes, I(x_fake; code), asks it for more of them. Here, a GAN on four Gaussians:

    python examples/gan_with_mi.py
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.nn.functional import softplus

import mine_fast
from mine_fast.experiments.adaptive_clipping import backward_adaptively


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


def train(steps: int, beta: float = 1.0, seed: int = 0) -> nn.Module:
    """A generator of [B, noise 2 + code 2] to samples [B, 2]."""
    torch.manual_seed(seed)
    generator, discriminator = perceptron(4, 2), perceptron(2, 1)
    mine = mine_fast.MINE(perceptron(2 + 2, 1), method="concat")  # new: a critic on [sample, code]
    discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    parameters = [*generator.parameters(), *mine.parameters()]  # new: the critic goes where the generator goes
    generator_optimizer = torch.optim.Adam(parameters, lr=1e-3, betas=(0.5, 0.999))
    for step in range(steps):
        x = real(128)
        noise, code = torch.randn(128, 2), 2 * torch.rand(128, 2) - 1
        x_fake = generator(torch.cat([noise, code], 1))

        discriminator_loss = softplus(-discriminator(x)).mean() + softplus(discriminator(x_fake.detach())).mean()
        discriminator_optimizer.zero_grad()
        discriminator_loss.backward()
        discriminator_optimizer.step()

        generator_loss = softplus(-discriminator(x_fake)).mean()
        mi_loss = mine(x_fake, code)  # new: minus the information, in nats
        # new, for generator_loss.backward(): the gradient of the information is at most as long as the other.
        backward_adaptively(generator_loss, beta * mi_loss, generator.parameters(), mine.parameters())
        generator_optimizer.step()
        if (step + 1) % 500 == 0:
            print(f"step {step + 1}: I(x_fake; code) about {-mi_loss.item():.2f} nats on this batch")
    return generator


def real(rows: int) -> torch.Tensor:
    """Four Gaussians, [rows, 2]."""
    centres = torch.tensor([[-2.0, -2.0], [-2.0, 2.0], [2.0, -2.0], [2.0, 2.0]])
    return centres[torch.randint(4, (rows,))] + 0.2 * torch.randn(rows, 2)


def modes(generator: nn.Module, rows: int = 1000) -> list[int]:
    """Samples near each of the four."""
    with torch.no_grad():
        x = generator(torch.cat([torch.randn(rows, 2), 2 * torch.rand(rows, 2) - 1], 1))
    near = (x.abs() - 2).norm(dim=1) < 0.8
    return torch.bincount((2 * (x[:, 0] > 0) + (x[:, 1] > 0))[near], minlength=4).tolist()


if __name__ == "__main__":
    trained = train(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
    print("of 1000 samples near each of the four Gaussians:", modes(trained))
