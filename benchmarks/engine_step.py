"""A training step of the native engine against the same step written in torch, at the four sizes of the project.

Contenders, alternately in one run, CPU time on one thread:

* engine      a step of csrc/engine (marginal pairs, sampling and Adam included)
* products    the step's matrix products alone by torch.mm: split first layer, later layers on the 2B rows, forward and
              both backward products
* eager       benchmarks/baselines.py, clean eager with fused Adam
* mine-pytorch  its way of stepping, with anomaly detection on as it ships

Before anything is timed, the engine's gradient is held to the fp64 one of torch. Reported at initialisation and after
training (--train-steps), because the share of zeros behind the ReLUs, which the engine makes use of, moves.

    python benchmarks/engine_step.py [--rounds 15] [--kernel avx2] [--sizes 0,1,2,3] [--activation relu]
                                     [--zeros 0.8] [--two-threads] [--write]
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine"))

import baselines
import build_engine
import record
from timing import SIZES, alternate
from torch_path import TorchRun

ACTIVATIONS = {
    "relu": (1, nn.ReLU),
    "elu": (3, nn.ELU),
    "gelu": (4, nn.GELU),
    "gelu_tanh": (5, lambda: nn.GELU(approximate="tanh")),
    "leaky_relu": (2, lambda: nn.LeakyReLU(1.0)),
    "silu": (6, nn.SiLU),
    "tanh": (7, nn.Tanh),
}
RATE = 1e-4


def data_of(x_width: int, y_width: int, rows: int, zeros: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian rows; the columns that both sides have are correlated by 0.5. This share of x is 0, as in images."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(rows, x_width, generator=generator), torch.randn(rows, y_width, generator=generator)
    shared = min(x_width, y_width)
    y[:, :shared] = 0.5 * x[:, :shared] + 0.75**0.5 * y[:, :shared]
    x[torch.rand(x.shape, generator=generator) < zeros] = 0.0
    return x, y


def flat_parameters(critic: nn.Module) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in critic.parameters()]).numpy()


def load_parameters(critic: nn.Module, flat: np.ndarray) -> None:
    nn.utils.vector_to_parameters(torch.from_numpy(flat.copy()), critic.parameters())


def products_of(x_width: int, y_width: int, hidden: int, layers: int, batch: int) -> Callable[[], None]:
    """Every matrix product of a step, by torch.mm into buffers that exist."""
    x, y = torch.randn(batch, x_width), torch.randn(batch, y_width)
    part, grad = torch.randn(batch, hidden), torch.randn(batch, hidden)
    w_x, w_y = torch.randn(hidden, x_width), torch.randn(hidden, y_width)
    rows, row_grad, weight = torch.randn(2 * batch, hidden), torch.randn(2 * batch, hidden), torch.randn(hidden, hidden)
    out_rows, out_weight = torch.empty(2 * batch, hidden), torch.empty(hidden, hidden)
    last, last_grad = torch.randn(1, hidden), torch.randn(2 * batch, 1)
    scores, last_out = torch.empty(2 * batch, 1), torch.empty(1, hidden)
    d_x, d_y = torch.empty(hidden, x_width), torch.empty(hidden, y_width)

    def run() -> None:
        torch.mm(x, w_x.T, out=part)
        torch.mm(y, w_y.T, out=part)
        for _ in range(layers - 1):
            torch.mm(rows, weight.T, out=out_rows)
            torch.mm(row_grad, weight, out=out_rows)
            torch.mm(row_grad.T, rows, out=out_weight)
        torch.mm(rows, last.T, out=scores)
        torch.mm(last_grad, last, out=out_rows)
        torch.mm(last_grad.T, rows, out=last_out)
        torch.mm(grad.T, x, out=d_x)
        torch.mm(grad.T, y, out=d_y)

    return run


def validate(engine, torch_run: TorchRun, x: torch.Tensor, y: torch.Tensor, batch: int) -> float:
    """Relative error of the engine's gradient against fp64.

    Of all units but those (at most two a layer) that have a pair within rounding of their activation's kink: there the
    derivative is one thing in fp32 and another in fp64, and both are right.
    """
    torch_run.set_parameters(engine.parameters)
    torch_run.log_ema = torch.tensor(engine.log_ema, dtype=torch.float64)
    torch_run.offset, torch_run.epoch, torch_run.position = engine.offset, engine.epoch, engine.position
    _, gradient, _ = engine.gradient(x.numpy(), y.numpy(), batch, 1, 1)
    loss, _ = torch_run.loss_of_next_step(x, y, batch, 1)
    loss.backward()
    difference, norm, at = 0.0, 0.0, 0
    for leaf in torch_run.leaves:
        wanted = leaf.grad.reshape(len(leaf), -1).numpy()
        found = gradient[at : at + wanted.size].reshape(wanted.shape)
        at += wanted.size
        by_unit = np.sort(np.square(found - wanted).sum(1))
        difference += by_unit[: max(1, len(by_unit) - 2)].sum()
        norm += np.square(wanted).sum()
    error = math.sqrt(difference / norm)
    if not error < 1e-4:
        raise SystemExit(f"the engine's gradient is off by {error:.2e}: nothing was timed")
    return error


def relu_engine(size: tuple[int, ...], critic: nn.Module):
    """An engine with the parameters of a ReLU critic of one of the sizes."""
    x_width, y_width, hidden, layers, _ = size
    zeros = [0.0] * layers
    engine = build_engine.load().Engine(x_width, y_width, [hidden] * layers, [1] * layers, zeros, zeros, 0, 0.01, 0)
    engine.parameters = flat_parameters(critic)
    return engine


def two_threads(train: Callable[[int, int], None], options: argparse.Namespace) -> float:
    """Wall time of a step on two threads over that on one: the least of each, as other programs only add."""
    least = {1: math.inf, 2: math.inf}
    begin = time.perf_counter()
    train(3, 1)
    count = max(3, int(options.seconds / ((time.perf_counter() - begin) / 3)))
    for _ in range(options.rounds):
        for threads in least:
            begin = time.perf_counter()
            train(count, threads)
            least[threads] = min(least[threads], time.perf_counter() - begin)
    return least[2] / least[1]


def measure(module, size: tuple[int, ...], options: argparse.Namespace) -> list[dict]:
    x_width, y_width, hidden, layers, batch = size
    code, activation = ACTIVATIONS[options.activation]
    x, y = data_of(x_width, y_width, max(4 * batch, 4000), options.zeros)
    settings = (x_width, y_width, [hidden] * layers, [code] * layers, [1.0] * layers)
    engine = module.Engine(*settings, [0.0] * layers, 0, 0.01, 0)
    if options.kernel:
        engine.set_kernel(options.kernel)
    critic = baselines.make_critic(x_width, y_width, hidden, layers)
    critic = nn.Sequential(*[activation() if isinstance(m, nn.ReLU) else m for m in critic])
    engine.parameters = flat_parameters(critic)
    torch_run = TorchRun(*settings, 0, 0.01, 0)
    rows = []
    for state in ("initial", "trained"):
        if state == "trained":
            engine.train(x.numpy(), y.numpy(), options.train_steps, batch, 1, 1e-3)
            load_parameters(critic, engine.parameters)
        error = validate(engine, torch_run, x, y, batch)
        kept = engine.parameters
        eager = baselines.clean_eager_step(critic, RATE)
        products = products_of(*size)
        xb, yb = x[:batch].clone(), y[:batch].clone()
        shipped = baselines.mine_pytorch_step(critic, RATE)

        def run_shipped(count: int, step=shipped, xb=xb, yb=yb) -> None:
            with torch.autograd.set_detect_anomaly(True, check_nan=True):
                for _ in range(count):
                    step(xb, yb)

        contenders = {
            "engine": lambda count: engine.train(x.numpy(), y.numpy(), count, batch, 1, RATE, threads=1),
            "products": lambda count, run=products: [run() for _ in range(count)],
        }
        if not options.quick:
            contenders["eager"] = lambda count, step=eager, xb=xb, yb=yb: [step(xb, yb) for _ in range(count)]
            contenders["mine-pytorch"] = run_shipped
        times = alternate(contenders, options.rounds, options.seconds)
        row: dict = {
            "size": list(size), "state": state, "activation": options.activation, "kernel": engine.kernel,
            "gradient_error": error, "zeros": options.zeros,
        }  # fmt: skip
        if options.two_threads:
            row["two_threads_wall_ratio"] = two_threads(
                lambda n, t: engine.train(x.numpy(), y.numpy(), n, batch, 1, RATE, threads=t), options
            )
        for name, values in times.items():
            row[f"{name}_ms"] = statistics.median(values) * 1e3
            if name != "engine":
                ratios = [e / v for e, v in zip(times["engine"], values, strict=True)]
                row[f"engine/{name}"] = statistics.median(ratios)
                row[f"engine/{name}_quartiles"] = [float(q) for q in np.quantile(ratios, [0.25, 0.75])]
        rows.append(row)
        engine.parameters = kept
        load_parameters(critic, kept)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.1, help="of CPU time per contender and round")
    parser.add_argument("--train-steps", type=int, default=1000)
    parser.add_argument("--kernel", default=None, help="of the engine: avx512, avx2 or portable; the best by default")
    parser.add_argument("--activation", default="relu", choices=sorted(ACTIVATIONS))
    parser.add_argument("--sizes", default="0,1,2,3", help="which of the four")
    parser.add_argument("--zeros", type=float, default=0.0, help="share of x that is 0")
    parser.add_argument("--two-threads", action="store_true", help="wall time on two threads over one, too")
    parser.add_argument("--quick", action="store_true", help="engine and products only")
    parser.add_argument("--write", action="store_true", help="write results/engine_step[_...].json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    module = build_engine.load()
    rows = []
    for index in options.sizes.split(","):
        for row in measure(module, SIZES[int(index)], options):
            rows.append(row)
            if "two_threads_wall_ratio" in row:
                print(f"{row['size']} two threads / one, wall: {row['two_threads_wall_ratio']:.2f}")
            ratios = "  ".join(f"/{k[7:]} {v:.3f}" for k, v in row.items() if k.startswith("engine/") and "_" not in k)
            checked = f"(products {row['products_ms']:.3f} ms, gradient error {row['gradient_error']:.1e})"
            print(f"{row['size']} {row['state']:8} engine {row['engine_ms']:.3f} ms  {ratios}  {checked}", flush=True)
    if options.write:
        about = "CPU ms of a training step by the native engine, one thread, contenders in turn"
        variant = "" if options.activation == "relu" else f"_{options.activation}"
        variant += "_zeros" if options.zeros else ""
        print(record.write(f"engine_step{variant}", rows, about=about))


if __name__ == "__main__":
    main()
