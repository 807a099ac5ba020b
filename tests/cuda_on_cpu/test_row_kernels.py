"""The row kernels of csrc/cuda, run on the CPU, against the CPU ops: same pairs, same bits where they only copy."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from mine_fast import ops

from .shim_kernels import ShimKernels

_ops = torch.ops.mine_fast

# Rows: the smallest batch, odd ones, one above and one at a power of two. Widths: below and above a pack, one that
# packs, one wider than a block, one of more than a pass.
ROWS = (2, 3, 41, 65, 256)
SHAPES = ((2, 1), (3, 3), (41, 20), (65, 7), (256, 4), (401, 1), (5, 1200))
ORDERS = (0, 1, 2)
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
SLOPES = {"leaky_relu": 0.2, "elu": 1.3}


def _sample(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _close(actual: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...], dtype: torch.dtype) -> None:
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("offset", [0, -1, 2**63 - 1])
def test_advance_key(kernels: ShimKernels, offset: int) -> None:
    key = ops.shuffle_key(-7, offset)
    for actual, expected in zip(kernels.advance_key(key), _ops.advance_key(key), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("rows", ROWS)
def test_shuffle_index(kernels: ShimKernels, rows: int, inverse: bool) -> None:
    for order, shuffles in product(ORDERS, (1, 3)):
        kernels.set_order(order)
        key = ops.shuffle_key(1234567890123 + order, rows)
        actual = kernels.shuffle_index(key, rows, shuffles, inverse)
        assert torch.equal(actual, _ops.shuffle_index(key, rows, shuffles, inverse))


@pytest.mark.parametrize(("rows", "width"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64, torch.complex128])
def test_marginal_shuffle_copies_any_dtype(kernels: ShimKernels, rows: int, width: int, dtype: torch.dtype) -> None:
    y = torch.arange(rows * width).reshape(rows, width).to(dtype)
    for order, shuffles in zip(ORDERS, (1, 2, 3), strict=True):
        kernels.set_order(order)
        key = ops.shuffle_key(order, width)
        assert torch.equal(kernels.marginal_shuffle(y, key, shuffles), _ops.marginal_shuffle(y, key, shuffles))


def test_copies_from_an_unaligned_address(kernels: ShimKernels) -> None:
    y = _sample(41 * 4 + 1)[1:].reshape(41, 4)
    key = ops.shuffle_key(0)
    assert torch.equal(kernels.marginal_shuffle(y, key, 2), _ops.marginal_shuffle(y, key, 2))
    grad = _sample(2 * 41 * 4 + 1)[1:].reshape(2, 41, 4)
    assert torch.equal(kernels.marginal_shuffle_backward(grad, key), _ops.marginal_shuffle_backward(grad, key))


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_marginal_shuffle_backward(kernels: ShimKernels, rows: int, width: int, dtype: torch.dtype) -> None:
    for order, shuffles in zip(ORDERS, (1, 2, 3), strict=True):
        kernels.set_order(order)
        key, grad = ops.shuffle_key(order, width), _sample(shuffles, rows, width, dtype=dtype)
        _close(kernels.marginal_shuffle_backward(grad, key), _ops.marginal_shuffle_backward(grad, key), dtype)


@pytest.mark.parametrize("packs", [1, 256, 257, 65_535 * 256, 65_535 * 256 + 1, 2**31])
@pytest.mark.parametrize("rows", [1, 256, 65_536 * 256, 2**40])
def test_grid_of_sums_covers_the_packs_within_the_limits_of_a_grid(kernels: ShimKernels, rows: int, packs: int) -> None:
    (x, y, z), threads = kernels.sum_layout(rows, packs)
    assert x < 2**31
    assert y <= 65_535
    assert (z, x * threads[0] >= packs) == (1, True)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(
    ("rows", "x_width", "y_width"), [(2, 1, 1), (41, 20, 24), (65, 2, 25), (256, 4, 3), (7, 700, 4)]
)
def test_pair(kernels: ShimKernels, rows: int, x_width: int, y_width: int, dtype: torch.dtype) -> None:
    x, y = _sample(rows, x_width, dtype=dtype), _sample(rows, y_width, dtype=dtype, seed=1)
    for order, shuffles in zip(ORDERS, (1, 2, 3), strict=True):
        kernels.set_order(order)
        key = ops.shuffle_key(order, rows)
        paired = _ops.pair(x, y, key, shuffles)
        assert torch.equal(kernels.pair(x, y, key, shuffles), paired)
        grad = _sample(*paired.shape, dtype=dtype, seed=2)
        actual = kernels.pair_backward(grad, key, x_width, shuffles)
        _close(actual, _ops.pair_backward(grad, key, x_width, shuffles), dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
def test_paired_first_layer(kernels: ShimKernels, activation: str, dtype: torch.dtype) -> None:
    code, slope = ops.ACTIVATIONS.index(activation), SLOPES.get(activation, 0.0)
    for order, (rows, width, shuffles) in enumerate([(41, 20, 1), (65, 7, 2), (3, 260, 3)]):
        kernels.set_order(order)
        key = ops.shuffle_key(order, rows)
        parts = [
            _sample(*shape, dtype=dtype, seed=s) for s, shape in enumerate([(rows, width), (rows, width), (width,)])
        ]
        hidden = _ops.paired_first_layer(*parts, key, shuffles, code, slope)
        _close(kernels.paired_first_layer(*parts, key, shuffles, code, slope), hidden, dtype)
        grad = _sample(*hidden.shape, dtype=dtype, seed=3)
        actual = kernels.paired_first_layer_backward(grad, *parts, key, shuffles, code, slope)
        _close(actual, _ops.paired_first_layer_backward(grad, *parts, key, shuffles, code, slope), dtype)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("rows", "width", "shuffles"), [(401, 20, 3), (70, 1, 5), (100, 300, 2)])
def test_blocks_that_loop(small_grid_kernels: ShimKernels, rows: int, width: int, shuffles: int, order: int) -> None:
    kernels, key = small_grid_kernels, ops.shuffle_key(order, rows)
    kernels.set_order(order)
    relu = ops.ACTIVATIONS.index("relu")
    x, y, bias = _sample(rows, width), _sample(rows, width, seed=1), _sample(width, seed=2)
    for inverse in (False, True):
        expected = _ops.shuffle_index(key, rows, shuffles, inverse)
        assert torch.equal(kernels.shuffle_index(key, rows, shuffles, inverse), expected)
    shuffled = _ops.marginal_shuffle(y, key, shuffles)
    assert torch.equal(kernels.marginal_shuffle(y, key, shuffles), shuffled)
    assert torch.equal(kernels.marginal_shuffle_backward(shuffled, key), _ops.marginal_shuffle_backward(shuffled, key))
    paired = _ops.pair(x, y, key, shuffles)
    assert torch.equal(kernels.pair(x, y, key, shuffles), paired)
    expected_gradients = _ops.pair_backward(paired, key, width, shuffles)
    _close(kernels.pair_backward(paired, key, width, shuffles), expected_gradients, torch.float32)
    arguments = (x, y, bias, key, shuffles, relu, 0.0)
    hidden = _ops.paired_first_layer(*arguments)
    _close(kernels.paired_first_layer(*arguments), hidden, torch.float32)
    expected_gradients = _ops.paired_first_layer_backward(hidden, *arguments)
    _close(kernels.paired_first_layer_backward(hidden, *arguments), expected_gradients, torch.float32)
