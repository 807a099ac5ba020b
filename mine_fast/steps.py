"""Making optimiser steps on a fold, in torch or by the native engine, and keeping the average of the weights."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mine_fast import ops
from mine_fast.data import PairSource
from mine_fast.errors import DivergenceError
from mine_fast.modules import in_mode, kept_state
from mine_fast.native import EngineCritic, engine_rows, engine_shuffles
from mine_fast.reference import PASS_STREAM, bijection
from mine_fast.settings import TrainingSettings
from mine_fast.threads import allowed_threads
from mine_fast.workers import raise_if_cancelled, still_wanted

if TYPE_CHECKING:
    from mine_fast.loss import DVLoss


#: Multiply-adds, of a forward pass, between two looks at whether a fit is still wanted: a few hundredths of a second.
ASK_EVERY = 1_000_000_000

#: Called while a critic scores by its averaged weights: remembers them, and returns what puts them into the module.
Keep = Callable[[], Callable[[], None]]

_LOWER_RATE = "lower the learning rate of opt"


class Steps(Protocol):
    """What trains a MINE module step by step."""

    @property
    def score(self) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
        """A `PairScorer` by the averaged weights, no gradient; None: the module's own way."""

    def advance(self, count: int) -> float:
        """Make `count` steps; the mean loss over them."""

    def averaged(self) -> contextlib.AbstractContextManager[Keep]:
        """Within, the critic scores by the averaged weights, in evaluation mode; gives what keeps them."""


def epoch_batches(rows: Tensor, batch_size: int, seed: int, first_pass: int = 0) -> Iterator[Tensor]:
    """Endless batches of row indices, from the same bijections as the marginal shuffle.

    Every pass visits the rows in a new order; those that fill no batch wait for the next pass.

    Args:
        rows: int64 [N], on the CPU.
        batch_size: N if that is smaller.
        seed: names the orders.
        first_pass: the pass to begin with.
    """
    size = min(batch_size, rows.numel())
    for epoch in itertools.count(first_pass):
        order = rows[bijection(ops.shuffle_key(seed, epoch, device=rows.device), PASS_STREAM, rows.numel())]
        yield from order.split(size)[: rows.numel() // size]


def learning_rates(settings: TrainingSettings) -> list[float]:
    """The rate of every step: a linear warm-up over a tenth of them, then a cosine to zero."""
    warm_up = max(1, settings.steps // 10)

    def rate(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, settings.steps - warm_up)))

    return [settings.learning_rate * rate(step) for step in range(settings.steps)]


def averaging_weight(decay: float, updates: int) -> float:
    """The weight of the newest of `updates` values: until 1 / (1 - decay) have been seen, all count alike."""
    return max(1 - decay, 1 / updates)


