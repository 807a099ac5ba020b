"""Many estimates at once: time of `estimate_many` on K Gaussian pairs of one column, 2000 rows, beside other ways.

    python benchmarks/estimate_many.py [--pairs 1 8 64] [--rounds 3] [--threads 2]

The other ways:
- a loop over `mine_fast.estimate` on one thread,
- a loop over mine-pytorch's way of stepping (benchmarks/baselines.py, anomaly detection off), with its own critic and
  batch (ReLU 100-100, 500 rows) and with ours (64-64-64, 256 rows),
- K critics in one by torch.func.stack_module_state and vmap (64-64-64, 256 rows).

All make as many optimiser steps for each pair, folds times networks times 424. Ours also scores the held-out rows,
finds their standard error and tests; the others only step. A loop's time is that of at most 8 pairs, times K over
those; a baseline's step is timed over a few hundred and multiplied. The contenders take turns in every round.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

# Threads that spin while they wait would measure what else the machine does. Read as torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import baselines
import record
import torch
from torch import Tensor, nn

import mine_fast
from mine_fast.cross_fitting import steps_of
from mine_fast.steps import epoch_batches
from mine_fast.training import TrainingSettings, default_steps

ROWS = 2000
RHO = 0.7
#: Pairs of a loop and steps of a baseline that are timed.
LOOPED, STEPPED = 8, 200

Pair = tuple[Tensor, Tensor]
#: (wall seconds, CPU seconds)
Seconds = tuple[float, float]


def gaussian(seed: int) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, 1, generator=generator)
    return x, RHO * x + math.sqrt(1 - RHO**2) * torch.randn(ROWS, 1, generator=generator)


def timed(run: Callable[[], object], times: float = 1.0) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return times * (time.perf_counter() - wall), times * (time.process_time() - cpu)


def ours(pairs: list[Pair], threads: int) -> Seconds:
    torch.set_num_threads(threads)
    return timed(lambda: mine_fast.estimate_many(pairs))


def our_loop(pairs: list[Pair]) -> Seconds:
    torch.set_num_threads(1)
    some = pairs[:LOOPED]
    return timed(lambda: [mine_fast.estimate(*pair) for pair in some], len(pairs) / len(some))


def mine_pytorch_loop(pairs: list[Pair], steps: int, hidden: int, layers: int, rows: int) -> Seconds:
    torch.set_num_threads(1)  # a second one makes steps of this size slower
    x, y = pairs[0]
    step = baselines.mine_pytorch_step(baselines.make_critic(1, 1, hidden, layers))
    batches = epoch_batches(torch.arange(ROWS), rows, 0)

    def run() -> None:
        for _ in range(STEPPED):
            index = next(batches)
            step(x[index], y[index])

    return timed(run, len(pairs) * steps / STEPPED)


def stacked_step(
    critics: list[nn.Sequential], learning_rate: float = 1e-4, alpha: float = 0.01
) -> Callable[..., Tensor]:
    """K critics as one: gradients by vmap over their stacked parameters, one Adam over all."""
    state, _ = torch.func.stack_module_state(critics)
    parameters = {name: value.detach().requires_grad_() for name, value in state.items()}
    template = critics[0].to("meta")
    optimizer = torch.optim.Adam(parameters.values(), lr=learning_rate, fused=True)
    log_ema = torch.full((len(critics),), -math.inf)

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor, y_marginal: Tensor, ema: Tensor) -> Any:
        rows = x.shape[0]
        both = torch.cat([torch.cat([x, x]), torch.cat([y, y_marginal])], 1)
        t = torch.func.functional_call(template, weights, (both,)).squeeze(1)
        second, ema = baselines.bias_corrected_log_mean_exp(t[rows:], ema, alpha)
        return second - t[:rows].mean(), ema

    gradients = torch.func.vmap(torch.func.grad(loss, has_aux=True))

    def step(x: Tensor, y: Tensor) -> None:
        nonlocal log_ema
        shuffled = torch.stack([one[torch.randperm(len(one))] for one in y])
        found, log_ema = gradients(parameters, x, y, shuffled, log_ema)
        for name, gradient in found.items():
            parameters[name].grad = gradient
        optimizer.step()

    return step


def vmap_stack(pairs: list[Pair], steps: int, threads: int) -> Seconds:
    torch.set_num_threads(threads)
    step = stacked_step([baselines.make_critic(1, 1, 64, 3, seed) for seed in range(len(pairs))])
    x, y = (torch.stack(side) for side in zip(*pairs, strict=True))
    batches = epoch_batches(torch.arange(ROWS), 256, 0)
    count = max(10, STEPPED // len(pairs))
    for _ in range(3):
        index = next(batches)
        step(x[:, index], y[:, index])

    def run() -> None:
        for _ in range(count):
            index = next(batches)
            step(x[:, index], y[:, index])

    return timed(run, steps / count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    steps = steps_of(mine_fast.MINE(seed=0), TrainingSettings(steps=default_steps(ROWS)))
    rows: list[dict[str, Any]] = []
    for count in options.pairs:
        pairs = [gaussian(seed) for seed in range(count)]
        contenders: dict[str, Callable[[], Seconds]] = {
            "estimate_many": lambda pairs=pairs: ours(pairs, options.threads),
            "estimate, a loop, 1 thread": lambda pairs=pairs: our_loop(pairs),
            "mine-pytorch's steps, a loop": lambda pairs=pairs: mine_pytorch_loop(pairs, steps, 100, 2, 500),
            "mine-pytorch's steps, our size, a loop": lambda pairs=pairs: mine_pytorch_loop(pairs, steps, 64, 3, 256),
            "stack_module_state and vmap": lambda pairs=pairs: vmap_stack(pairs, steps, options.threads),
        }
        seconds: dict[str, list[Seconds]] = {name: [] for name in contenders}
        for _ in range(options.rounds):
            for name, run in contenders.items():
                seconds[name].append(run())
        for name, found in seconds.items():
            wall, cpu = (statistics.median(values) for values in zip(*found, strict=True))
            ratios = [
                statistics.median(
                    theirs[i] / mine[i] for theirs, mine in zip(found, seconds["estimate_many"], strict=True)
                )
                for i in (0, 1)
            ]
            row = {"pairs": count, "contender": name, "wall_s": round(wall, 3), "cpu_s": round(cpu, 3)}
            row |= {"wall_over_ours": round(ratios[0], 2), "cpu_over_ours": round(ratios[1], 2)}
            rows.append(row)
            print(row, flush=True)
        record.write(
            "estimate_many",
            rows,
            what=f"{steps} optimiser steps for each of K Gaussian pairs, {ROWS} rows, rho {RHO}; medians",
            threads=options.threads,
            rounds=options.rounds,
        )


if __name__ == "__main__":
    main()
