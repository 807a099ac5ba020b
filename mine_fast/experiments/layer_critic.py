"""The critic of a layer of the information plane, which tells the input that noisy activations come from.

T(t, x) = psi(t) . phi(x) + a(x) on t in units of the noise, trained by InfoNCE on all pairs of a batch and read by the
posterior over all inputs that its scores make.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import mine_fast
from mine_fast.experiments.experiment import Metrics

__all__ = ["BITS", "Channel", "CriticSettings", "estimated_information", "make_critic", "train_critic"]

BITS = 1 / math.log(2)


@dataclass(frozen=True)
class CriticSettings:
    """Of the critics and their training.

    Attributes:
        passes: of a layer's critic over the inputs at every reading, from where it was at the one before.
        critic_batch: inputs per step of it.
        critic_rate: of its perceptrons, at its height.
        table_rate: of the vectors that it learns of every input.
        psi_width: of the two hidden layers that read t.
        phi_width: of the hidden layer that reads x.
        outputs: the length of psi and phi.
    """

    passes: int = 60
    critic_batch: int = 512
    critic_rate: float = 1e-2
    table_rate: float = 0.01
    psi_width: int = 64
    phi_width: int = 256
    outputs: int = 16


class InputTower(nn.Module):
    """phi(x) and a(x) of an input that is named by its number: a learned vector of each plus a perceptron of its bits.

    a(x) = -|phi(x)|^2 / 2 + what is learned: a score is, up to a function of t, half the squared distance of psi(t) and
    phi(x). Where a layer spreads over 50 times its noise, a(x) has to go below -1000, which it would learn too late.

    Args:
        x: [N, 12].
        hidden: width of the perceptron, which reads the bits and their products.
        outputs: the length of phi.
    """

    bits: Tensor

    def __init__(self, x: Tensor, hidden: int, outputs: int) -> None:
        super().__init__()
        first, second = torch.triu_indices(x.shape[1], x.shape[1], offset=1)
        self.register_buffer("bits", torch.cat([x, x[:, first] * x[:, second]], 1), persistent=False)
        self.table = nn.Embedding(len(x), outputs + 1)
        last = nn.Linear(hidden, outputs + 1)
        self.perceptron = nn.Sequential(nn.Linear(self.bits.shape[1], hidden), nn.SiLU(), last)
        with torch.no_grad():
            self.table.weight *= 0.1
            last.weight *= 0.1

    def forward(self, numbers: Tensor) -> Tensor:
        """[B, outputs + 1] of numbers [B, 1]."""
        rows = numbers[:, 0].long()
        phi, offset = (self.table(rows) + self.perceptron(self.bits[rows])).split([self.table.embedding_dim - 1, 1], 1)
        return torch.cat([phi, offset - phi.square().sum(1, keepdim=True) / 2], 1)


class ActivationTower(nn.Module):
    """psi(t) of a layer's noisy activations: a perceptron of t in units of the noise and of waves of it.

    Clusters a few noises wide lie hundreds of noises apart where activations grow. Units of a first layer that reads t
    alone have their kinks near 0 and are straight lines over most of that; waves, from the spread of t down to the
    noise, tell places apart everywhere. A linear map of t is added: where phi is the centres, it is all that is needed.

    Args:
        width: of the layer.
        hidden: of the two hidden layers.
        outputs: the length of psi.
    """

    OCTAVES = 6
    #: Size of the waves in units of the spread of t, beside which they have to be seen.
    AMPLITUDE = 0.4

    spread: Tensor
    frequencies: Tensor

    def __init__(self, width: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(1, self.OCTAVES + 1), persistent=False)
        self.register_buffer("spread", torch.ones(()))
        last = nn.Linear(hidden, outputs + 1)
        self.of_t = nn.Linear(width, hidden)
        self.of_waves = nn.Linear(2 * self.OCTAVES * width, hidden)
        self.straight = nn.Linear(width, outputs + 1, bias=False)
        self.perceptron = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last)
        with torch.no_grad():
            last.weight *= 0.1
            self.straight.weight *= 0.1

    def fit_spread(self, t: Tensor) -> None:
        """Take the scale of the waves from activations [N, width]."""
        self.spread.copy_(t.std(0).mean())

    def forward(self, t: Tensor) -> Tensor:
        """[B, outputs + 1] of activations [B, width] in units of the noise."""
        # Waves shorter than the noise are noise.
        seen = (self.frequencies <= self.spread.clamp(min=2)) * (self.AMPLITUDE * self.spread).clamp(min=1)
        phase = t[:, :, None] / self.spread * self.frequencies
        waves = torch.cat([phase.sin() * seen, phase.cos() * seen], 2).flatten(1)
        return self.straight(t) + self.perceptron(self.of_t(t) + self.of_waves(waves))


def make_critic(settings: CriticSettings, inputs: Tensor, width: int) -> mine_fast.MINE:
    """T(t, x) = psi(t) . phi(x) + a(x) of a layer, trained to find the input of t among all inputs of a batch.

    Of the twelve bits that X may hold, DV on the other pairs of a batch learns little: hardly one in 4096 is near a
    match. InfoNCE has the match of every t among its candidates; b(t), which it leaves open, is known where T is read.

    Args:
        settings: the widths of its networks.
        inputs: all of them, [N, d] of -1 and 1.
        width: of the layer.
    """
    critic = mine_fast.SeparableCritic(width, 1, outputs=settings.outputs)
    critic.x_tower = ActivationTower(width, settings.psi_width, settings.outputs)
    critic.y_tower = InputTower(inputs, settings.phi_width, settings.outputs)
    return mine_fast.MINE(critic, loss="infonce", marginals="all")


class Channel:
    """A layer that is read with noise: T of any inputs, as often as one likes, in units of the noise.

    Args:
        centres: [N, d], activations of all inputs.
        noise: standard deviation.
    """

    def __init__(self, centres: Tensor, noise: float) -> None:
        self.centres = (centres - centres.mean(0)) / noise
        self.inputs = torch.arange(len(centres), device=centres.device)

    def pairs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """T [B, d] with noise of its own, and the number [B, 1] of its input."""
        centres = self.centres[rows]
        return centres + torch.randn_like(centres), rows[:, None].float()


def train_critic(settings: CriticSettings, mine: mine_fast.MINE, channel: Channel) -> None:
    """Go on with a critic for `settings.passes` over the inputs, on noise that is new at every step."""
    mine.T.x_tower.fit_spread(channel.pairs(channel.inputs)[0])
    table = list(mine.T.y_tower.table.parameters())
    others = [parameter for parameter in mine.parameters() if parameter is not table[0]]
    rates = [settings.critic_rate, settings.table_rate]
    optimizer = torch.optim.Adam([{"params": others}, {"params": table}], fused=True)
    steps = settings.passes * math.ceil(len(channel.inputs) / settings.critic_batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps, pct_start=0.1)
    for _ in range(settings.passes):
        for rows in channel.inputs[torch.randperm(len(channel.inputs))].split(settings.critic_batch):
            loss = mine(*channel.pairs(rows))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def estimated_information(mine: mine_fast.MINE, channel: Channel, p: Tensor) -> tuple[Metrics, Metrics]:
    """I(X;T) and I(Y;T) in bits with their standard errors, from noise that trained nothing.

    As X is one of N known inputs, b(t) = -log mean_x exp T(t, x) makes the second term of the DV bound 0: what is left
    is the mean of log q(x|t) N, with q the softmax of the scores over all inputs. q(y|t) = sum_x q(x|t) p(y|x) gives a
    critic log q(y|t) / p(y) of Y, whose second term is 0 too. Both are lower bounds, whatever the critic.
    """
    psi, phi = mine.T.factors(*channel.pairs(channel.inputs))
    log_q = (psi @ phi.T).log_softmax(1)  # [T, X]
    one = (log_q.exp() @ p.to(log_q)).clamp(1e-6, 1 - 1e-6).to(p)
    prior = p.mean()
    about_x = log_q.diagonal() + math.log(len(log_q))
    about_y = p * (one / prior).log() + (1 - p) * ((1 - one) / (1 - prior)).log()
    of_x, of_y = (
        {"bits": float(values.mean()) * BITS, "stderr": float(values.std()) * BITS / math.sqrt(len(values))}
        for values in (about_x.double(), about_y)
    )
    return of_x, of_y
