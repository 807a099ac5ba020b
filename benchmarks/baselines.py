"""How the same training step is written without mine_fast: the contenders of the benchmarks, in our own words.

Each builder takes a critic (a stack of layers on concatenated rows) and returns step(x, y) -> loss, which trains it
by one optimiser step on the `mine` loss. All of them compute the same thing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Step = Callable[[Tensor, Tensor], Tensor]


def make_critic(x_width: int, y_width: int, hidden: int, layers: int, seed: int = 0) -> nn.Sequential:
    """A ReLU perceptron on concatenated rows: x_width + y_width -> hidden x layers -> 1."""
    torch.manual_seed(seed)
    widths = [x_width + y_width] + [hidden] * layers
    stack: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        stack += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*stack, nn.Linear(widths[-1], 1))


def bias_corrected_log_mean_exp(t_marginal: Tensor, log_ema: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Log mean exp of the scores with the gradient of exp(t - log_ema) / M, and the new log-EMA."""
    log_mean_exp = torch.logsumexp(t_marginal, 0) - math.log(t_marginal.shape[0])
    batch = log_mean_exp.detach()
    moved = torch.logaddexp(math.log1p(-alpha) + log_ema, math.log(alpha) + batch)
    log_ema = torch.where(torch.isinf(log_ema), batch, moved)
    weight = torch.exp(t_marginal.detach() - log_ema) / t_marginal.shape[0]
    weighted = (weight * t_marginal).sum()
    return batch + weighted - weighted.detach(), log_ema


def clean_eager_step(critic: nn.Sequential, learning_rate: float = 1e-4, alpha: float = 0.01) -> Step:
    """What a careful user writes: one critic call on the 2B rows, log domain, fused Adam, no host sync."""
    optimizer = torch.optim.Adam(critic.parameters(), lr=learning_rate, fused=True)
    log_ema = torch.tensor(-math.inf)

    def step(x: Tensor, y: Tensor) -> Tensor:
        nonlocal log_ema
        rows = x.shape[0]
        shuffled = y[torch.randperm(rows)]
        optimizer.zero_grad(set_to_none=True)
        t = critic(torch.cat([torch.cat([x, x]), torch.cat([y, shuffled])], 1)).squeeze(1)
        second, log_ema = bias_corrected_log_mean_exp(t[rows:], log_ema, alpha)
        loss = second - t[:rows].mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def mine_pytorch_step(critic: nn.Sequential, learning_rate: float = 1e-4, alpha: float = 0.01) -> Step:
    """The step of mine-pytorch: two critic calls, linear-domain average read back every step, plain Adam.

    As shipped, it runs under `torch.autograd.set_detect_anomaly(True)`, which importing that package switches on.
    """
    optimizer = torch.optim.Adam(critic.parameters(), lr=learning_rate, foreach=False, fused=False)
    running_mean = torch.zeros(())

    class AverageWeighted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, t, average):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(t, average)
            return t.exp().mean().log()

        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def]
            t, average = ctx.saved_tensors
            return grad * t.exp() / (average + 1e-6) / t.shape[0], None

    def step(x: Tensor, y: Tensor) -> Tensor:
        nonlocal running_mean
        shuffled = y[torch.randperm(x.shape[0])]
        optimizer.zero_grad()
        joint = critic(torch.cat([x, y], 1)).mean()
        t = critic(torch.cat([x, shuffled], 1))
        batch = torch.exp(torch.logsumexp(t, 0) - math.log(t.shape[0])).detach()
        first = running_mean == 0
        running_mean = batch if first else alpha * batch + (1 - alpha) * running_mean.item()
        loss = AverageWeighted.apply(t, running_mean) - joint
        loss.backward()
        optimizer.step()
        loss.item()
        return loss.detach()

    return step


def mine_fast_step(critic: nn.Sequential, learning_rate: float = 1e-4, alpha: float = 0.01) -> Step:
    """The step with `mine_fast.MINE` as the loss in a user's own loop."""
    import mine_fast

    mine = mine_fast.MINE(critic, alpha=alpha, method="concat", seed=0)
    optimizer = torch.optim.Adam(mine.parameters(), lr=learning_rate, fused=True)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = mine(x, y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
