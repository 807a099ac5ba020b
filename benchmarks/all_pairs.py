"""The loss of all pairs of a batch with its gradient, against its matrix products alone and against dense torch.

Critic 8+8 -> 64 x 2 -> 1, one thread, CPU time, contenders in turn in one run:

* all pairs   `mine_fast.ops.all_pairs_loss` and its backward
* products    what it cannot avoid, by torch.mm on tiles of as many pairs: forward and both backward products of the
              layers behind the first, the output layer's among them; a part of the tiles, scaled up
* dense       the first layer split too, then all B^2 pairs through the layers by autograd

Before anything is timed, the gradient is held to that of dense torch in float64. Memory is that by which one loss and
backward raise the peak of the resident memory, each figure from a process of its own.

    python benchmarks/all_pairs.py [--rounds 5] [--rows 1024,4096] [--write]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HIDDEN = 8, 64
TILE = 256  # pairs: what rows_of_tile of csrc/engine/tile.cpp gives at this width, or up to twice it
DENSE_ROWS = 1024  # beyond, dense torch takes too much memory to be timed beside others
ACTIVATIONS = {"relu": F.relu, "silu": F.silu}


class Problem:
    """Rows and a critic of one size."""

    def __init__(self, rows: int, activation: str, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.x = torch.randn(rows, WIDTH)
        self.y = (0.5 * self.x + 0.75**0.5 * torch.randn(rows, WIDTH)).to(dtype)
        self.x = self.x.to(dtype)
        widths = [2 * WIDTH, HIDDEN, HIDDEN, 1]
        self.layers = [nn.Linear(a, b).to(dtype) for a, b in itertools.pairwise(widths)]
        self.activation = activation

    def gradient(self, loss: Tensor) -> Tensor:
        """Of all parameters, one after the other."""
        parameters = [p for layer in self.layers for p in layer.parameters()]
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    def all_pairs(self) -> Tensor:
        """The op and its backward."""
        from mine_fast import ops

        weights, biases = [layer.weight for layer in self.layers], [layer.bias for layer in self.layers]
        return self.gradient(ops.all_pairs_loss(self.x, self.y, weights, biases, self.activation).loss)

    def dense(self) -> Tensor:
        """Every pair at once, by autograd."""
        first, second, last = self.layers
        act, rows = ACTIVATIONS[self.activation], len(self.x)
        x_part = F.linear(self.x, first.weight[:, :WIDTH], first.bias)
        hidden = act((x_part[:, None] + F.linear(self.y, first.weight[:, WIDTH:])).view(rows * rows, HIDDEN))
        scores = last(act(second(hidden))).view(rows, rows)
        others = scores.masked_fill(torch.eye(rows, dtype=torch.bool), -torch.inf)
        return self.gradient(torch.logsumexp(others.flatten(), 0) - scores.diagonal().mean())

    def products(self, share: int) -> Callable[[], None]:
        """One in `share` of the products of all tiles."""
        hidden, grad, out = (torch.randn(TILE, HIDDEN) for _ in range(3))
        weight, weight_grad = torch.randn(HIDDEN, HIDDEN), torch.empty(HIDDEN, HIDDEN)
        last, last_grad, scores = torch.randn(1, HIDDEN), torch.empty(1, HIDDEN), torch.empty(TILE, 1)
        score_grad = torch.randn(TILE, 1)

        def run() -> None:
            for _ in range(len(self.x) ** 2 // TILE // share):
                torch.mm(hidden, weight.T, out=out)
                torch.mm(hidden, last.T, out=scores)
                torch.mm(score_grad.T, hidden, out=last_grad)
                torch.mm(score_grad, last, out=out)
                torch.mm(grad, weight, out=out)
                torch.mm(grad.T, hidden, out=weight_grad)

        return run


def validate(activation: str) -> float:
    """Relative error of the gradient of 500 rows against dense float64."""
    exact, found = Problem(500, activation, torch.float64), Problem(500, activation)
    for a, b in zip(exact.layers, found.layers, strict=True):
        a.load_state_dict(b.state_dict())
    exact.x, exact.y = found.x.double(), found.y.double()
    wanted = exact.dense()
    error = float((found.all_pairs().double() - wanted).norm() / wanted.norm())
    if not error < 1e-5:
        raise SystemExit(f"the gradient is off by {error:.2e}: nothing was timed")
    return error


def measure(rows: int, activation: str, rounds: int) -> dict:
    problem = Problem(rows, activation)
    share = 8
    contenders = {"all_pairs": (problem.all_pairs, 1), "products": (problem.products(share), share)}
    if rows <= DENSE_ROWS:
        contenders["dense"] = (problem.dense, 1)
    Problem(64, activation).all_pairs()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (run, scale) in contenders.items():
            begin = time.process_time()
            run()
            times[name].append((time.process_time() - begin) * scale)
    row: dict = {"rows": rows, "activation": activation, "gradient_error": validate(activation), "rounds": rounds}
    for name, values in times.items():
        row[f"{name}_s"] = round(statistics.median(values), 4)
        if name != "all_pairs":
            ratios = [a / v for a, v in zip(times["all_pairs"], values, strict=True)]
            row[f"all_pairs/{name}"] = round(statistics.median(ratios), 3)
        if rows <= DENSE_ROWS or name == "all_pairs":
            row[f"{name}_mib"] = None if name == "products" else peak_mib(name, rows, activation)
    return {name: value for name, value in row.items() if value is not None}


def peak_mib(contender: str, rows: int, activation: str) -> float:
    command = [sys.executable, __file__, "--peak", contender, "--rows", str(rows), "--activation", activation]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_peak(contender: str, rows: int, activation: str) -> None:
    from engine_memory import resident

    problem, small = Problem(rows, activation), Problem(64, activation)
    for name in ("all_pairs", "dense"):  # what loading costs
        getattr(small, name)()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    getattr(problem, contender)()
    print(round((resident("VmHWM") - before) / 1024, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default="1024,4096", help="batch sizes")
    parser.add_argument("--activation", default="relu,silu")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write results/all_pairs.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        return print_peak(options.peak, int(options.rows), options.activation)
    results = []
    for rows in map(int, options.rows.split(",")):
        for activation in options.activation.split(","):
            results.append(measure(rows, activation, options.rounds))
            print(results[-1], flush=True)
    if options.write:
        import record

        about = (
            f"Loss of all pairs and its gradient, CPU time on one thread; critic {WIDTH}+{WIDTH} -> {HIDDEN} x 2 -> 1. "
            "mib: by how much a loss and its backward raise the peak of the resident memory"
        )
        print(record.write("all_pairs", results, about=about))


if __name__ == "__main__":
    main()
