"""A training step of the separable critic, by the native engine over all pairs, against the same step in torch.

Contenders, alternately in one run, CPU time on one thread:

* engine    a step of csrc/engine/separable_critic (sampling and Adam included)
* products  the step's matrix products alone by torch.mm: both towers and F G^T, forward and both backward products
* eager     the step as torch would have it: all scores at once, the diagonal masked, logsumexp, fused Adam
* pairs     the engine on a perceptron over the same number of marginal pairs a row as shuffles: what all pairs cost a
            critic that reads pairs

    python benchmarks/separable_step.py [--rounds 15] [--write]
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from itertools import pairwise

import baselines
import numpy as np
import record
import torch
from engine_step import data_of, flat_parameters
from timing import alternate
from torch import Tensor, nn

import mine_fast
from mine_fast import _engine
from mine_fast.native import EngineCritic

RATE = 1e-4
#: (x columns, y columns, hidden, hidden layers, outputs, rows); the first is what `estimate` trains on few columns.
SIZES = ((3, 3, 64, 3, 32, 256), (50, 50, 64, 3, 32, 256), (20, 20, 256, 2, 64, 512), (784, 256, 512, 2, 128, 1024))


def all_pairs_loss(critic: mine_fast.SeparableCritic, x: Tensor, y: Tensor) -> Tensor:
    """Minus the DV bound over all pairs, with the gradient of mine_biased."""
    f, g = critic.factors(x, y)
    scores = f @ g.T
    rows = len(scores)
    others = scores.masked_fill(torch.eye(rows, dtype=torch.bool), -math.inf)
    return torch.logsumexp(others.flatten(), 0) - math.log(rows * (rows - 1)) - scores.diagonal().mean()


def eager_step(critic: mine_fast.SeparableCritic, x: Tensor, y: Tensor) -> Callable[[int], None]:
    optimizer = torch.optim.Adam(critic.parameters(), lr=RATE, fused=True)

    def run(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            all_pairs_loss(critic, x, y).backward()
            optimizer.step()

    return run


def products_of(x_width: int, y_width: int, hidden: int, layers: int, outputs: int, batch: int) -> Callable[[], None]:
    """Every matrix product of a step, by torch.mm into buffers that exist."""
    towers = []
    for width in (x_width, y_width):
        widths = [width, *[hidden] * layers, outputs + 1]
        layers_of = [(torch.randn(batch, a), torch.randn(b, a), torch.randn(batch, b)) for a, b in pairwise(widths)]
        towers.append(layers_of)
    f, g, scores = torch.randn(batch, outputs + 2), torch.randn(batch, outputs + 2), torch.randn(batch, batch)
    out = [[(torch.empty_like(c), torch.empty_like(a), torch.empty_like(b)) for a, b, c in t] for t in towers]
    f_out, g_out, scores_out = torch.empty_like(f), torch.empty_like(g), torch.empty_like(scores)

    def run() -> None:
        for tower, buffers in zip(towers, out, strict=True):
            for (rows, weight, grad), (rows_out, rows_grad, weight_grad) in zip(tower, buffers, strict=True):
                torch.mm(rows, weight.T, out=rows_out)
                torch.mm(grad.T, rows, out=weight_grad)
                if rows is not tower[0][0]:
                    torch.mm(grad, weight, out=rows_grad)
        torch.mm(f, g.T, out=scores_out)
        torch.mm(scores, g, out=f_out)
        torch.mm(scores.T, f, out=g_out)

    return run


def gradient_error(critic: mine_fast.SeparableCritic, engine, x: Tensor, y: Tensor) -> float:
    """Of the engine's gradient of a batch of all rows, against torch in fp64."""
    exact = mine_fast.SeparableCritic(x.shape[1], y.shape[1], hidden_of(critic), critic.outputs).double()
    exact.load_state_dict(critic.state_dict())
    all_pairs_loss(exact, x.double(), y.double()).backward()
    wanted = np.concatenate([p.grad.flatten().numpy() for p in exact.parameters()])
    _, found, _ = engine.gradient(x.numpy(), y.numpy(), len(x))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def hidden_of(critic: mine_fast.SeparableCritic) -> list[int]:
    return [module.out_features for module in critic.x_tower if isinstance(module, nn.Linear)][:-1]


def measure(size: tuple[int, ...], options: argparse.Namespace) -> dict:
    x_width, y_width, hidden, layers, outputs, batch = size
    x, y = data_of(x_width, y_width, 4 * batch)
    torch.manual_seed(0)
    critic = mine_fast.SeparableCritic(x_width, y_width, [hidden] * layers, outputs)
    held = EngineCritic(mine_fast.MINE(critic, "mine_biased", seed=0), x_width, y_width)
    engine = held.engine
    engine.train(x.numpy(), y.numpy(), 100, batch_size=batch, learning_rates=1e-3)
    held.write_parameters()
    error = gradient_error(critic, engine, x[:batch], y[:batch])
    if not error < 1e-4:
        raise SystemExit(f"the engine's gradient is off by {error:.2e}: nothing was timed")
    perceptron = baselines.make_critic(x_width, y_width, hidden, layers)
    silu = _engine.Engine(x_width, y_width, [hidden] * layers, [6] * layers, [0.0] * layers, [0.0] * layers, 1, 0.01, 0)
    silu.parameters = flat_parameters(perceptron)
    run_products = products_of(*size)
    given = dict(batch_size=batch, learning_rates=RATE, threads=1)
    contenders = {
        "engine": lambda count: engine.train(x.numpy(), y.numpy(), count, **given),
        "products": lambda count: [run_products() for _ in range(count)],
        "eager": eager_step(critic, x[:batch], y[:batch]),
    }
    times = alternate(contenders, options.rounds, options.seconds)
    row: dict = {"size": list(size), "kernel": engine.kernel, "gradient_error": error}
    for name, values in times.items():
        row[f"{name}_ms"] = statistics.median(values) * 1e3
        if name != "engine":
            row[f"engine/{name}"] = statistics.median(e / v for e, v in zip(times["engine"], values, strict=True))
    if batch * hidden * layers < 100_000:  # beyond, a step over all pairs as shuffles takes seconds
        pairs = {
            "engine": contenders["engine"],
            "pairs": lambda count: silu.train(x.numpy(), y.numpy(), count, shuffles=batch - 1, **given),
        }
        taken = alternate(pairs, 3, options.seconds)
        row["pairs_ms"] = statistics.median(taken["pairs"]) * 1e3
        row["engine/pairs"] = statistics.median(e / v for e, v in zip(taken["engine"], taken["pairs"], strict=True))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.1, help="of CPU time per contender and round")
    parser.add_argument("--write", action="store_true", help="write results/separable_step.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for size in SIZES:
        rows.append(measure(size, options))
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{v}" for k, v in rows[-1].items()), flush=True)
    if options.write:
        about = "CPU ms of a training step of the separable critic over all pairs, one thread, contenders in turn"
        print(record.write("separable_step", rows, about=about))


if __name__ == "__main__":
    main()
