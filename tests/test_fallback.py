"""The fallback for devices without kernels of ours says the same as the kernels, op by op, given the same arguments."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from helpers import DTYPES, LAYOUTS, sample
from torch import Tensor

from mine_fast import fallback
from mine_fast.ops import ACTIVATIONS, LOSSES, shuffle_key

raw = torch.ops.mine_fast

# Elementwise work in 16 bits rounds at every step in plain torch and once in the kernels: a few units apart.
TOLERANCE = {
    torch.float64: {"atol": 1e-13, "rtol": 1e-12},
    torch.float32: {"atol": 4e-6, "rtol": 4e-6},
    torch.bfloat16: {"atol": 6e-2, "rtol": 2**-6},
    torch.float16: {"atol": 8e-3, "rtol": 2**-9},
}


def assert_same(name: str, *args: object, exact: bool = False, dtype: torch.dtype = torch.float32) -> None:
    """Compare a kernel and its fallback: numbers, shapes and dtypes."""
    kernel, plain = getattr(raw, name).default(*args), fallback._FALLBACKS[name](*args)
    kernel, plain = ([r] if isinstance(r, Tensor) else list(r) for r in (kernel, plain))
    tolerance = {"atol": 0, "rtol": 0} if exact else TOLERANCE[dtype]
    for a, b in zip(plain, kernel, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


@pytest.fixture(params=[(0, 1), (2, 1), (3, 5), (41, 2), (1271, 1)], ids=str)
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    """Rows and shuffles."""
    return request.param


def test_every_kernel_has_a_fallback() -> None:
    ops = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("mine_fast::")}
    assert ops == set(fallback._FALLBACKS)
    for name in ops:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mine_fast::{name}", "CompositeExplicitAutograd")


def test_advance_key() -> None:
    for key in (shuffle_key(3, 4), shuffle_key(-1, -1), shuffle_key(0, 2**63 - 1)):
        assert_same("advance_key", key, exact=True)


@pytest.mark.parametrize("inverse", [False, True])
def test_shuffle_index(size: tuple[int, int], inverse: bool) -> None:
    rows, shuffles = size
    assert_same("shuffle_index", shuffle_key(-3, 2**62), rows, shuffles, inverse, exact=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("trailing", [(), (3,), (2, 4)], ids=str)
def test_marginal_shuffle(size: tuple[int, int], dtype: torch.dtype, trailing: tuple[int, ...]) -> None:
    rows, shuffles = size
    assert_same("marginal_shuffle", sample(rows, *trailing, dtype=dtype), shuffle_key(1), shuffles, exact=True)
    grad = sample(shuffles, rows, *trailing, dtype=dtype)
    assert_same("marginal_shuffle_backward", grad, shuffle_key(1), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pair(size: tuple[int, int], dtype: torch.dtype, layout: str) -> None:
    rows, shuffles = size
    lay = LAYOUTS[layout]
    x, y = sample(rows, 3, dtype=dtype), sample(rows, 2, seed=1, dtype=dtype)
    assert_same("pair", lay(x), lay(y), shuffle_key(1), shuffles, exact=True)
    grad = sample((1 + shuffles) * rows, 5, seed=2, dtype=dtype)
    assert_same("pair_backward", lay(grad), shuffle_key(1), 3, shuffles, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)), ids=ACTIVATIONS)
def test_paired_first_layer(size: tuple[int, int], dtype: torch.dtype, activation: int) -> None:
    rows, shuffles = size
    parts = [sample(*shape, seed=s, dtype=dtype) for s, shape in enumerate([(rows, 6), (rows, 6), (6,)])]
    if dtype in (torch.bfloat16, torch.float16):
        # On a grid of quarters their sums are exact in either, so that none falls on the other side of a kink.
        parts = [(p * 4).round() / 4 for p in parts]
    rest = (shuffle_key(1), shuffles, activation, 0.3)
    assert_same("paired_first_layer", *parts, *rest, dtype=dtype)
    grad = sample((1 + shuffles) * rows, 6, seed=4, dtype=dtype)
    assert_same("paired_first_layer_backward", grad, *parts, *rest, dtype=dtype)
    assert_same("paired_first_layer_backward", LAYOUTS["transposed"](grad), *parts, *rest, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", range(len(LOSSES)), ids=LOSSES)
@pytest.mark.parametrize("log_ema", [-math.inf, 0.7])
@pytest.mark.parametrize("alpha", [0.01, 1.0])
def test_dv_term(dtype: torch.dtype, loss: int, log_ema: float, alpha: float) -> None:
    scores = sample(41 + 1271, dtype=dtype)
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    ema = torch.tensor(log_ema, dtype=sums)
    assert_same("dv_term", scores, 41, ema, alpha, loss, dtype=sums)
    _, _, statistics = raw.dv_term(scores, 41, ema, alpha, loss)
    assert_same("dv_term_backward", torch.tensor(1.7, dtype=sums), scores, 41, statistics, dtype=dtype)


@pytest.mark.parametrize("loss", range(len(LOSSES)), ids=LOSSES)
@pytest.mark.parametrize(
    "marginal", [[200.0, -200.0, 1.0], [1e30, -1e30, 0.0], [-math.inf, 0.0], [-math.inf] * 2, [math.nan, 1.0]], ids=str
)
def test_dv_term_at_the_ends_of_the_range(loss: int, marginal: list[float]) -> None:
    scores = torch.tensor([1.0, -3.0, *marginal])
    ema = torch.tensor(0.2)
    assert_same("dv_term", scores, 2, ema, 0.1, loss)
    _, _, statistics = raw.dv_term(scores, 2, ema, 0.1, loss)
    assert_same("dv_term_backward", torch.tensor(1.0), scores, 2, statistics)


def test_a_gpu_without_our_kernels_is_told_so_once() -> None:
    fallback._warn_slow_cuda.cache_clear()
    with pytest.warns(UserWarning, match="mine_fast has no CUDA kernels here.*plain torch, slowly"):
        fallback._warn_slow_cuda()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fallback._warn_slow_cuda()
    fallback._warn_slow_cuda.cache_clear()


def test_one_row_is_refused_as_by_the_kernels() -> None:
    with pytest.raises(RuntimeError, match="a batch of one row cannot be shuffled"):
        fallback._FALLBACKS["pair"](torch.zeros(1, 2), torch.zeros(1, 2), shuffle_key(0), 1)
