"""A training step by the native engine, clean eager torch and mine-pytorch's way, side by side.

    python -m pytest benchmarks/

CPU time of ten steps on one thread. The contenders come one after the other here: benchmarks/engine_step.py alternates
them, holds the engine's gradient to fp64 first, and is where the figures of the README come from.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import baselines
import engine_step
import pytest
import torch

CONTENDERS = ("engine", "eager", "mine-pytorch")
STEPS = 10


def ten_steps(contender: str, size: tuple[int, ...]) -> Callable[[], object]:
    x_width, y_width, hidden, layers, batch = size
    x, y = engine_step.data_of(x_width, y_width, batch)
    critic = baselines.make_critic(x_width, y_width, hidden, layers)
    if contender == "engine":
        engine = engine_step.relu_engine(size, critic)
        return lambda: engine.train(x.numpy(), y.numpy(), STEPS, batch, 1, engine_step.RATE, threads=1)
    make = baselines.clean_eager_step if contender == "eager" else baselines.mine_pytorch_step
    step = make(critic, engine_step.RATE)
    return lambda: [step(x, y) for _ in range(STEPS)]


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("size", engine_step.SIZES, ids=lambda size: "-".join(map(str, size)))
def test_step(benchmark, size, contender):
    benchmark.group = "{}+{} -> {} x {} -> 1, {} rows".format(*size)
    with torch.autograd.set_detect_anomaly(contender == "mine-pytorch"):  # as it ships
        losses = benchmark.pedantic(ten_steps(contender, size), rounds=10, warmup_rounds=1)
    assert all(torch.isfinite(torch.as_tensor(loss)) for loss in losses)
