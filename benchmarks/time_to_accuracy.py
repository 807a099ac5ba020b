"""CPU time until the held-out value is within 5% of the truth and stays there: `MLPCritic` and the training that
`estimate` makes by default against mine-pytorch's, on a Gaussian pair with correlation 0.9 (0.830 nats), 3000 rows, one
thread.

    python benchmarks/time_to_accuracy.py [--seeds 9]

Only training counts: the clock stands still while a held-out value is read, off 5000 fresh rows, so that both are
judged alike. Ours is one training of `MLPCritic`: quantile inputs, SiLU 64-64-64, AdamW at 1e-2, averaged weights;
preparing the inputs counts. mine-pytorch: ReLU 100-100, Adam at 1e-4, batches of 500 in a new order every pass, its way
of stepping (benchmarks/baselines.py), with anomaly detection on as it ships and off.

A whole `estimate` trains the two networks of a `StackedCritic` in each of four folds, tests independence by
permutations and gives a standard error; its time is given too.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator

import baselines
import record
import torch
from torch import Tensor

import mine_fast
from mine_fast import ops
from mine_fast.data import ArraySource, pair_source
from mine_fast.held_out_pairs import HeldOutPairs
from mine_fast.pair_scoring import by_rows
from mine_fast.settings import TrainingSettings
from mine_fast.steps import NativeSteps, epoch_batches

TRUTH = -0.5 * math.log(1 - 0.9**2)
ROWS = 3000
HELD_OUT = 5000

Score = Callable[[Tensor, Tensor], Tensor]
#: (CPU seconds of training so far, what scores pairs then), again and again.
Training = Iterator[tuple[float, Score]]


def gaussian(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    return x, 0.9 * x + math.sqrt(1 - 0.9**2) * torch.randn(rows, 1, generator=generator, dtype=torch.float64)


def mine_fast_training(x: Tensor, y: Tensor, seed: int) -> Training:
    settings = TrainingSettings()
    begin = time.process_time()
    critic = mine_fast.MLPCritic().prepare(x, y, torch.Generator().manual_seed(seed))
    features = critic.features(x, y)
    mine = mine_fast.MINE(critic.layers, method="concat", shuffles=settings.shuffles, seed=seed)
    steps = NativeSteps(mine, pair_source(*features), torch.arange(len(x)), settings, seed)
    spent = time.process_time() - begin
    for _ in range(0, settings.steps, 10):
        begin = time.process_time()
        steps.advance(10)
        spent += time.process_time() - begin
        with steps.averaged() as keep, torch.no_grad():
            keep()()  # into the module, which the engine does not read
            yield spent, lambda a, b: critic(a, b).squeeze(1)


def mine_pytorch_training(x: Tensor, y: Tensor, seed: int, anomaly: bool, steps: int = 2000) -> Training:
    x, y = x.float(), y.float()
    spent = 0.0
    step = baselines.mine_pytorch_step(baselines.make_critic(1, 1, 100, 2, seed))
    batches = epoch_batches(torch.arange(len(x)), 500, seed)
    for _ in range(0, steps, 40):
        begin = time.process_time()
        with torch.autograd.set_detect_anomaly(anomaly):
            for _ in range(40):
                index = next(batches)
                step(x[index], y[index])
        spent += time.process_time() - begin
        with torch.no_grad():
            yield spent, lambda a, b: step.critic(torch.cat([a, b], 1).float()).squeeze(1)


def seconds_until_close(training: Training, seed: int) -> float:
    """CPU seconds of training after which no held-out value is off by 5% or more; infinite if the last one is."""
    held_out = ArraySource(*gaussian(HELD_OUT, 10_000 + seed))
    pairs = HeldOutPairs(held_out, torch.arange(HELD_OUT), seed, shuffles=4)
    since = math.inf
    for spent, score in training:
        bound = pairs.scores(by_rows(score)).dv_bound()
        if abs(bound - TRUTH) >= 0.05 * TRUTH:
            since = math.inf
        elif math.isinf(since):
            since = spent
    return since


def whole_estimate(x: Tensor, y: Tensor, seed: int) -> tuple[float, float]:
    begin = time.process_time()
    result = mine_fast.estimate(x, y, seed=seed)
    return time.process_time() - begin, result.mi


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=9)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    ops.shuffle_key(0)  # loads the library
    contenders: dict[str, Callable[[Tensor, Tensor, int], Training]] = {
        "mine_fast": mine_fast_training,
        "mine-pytorch as shipped": lambda x, y, seed: mine_pytorch_training(x, y, seed, anomaly=True),
        "mine-pytorch": lambda x, y, seed: mine_pytorch_training(x, y, seed, anomaly=False),
    }
    taken: dict[str, list[float]] = {name: [] for name in [*contenders, "whole estimate"]}
    values = []
    for seed in seeds:
        x, y = gaussian(ROWS, seed)
        for name, train in contenders.items():
            taken[name].append(seconds_until_close(train(x, y, seed), seed))
        seconds, value = whole_estimate(x, y, seed)
        taken["whole estimate"].append(seconds)
        values.append(value)
        print(seed, {name: round(of[-1], 3) for name, of in taken.items()}, f"estimate {value:.3f}", flush=True)
    ours = statistics.median(taken["mine_fast"])
    rows = []
    for name, of in taken.items():
        row = {"contender": name, "cpu_seconds": statistics.median(of), "least": min(of), "most": max(of)}
        row["times ours"] = row["cpu_seconds"] / ours
        if name == "whole estimate":
            row["largest_error"] = max(abs(value - TRUTH) for value in values)
        rows.append({key: v if isinstance(v, str) or math.isfinite(v) else None for key, v in row.items()})
        print(f"{name:26} {row['cpu_seconds']:7.3f} s  {row['times ours']:6.1f} x")
    about = (
        f"CPU seconds of training until the held-out value is within 5% of {TRUTH:.3f} nats and stays (1-d Gaussian, "
        f"N={ROWS}, one thread, median of {len(seeds)} seeds; null: never); and of a whole estimate()"
    )
    print(record.write("time_to_accuracy", rows, about=about))


if __name__ == "__main__":
    main()
