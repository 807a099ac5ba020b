"""What a call of an op costs beyond its work: every op on the smallest batch there is, beside `torch.neg`.

    make bench, or: python -m pytest benchmarks/test_op_overhead.py --benchmark-enable --benchmark-columns=median

Each group has `torch.neg` of a 1x1 tensor, the kernel below autograd (what the stable ABI and the allocator leave), the
public function where nothing is differentiated, and where its result is a node of the graph. CPU time of one thread,
the median of 5 runs of 20,000 calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from mine_fast import ops
from mine_fast.ops import _dispatch

pytestmark = pytest.mark.benchmark(timer=time.process_time)

raw = torch.ops.mine_fast
KEY = ops.shuffle_key(3)
ONE = torch.ones(1, 1)
# Two rows of one column: a batch of one cannot be shuffled.
X, Y, WEIGHT, BIAS = torch.ones(2, 1), torch.ones(2, 1), torch.ones(1, 2), torch.zeros(1)
HIDDEN, SCORES, EMA, UPSTREAM, STATISTICS = (
    torch.ones(4, 1), torch.ones(4), torch.tensor(0.1), torch.tensor(1.0), torch.ones(3)
)  # fmt: skip

KERNELS: dict[str, tuple[object, ...]] = {
    "advance_key": (KEY,),
    "shuffle_index": (KEY, 2, 1, False),
    "marginal_shuffle": (Y, KEY, 1),
    "marginal_shuffle_backward": (Y[None], KEY),
    "pair": (X, Y, KEY, 1),
    "pair_backward": (torch.ones(4, 2), KEY, 1, 1),
    "paired_first_layer": (X, Y, BIAS, KEY, 1, 1, 0.0),
    "paired_first_layer_backward": (HIDDEN, X, Y, BIAS, KEY, 1, 1, 0.0),
    "dv_term": (SCORES, 2, EMA, 0.01, 0),
    "dv_term_backward": (UPSTREAM, SCORES, 2, STATISTICS),
}
#: op -> (public function of (x, y, weight, bias, scores)); those of a key alone have no gradient.
PUBLIC: dict[str, Callable[..., object]] = {
    "advance_key": lambda x, y, w, b, s: ops.advance_key(KEY),
    "shuffle_index": lambda x, y, w, b, s: ops.shuffle_index(2, KEY),
    "marginal_shuffle": lambda x, y, w, b, s: ops.marginal_shuffle(y, KEY),
    "pair": lambda x, y, w, b, s: ops.pair(x, y, KEY),
    "paired_first_layer": lambda x, y, w, b, s: ops.paired_first_layer(x, y, w, b, KEY),
    "dv_term": lambda x, y, w, b, s: ops.dv_loss_of_scores(s, 2, EMA),
}


def measure(benchmark: BenchmarkFixture, op: str, contender: str, call: Callable[[], object]) -> None:
    benchmark.group = op
    benchmark.extra_info["contender"] = contender
    for _ in range(200):
        call()
    benchmark.pedantic(call, rounds=5, iterations=20_000)


@pytest.mark.parametrize("op", KERNELS)
def test_neg(benchmark: BenchmarkFixture, op: str) -> None:
    measure(benchmark, op, "torch.neg", lambda: torch.neg(ONE))


@pytest.mark.parametrize("op", KERNELS)
def test_kernel(benchmark: BenchmarkFixture, op: str) -> None:
    function, arguments = getattr(raw, op).default, KERNELS[op]
    with torch._C._AutoDispatchBelowAutograd():
        measure(benchmark, op, "kernel", lambda: function(*arguments))


@pytest.mark.parametrize("op", PUBLIC)
def test_public_function(benchmark: BenchmarkFixture, op: str) -> None:
    function = PUBLIC[op]
    assert not _dispatch.needs_gradient(X, Y, WEIGHT, BIAS, SCORES)
    measure(benchmark, op, "function", lambda: function(X, Y, WEIGHT, BIAS, SCORES))


@pytest.mark.parametrize("op", [name for name in PUBLIC if name not in ("advance_key", "shuffle_index")])
def test_public_function_in_a_graph(benchmark: BenchmarkFixture, op: str) -> None:
    leaves: list[Tensor] = [t.clone().requires_grad_() for t in (X, Y, WEIGHT, BIAS, SCORES)]
    function = PUBLIC[op]
    measure(benchmark, op, "function, in a graph", lambda: function(*leaves))
