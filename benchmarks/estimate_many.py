"""Many estimates at once: time of `estimate_many` on K Gaussian pairs of one column, 2000 rows, beside other ways.

    python benchmarks/estimate_many.py [--pairs 1 8 64 512] [--rounds 3] [--threads 2]     about 15 minutes
    python benchmarks/estimate_many.py --plot                 docs/estimate_many.png from what was measured before

The other ways:
- a loop over `mine_fast.estimate` on one thread,
- a loop over mine-pytorch's way of stepping (benchmarks/baselines.py, anomaly detection off), with its own critic and
  batch (ReLU 100-100, 500 rows) and with ours (64-64-64, 256 rows),
- K critics in one by torch.func.stack_module_state and vmap (64-64-64, 256 rows).

All make as many optimiser steps for each pair, folds times networks times 424. Ours also scores the held-out rows,
finds their standard error and tests; the others only step. What takes long is timed on a part and multiplied: at most
128 pairs of `estimate_many`, 4 of the loop over `estimate`, 1000 steps of a loop, 200 critic steps or 10 steps of the
stack. A row's "timed" says what was. The contenders take turns in every round, fewer rounds for more pairs: the others
before `estimate_many` and again after it, and their mean is compared with it, since a machine that others share changes
its speed within the minutes that the many take.
"""

from __future__ import annotations

import argparse
import json
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
from mine_fast.settings import TrainingSettings, default_steps
from mine_fast.steps import epoch_batches

ROWS = 2000
RHO = 0.7
#: Timed at most: pairs of `estimate_many` and of the loop over `estimate`, steps of a loop and, together, of the
#: critics of a stack.
MANY, LOOPED, STEPPED, STACKED = 128, 4, 1000, 200
#: By the number of pairs.
ROUNDS = {1: 5, 8: 3, 64: 3, 512: 1}
STYLES = {
    "estimate_many": ("#1b6ca8", "-"),
    "estimate, a loop, 1 thread": ("#1b6ca8", "--"),
    "stack_module_state and vmap": ("#d95f02", "-"),
    "mine-pytorch's steps, our size, a loop": ("#8c8c8c", "-"),
    "mine-pytorch's steps, a loop": ("#8c8c8c", "--"),
}

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
    some = pairs[:MANY]
    return timed(lambda: mine_fast.estimate_many(some), len(pairs) / len(some))


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
    count = _stacked_steps(len(pairs))
    for _ in range(3):
        index = next(batches)
        step(x[:, index], y[:, index])

    def run() -> None:
        for _ in range(count):
            index = next(batches)
            step(x[:, index], y[:, index])

    return timed(run, steps / count)


def _stacked_steps(pairs: int) -> int:
    return max(10, STACKED // pairs)


def measure(count: int, rounds: int, steps: int, threads: int) -> list[dict[str, Any]]:
    """A row per contender: medians over the rounds, and of the ratios to ours within each."""
    pairs = [gaussian(seed) for seed in range(count)]
    contenders: dict[str, tuple[str, Callable[[], Seconds]]] = {
        "estimate_many": (f"{min(count, MANY)} pairs", lambda: ours(pairs, threads)),
        "estimate, a loop, 1 thread": (f"{min(count, LOOPED)} pairs", lambda: our_loop(pairs)),
        "mine-pytorch's steps, a loop": (f"{STEPPED} steps", lambda: mine_pytorch_loop(pairs, steps, 100, 2, 500)),
        "mine-pytorch's steps, our size, a loop": (
            f"{STEPPED} steps",
            lambda: mine_pytorch_loop(pairs, steps, 64, 3, 256),
        ),
        "stack_module_state and vmap": (
            f"{_stacked_steps(count)} steps of {count}",
            lambda: vmap_stack(pairs, steps, threads),
        ),
    }
    seconds: dict[str, list[Seconds]] = {name: [] for name in contenders}
    others = list(contenders)[1:]
    for _ in range(rounds):
        before = [contenders[name][1]() for name in others]
        seconds["estimate_many"].append(contenders["estimate_many"][1]())
        for name, first in zip(others, before, strict=True):
            wall, cpu = (statistics.mean(pair) for pair in zip(first, contenders[name][1](), strict=True))
            seconds[name].append((wall, cpu))
    rows = []
    for name, found in seconds.items():
        wall, cpu = (statistics.median(values) for values in zip(*found, strict=True))
        ratios = [
            statistics.median(theirs[i] / mine[i] for theirs, mine in zip(found, seconds["estimate_many"], strict=True))
            for i in (0, 1)
        ]
        row = {"pairs": count, "contender": name, "wall_s": round(wall, 3), "cpu_s": round(cpu, 3)}
        row |= {"wall_over_ours": round(ratios[0], 2), "cpu_over_ours": round(ratios[1], 2)}
        rows.append(row | {"timed": contenders[name][0], "rounds": rounds})
        print(rows[-1], flush=True)
    return rows


def plot(document: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    for name, (color, line) in STYLES.items():
        rows = [row for row in document["rows"] if row["contender"] == name]
        counts = [row["pairs"] for row in rows]
        axis.plot(counts, [row["wall_s"] for row in rows], line, color=color, label=name, marker="o", markersize=4)
    axis.set(xscale="log", yscale="log", xlabel="pairs, K", ylabel=f"wall seconds, {document['threads']} cores")
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.minorticks_off()
    axis.grid(True, which="major", linewidth=0.4)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(f"K Gaussian pairs, 1 + 1 columns, {ROWS} rows, equally many optimiser steps")
    figure.savefig(record.ROOT / "docs" / "estimate_many.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=list(ROUNDS))
    parser.add_argument("--rounds", type=int, help="of any number of pairs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", action="store_true", help="draw what was measured before")
    options = parser.parse_args()
    path = record.RESULTS / "estimate_many.json"
    if not options.plot:
        steps = steps_of(mine_fast.MINE(seed=0), TrainingSettings(steps=default_steps(ROWS)))
        what = f"{steps} optimiser steps for each of K Gaussian pairs, {ROWS} rows, rho {RHO}; medians"
        rows: list[dict[str, Any]] = []
        for count in options.pairs:
            rows += measure(count, options.rounds or ROUNDS.get(count, 1), steps, options.threads)
            path = record.write("estimate_many", rows, what=what, threads=options.threads)
    plot(json.loads(path.read_text()))


if __name__ == "__main__":
    main()
