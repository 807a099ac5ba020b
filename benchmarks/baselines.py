"""How the same training step is written without mine_fast: the contenders of the benchmarks, in our own words.

Each builder takes a critic (a stack of layers on concatenated rows) and returns a `TrainingStep` on the `mine` loss.
All of them compute the same thing, which `check_agreement` holds them to before anything is timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn


class TrainingStep:
    """One optimiser step on a batch.

    Args:
        critic: what is trained.
        loss: (x, y, y_marginal) -> the loss of a batch; a y_marginal of None lets the contender shuffle by itself.
        optimizer: over the critic's parameters.
        set_to_none: what zero_grad is told.
    """

    def __init__(
        self,
        critic: nn.Sequential,
        loss: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        optimizer: torch.optim.Optimizer,
        set_to_none: bool = True,
    ) -> None:
        self.critic = critic
        self.loss = loss
        self.optimizer = optimizer
        self.set_to_none = set_to_none

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Shuffle, score, differentiate, update; returns the loss, detached."""
        self.optimizer.zero_grad(set_to_none=self.set_to_none)
        loss = self.loss(x, y, None)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def make_critic(x_width: int, y_width: int, hidden: int, layers: int, seed: int = 0) -> nn.Sequential:
    """A ReLU perceptron on concatenated rows: x_width + y_width -> hidden x layers -> 1."""
    torch.manual_seed(seed)
    widths = [x_width + y_width] + [hidden] * layers
    stack: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
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


def clean_eager_step(critic: nn.Sequential, learning_rate: float = 1e-4, alpha: float = 0.01) -> TrainingStep:
    """What a careful user writes: one critic call on the 2B rows, log domain, fused Adam, no host sync."""
    log_ema = torch.tensor(-math.inf)

    def loss(x: Tensor, y: Tensor, y_marginal: Tensor | None) -> Tensor:
        nonlocal log_ema
        rows = x.shape[0]
        if y_marginal is None:
            y_marginal = y[torch.randperm(rows)]
        t = critic(torch.cat([torch.cat([x, x]), torch.cat([y, y_marginal])], 1)).squeeze(1)
        second, log_ema = bias_corrected_log_mean_exp(t[rows:], log_ema, alpha)
        return second - t[:rows].mean()

    return TrainingStep(critic, loss, torch.optim.Adam(critic.parameters(), lr=learning_rate, fused=True))


class _AverageWeighted(torch.autograd.Function):
    """Log mean exp in the linear domain, with the gradient weighted by the moving average: mine-pytorch's `EMALoss`."""

    @staticmethod
    def forward(ctx, t, average):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(t, average)
        return t.exp().mean().log()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        t, average = ctx.saved_tensors
        return grad * t.exp() / (average + 1e-6) / t.shape[0], None


def mine_pytorch_step(critic: nn.Sequential, learning_rate: float = 1e-4, alpha: float = 0.01) -> TrainingStep:
    """The step of mine-pytorch: two critic calls, linear-domain average read back every step, plain Adam.

    As shipped, it runs under `torch.autograd.set_detect_anomaly(True)`, which importing that package switches on.
    """
    running_mean = torch.zeros(())

    def loss(x: Tensor, y: Tensor, y_marginal: Tensor | None) -> Tensor:
        nonlocal running_mean
        if y_marginal is None:
            y_marginal = y[torch.randperm(x.shape[0])]
        joint = critic(torch.cat([x, y], 1)).mean()
        t = critic(torch.cat([x, y_marginal], 1))
        batch = torch.exp(torch.logsumexp(t, 0) - math.log(t.shape[0])).detach()
        running_mean = batch if running_mean == 0 else alpha * batch + (1 - alpha) * running_mean.item()
        value = _AverageWeighted.apply(t, running_mean) - joint
        value.item()  # its `optimize` adds up the losses on the host
        return value

    return TrainingStep(critic, loss, torch.optim.Adam(critic.parameters(), lr=learning_rate))


def mine_fast_step(critic: nn.Sequential, learning_rate: float = 1e-4, alpha: float = 0.01) -> TrainingStep:
    """The step with `mine_fast.MINE` as the loss in a user's own loop."""
    import mine_fast

    mine = mine_fast.MINE(critic, alpha=alpha, method="concat", seed=0)
    return TrainingStep(critic, mine, torch.optim.Adam(mine.parameters(), lr=learning_rate, fused=True))


def check_agreement(steps: Mapping[str, TrainingStep], x: Tensor, y: Tensor, batches: int = 3) -> None:
    """Hold the contenders to the same losses and gradients over a few steps of the moving average.

    Args:
        steps: by name, with critics of equal parameters.
        x: [N, dx], N divisible by `batches`.
        y: [N, dy].
        batches: consecutive batches to compare on, without an update in between.

    Raises:
        AssertionError: a contender computes something else than the first.
    """
    for x_batch, y_batch in zip(x.chunk(batches), y.chunk(batches), strict=True):
        expected: list[Tensor] = []
        for name, step in steps.items():
            step.critic.zero_grad()
            value = step.loss(x_batch, y_batch, y_batch.roll(1, 0))
            value.backward()
            found = [value.detach().reshape(()), *(p.grad for p in step.critic.parameters() if p.grad is not None)]
            expected = expected or found
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