class TorchSteps:
    """Steps in torch: any critic, any device."""

    score = None

    def __init__(
        self, mine: DVLoss, source: PairSource, train_rows: Tensor, settings: TrainingSettings, seed: int
    ) -> None:
        self.mine = mine
        self.source = source
        self.settings = settings
        self.parameters = [p for p in mine.parameters() if p.requires_grad]
        fused = all(p.device.type in ("cpu", "cuda") for p in self.parameters)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused
        )
        self.batches = epoch_batches(train_rows, settings.batch_size, seed)
        self.rates = learning_rates(settings)
        self.average = [p.detach().clone() for p in self.parameters]
        self.done = 0

    def advance(self, count: int) -> float:
        """See `Steps`."""
        losses = []
        for _ in range(count):
            raise_if_cancelled()
            for group in self.optimizer.param_groups:
                group["lr"] = self.rates[self.done]
            losses.append(self._step(next(self.batches)))
            self.done += 1
            weight = averaging_weight(self.settings.averaging, self.done)
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], weight)
        return float(torch.stack(losses).mean())

    def _step(self, index: Tensor) -> Tensor:
        """An optimiser step on these rows; its loss, []."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.mine(*self.source.rows(index))
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm, foreach=True)
        self.optimizer.step()
        return loss.detach()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Keep]:
        """See `Steps`."""
        self._swap()
        try:
            with in_mode(self.mine, training=False):
                yield functools.partial(kept_state, self.mine)
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self.parameters, self.average, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)


class NativeSteps:
    """Steps by the engine, for a stack of layers on rows in memory; the same as `TorchSteps` to rounding."""

    def __init__(
        self, mine: DVLoss, source: PairSource, train_rows: Tensor, settings: TrainingSettings, seed: int
    ) -> None:
        x, y = source.rows(train_rows)
        self.rows = engine_rows(x), engine_rows(y)
        self.critic = EngineCritic(mine, x.shape[1], y.shape[1])
        self.settings = settings
        self.rates = np.array(learning_rates(settings))
        self.critic.engine.average = self.critic.engine.parameters  # what is validated before the first step
        self.done = 0

    def advance(self, count: int) -> float:
        """See `Steps`."""
        engine = self.critic.engine
        rows = (1 + self.settings.shuffles) * self.settings.batch_size
        try:
            losses = engine.train(
                *self.rows,
                steps=count,
                batch_size=self.settings.batch_size,
                shuffles=engine_shuffles(self.critic.mine),
                learning_rates=self.rates[self.done : self.done + count],
                weight_decay=self.settings.weight_decay,
                decoupled=True,
                max_grad_norm=self.settings.max_grad_norm,
                threads=allowed_threads(),
                averaging=self.settings.averaging,
                callback=still_wanted(),
                callback_every=max(1, ASK_EVERY // (engine.parameters.size * rows)),
            )
        except self.critic.divergence:
            return math.nan
        raise_if_cancelled()
        self.done += count
        return float(losses.mean())

    def score(self, x: Tensor, y: Tensor, partner: Tensor) -> Tensor:
        """See `Steps`."""
        rows = engine_rows(x), engine_rows(y)
        return torch.from_numpy(self.critic.engine.score(*rows, averaged=True, partner=partner.numpy()))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Keep]:
        """See `Steps`. The engine holds both weights, and the module neither until the kept ones are put there."""
        yield self._keep

    def _keep(self) -> Callable[[], None]:
        critic, engine = self.critic, self.critic.engine
        weights, log_ema, offset = engine.average, engine.log_ema, engine.offset

        def put_back() -> None:
            critic.write_parameters(weights)
            critic.write_loss_state(log_ema, offset)

        return put_back


def optimize_in_torch(
    mine: DVLoss, x: Tensor, y: Tensor, steps: int, batch_size: int, opt: torch.optim.Optimizer
) -> None:
    """Make the steps of `MINE.optimize` with any critic and optimiser."""
    seed, made = (int(v) for v in mine.shuffle_key)
    batches = epoch_batches(torch.arange(x.shape[0], device="cpu"), batch_size, seed, first_pass=made)
    for step in range(1, steps + 1):
        index = next(batches).to(x.device)
        opt.zero_grad()
        loss = mine(x[index], y[index])
        loss.backward()
        opt.step()
        if (step % 100 == 0 or step == steps) and not torch.isfinite(loss):  # each look waits for the device
            raise DivergenceError(f"training diverged by step {step}: the loss is {loss.item():g}; {_LOWER_RATE}")


def optimize_natively(
    mine: DVLoss, x: Tensor, y: Tensor, steps: int, batch_size: int, opt: torch.optim.Optimizer
) -> None:
    """Make the steps of `MINE.optimize` by the engine, in the place of Adam or AdamW."""
    group = opt.param_groups[0]
    critic = EngineCritic(mine, x.shape[1], y.shape[1])
    critic.read_optimizer(opt)
    # As many steps as were made are at least as many passes: the orders that come now have not been.
    critic.engine.epoch = critic.engine.offset
    try:
        critic.engine.train(
            engine_rows(x),
            engine_rows(y),
            steps=steps,
            batch_size=batch_size,
            shuffles=engine_shuffles(mine),
            learning_rates=group["lr"],
            betas=tuple(group["betas"]),
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            decoupled=group["decoupled_weight_decay"],
            threads=allowed_threads(),
        )
    except critic.divergence as error:
        raise DivergenceError(f"training diverged: {error}; {_LOWER_RATE}") from error
    finally:  # an interrupted run keeps the steps that it made
        critic.write_parameters()
        critic.write_loss_state()
        critic.write_optimizer(opt)
