"""Every op apart, against the plain-torch reference and against what a user of mine-pytorch writes.

    make bench, or: python -m pytest benchmarks/test_ops.py --benchmark-enable

Contenders are held to the same result before they are timed; what shuffles by itself, to the rows and their counts.
CPU time of one thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from mine_fast import ops, reference

# Many short rounds: the median of them is what an idle core does.
pytestmark = pytest.mark.benchmark(timer=time.process_time, min_rounds=15, max_time=0.12, min_time=2e-4)

#: (rows, columns of x and of y)
SIZES = ((128, 1), (128, 20), (512, 1), (512, 20), (512, 784), (4096, 1), (4096, 20))
HIDDEN = 100
KEY = ops.shuffle_key(5)
CONTENDERS = ("mine_fast", "reference", "by hand")

Call = Callable[[], Any]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def timed(benchmark: BenchmarkFixture, group: str, contender: str, calls: dict[str, Call]) -> None:
    benchmark.group = group
    benchmark.extra_info["contender"] = contender
    benchmark(calls[contender])


def assert_same(calls: dict[str, Call], names: tuple[str, ...] = CONTENDERS) -> None:
    """Equal results, to rounding; tensors or tuples of them."""
    expected = calls[names[0]]()
    for name in names[1:]:
        torch.testing.assert_close(
            calls[name](), expected, rtol=2e-5, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def backward_of(output: Tensor, leaves: list[Tensor], upstream: Tensor) -> Call:
    """The backward pass of a graph that is kept."""
    return lambda: torch.autograd.grad(output, leaves, upstream, retain_graph=True)


# --- shuffle ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_marginal_shuffle(benchmark: BenchmarkFixture, rows: int, width: int, contender: str) -> None:
    y = normal(rows, width)
    calls = {
        "mine_fast": lambda: ops.marginal_shuffle(y, KEY)[0],
        "reference": lambda: reference.marginal_shuffle(y, KEY)[0],
        "by hand": lambda: y[torch.randperm(rows)],
    }
    assert_same(calls, ("mine_fast", "reference"))
    assert torch.equal(calls["by hand"]().sort(0).values, calls["mine_fast"]().sort(0).values)
    timed(benchmark, f"marginal_shuffle {rows} x {width}", contender, calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_pair(benchmark: BenchmarkFixture, rows: int, width: int, contender: str) -> None:
    x, y = normal(rows, width), normal(rows, width, seed=1)

    def by_hand() -> Tensor:
        return torch.cat([torch.cat([x, y], 1), torch.cat([x, y[torch.randperm(rows)]], 1)])

    calls = {
        "mine_fast": lambda: ops.pair(x, y, KEY),
        "reference": lambda: reference.pair(x, y, KEY),
        "by hand": by_hand,
    }
    assert_same(calls, ("mine_fast", "reference"))
    assert torch.equal(by_hand().sort(0).values, ops.pair(x, y, KEY).sort(0).values)
    timed(benchmark, f"pair {rows} x {width}+{width}", contender, calls)


# --- first layer ------------------------------------------------------------------------------------------------------


def layers(rows: int, width: int) -> dict[str, tuple[Callable[[], Tensor], list[Tensor]]]:
    """Forward and leaves of every contender: Linear(2 width -> 100) and ReLU on joint and shuffled rows."""
    index = ops.shuffle_index(rows, KEY)[0]

    def leaves() -> list[Tensor]:
        shapes = ((rows, width), (rows, width), (HIDDEN, 2 * width), (HIDDEN,))
        return [(normal(*s, seed=i) / s[-1] ** 0.5).requires_grad_() for i, s in enumerate(shapes)]

    def split(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return reference.paired_first_layer(x @ weight[:, :width].T, y @ weight[:, width:].T, bias, KEY)

    def by_hand(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows_of_both = torch.cat([torch.cat([x, y], 1), torch.cat([x, y[index]], 1)])
        return torch.relu(torch.nn.functional.linear(rows_of_both, weight, bias))

    functions = {"mine_fast": lambda *t: ops.paired_first_layer(*t, KEY), "reference": split, "by hand": by_hand}
    made = {}
    for name, function in functions.items():
        own = leaves()
        made[name] = (lambda function=function, own=own: function(*own), own)
    return made


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_paired_first_layer(benchmark: BenchmarkFixture, rows: int, width: int, contender: str) -> None:
    calls = {name: forward for name, (forward, _) in layers(rows, width).items()}
    assert_same(calls)
    timed(benchmark, f"paired_first_layer {rows} x {width}+{width} -> {HIDDEN}", contender, calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_paired_first_layer_backward(benchmark: BenchmarkFixture, rows: int, width: int, contender: str) -> None:
    upstream = normal(2 * rows, HIDDEN, seed=9) / rows
    calls = {name: backward_of(forward(), own, upstream) for name, (forward, own) in layers(rows, width).items()}
    assert_same(calls)
    timed(benchmark, f"paired_first_layer backward {rows} x {width}+{width} -> {HIDDEN}", contender, calls)


# --- Donsker-Varadhan term --------------------------------------------------------------------------------------------


def terms(rows: int) -> dict[str, tuple[Callable[[], Tensor], list[Tensor]]]:
    """Loss and leaves of every contender: `rows` joint and as many marginal scores, the second batch of the average."""
    log_ema, alpha = torch.tensor(0.1), 0.01
    scores = {name: normal(2 * rows).requires_grad_() for name in CONTENDERS}

    def by_hand(t: Tensor) -> Tensor:
        # The chain of a careful user: log domain, and the gradient of the average behind the value of the batch.
        joint, marginal = t[:rows], t[rows:]
        log_mean_exp = torch.logsumexp(marginal, 0) - math.log(rows)
        average = torch.logaddexp(log_ema + math.log1p(-alpha), log_mean_exp.detach() + math.log(alpha))
        corrected = torch.exp(log_mean_exp - average)
        return log_mean_exp.detach() + corrected - corrected.detach() - joint.mean()

    functions = {
        "mine_fast": lambda t: ops.dv_loss_of_scores(t, rows, log_ema, alpha).loss,
        "reference": lambda t: reference.dv_term(t, rows, log_ema, alpha)[0],
        "by hand": by_hand,
    }
    return {n: (lambda f=f, t=scores[n]: f(t), [scores[n]]) for n, f in functions.items()}


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("rows", [128, 512, 4096])
def test_dv_term(benchmark: BenchmarkFixture, rows: int, contender: str) -> None:
    calls = {name: forward for name, (forward, _) in terms(rows).items()}
    assert_same(calls)
    timed(benchmark, f"dv_term {rows} + {rows}", contender, calls)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("rows", [128, 512, 4096])
def test_dv_term_backward(benchmark: BenchmarkFixture, rows: int, contender: str) -> None:
    upstream = torch.tensor(1.0)
    calls = {name: backward_of(forward(), own, upstream) for name, (forward, own) in terms(rows).items()}
    assert_same(calls)
    timed(benchmark, f"dv_term backward {rows} + {rows}", contender, calls)
