"""The CUDA kernels against the CPU ops: the same pairs for the same key, the same values and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mine_fast import _library, ops

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason=f"no CUDA GPU is visible to torch {torch.__version__}"
)

_ops = torch.ops.mine_fast

TOLERANCE = {torch.float32: 4e-6, torch.float64: 1e-12, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
ROWS = (2, 3, 41, 401, 1271, 65537)
OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def _sample(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _close(actual: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...], tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, check_device=False)


def test_the_kernels_are_loaded() -> None:
    assert _library.CUDA_MISSING is None


@pytest.mark.parametrize("offset", [0, -1, 2**63 - 1])
def test_advance_key(offset: int) -> None:
    key = ops.shuffle_key(-7, offset)
    for on_gpu, on_cpu in zip(ops.advance_key(key.cuda()), ops.advance_key(key), strict=True):
        assert torch.equal(on_gpu.cpu(), on_cpu)


@pytest.mark.parametrize("shuffles", [1, 3])
@pytest.mark.parametrize("rows", [*ROWS, 1_000_003])
def test_same_pairs_as_on_the_cpu(rows: int, shuffles: int) -> None:
    key = ops.shuffle_key(2**40 + rows, 7)
    for inverse in (False, True):
        on_cpu = ops.shuffle_index(rows, key, shuffles, inverse)
        assert torch.equal(ops.shuffle_index(rows, key.cuda(), shuffles, inverse).cpu(), on_cpu)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 3, 20, 784, 1201])
def test_marginal_shuffle(width: int, dtype: torch.dtype) -> None:
    for rows, shuffles in ((2, 1), (41, 3), (1271, 2)):
        y, key = (100 * _sample(rows, width).abs()).to(dtype), ops.shuffle_key(3, width)
        on_gpu = ops.marginal_shuffle(y.cuda(), key.cuda(), shuffles)
        assert torch.equal(on_gpu.cpu(), ops.marginal_shuffle(y, key, shuffles))


def test_strided_and_unaligned_inputs() -> None:
    base, key = _sample(41 * 8 + 1), ops.shuffle_key(1)
    for view in (lambda t: t[1:].view(41, 8), lambda t: t[:-1].view(41, 8)[:, ::2], lambda t: t[:-1].view(8, 41).T):
        expected = ops.marginal_shuffle(view(base), key, 2)
        assert torch.equal(ops.marginal_shuffle(view(base.cuda()), key.cuda(), 2).cpu(), expected)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("rows", ROWS)
def test_copies_and_their_backward(rows: int, dtype: torch.dtype) -> None:
    key, x_width = ops.shuffle_key(5, rows), 20
    for y_width, shuffles in ((1, 1), (24, 3)):
        x, y = _sample(rows, x_width, dtype=dtype), _sample(rows, y_width, dtype=dtype, seed=1)
        paired = _ops.pair(x, y, key, shuffles)
        assert torch.equal(_ops.pair(x.cuda(), y.cuda(), key.cuda(), shuffles).cpu(), paired)
        expected = _ops.pair_backward(paired, key, x_width, shuffles)
        _close(_ops.pair_backward(paired.cuda(), key.cuda(), x_width, shuffles), expected, TOLERANCE[dtype])
        shuffled = _ops.marginal_shuffle(y, key, shuffles)
        expected_y = _ops.marginal_shuffle_backward(shuffled, key)
        _close(_ops.marginal_shuffle_backward(shuffled.cuda(), key.cuda()), expected_y, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
def test_paired_first_layer(activation: str, dtype: torch.dtype) -> None:
    code, slope = ops.ACTIVATIONS.index(activation), 0.3
    for rows, width, shuffles in ((2, 1, 1), (41, 100, 3), (401, 7, 2), (70, 1300, 1)):
        key, parts = ops.shuffle_key(rows), [_sample(n, width, dtype=dtype, seed=n) for n in (rows, rows, 1)]
        parts[1], parts[2] = parts[1] * 0.5, parts[2][0]
        on_gpu = [t.cuda() for t in parts]
        hidden = _ops.paired_first_layer(*parts, key, shuffles, code, slope)
        actual = _ops.paired_first_layer(*on_gpu, key.cuda(), shuffles, code, slope)
        _close(actual, hidden, TOLERANCE[dtype])
        expected = _ops.paired_first_layer_backward(hidden, *parts, key, shuffles, code, slope)
        gradients = _ops.paired_first_layer_backward(hidden.cuda(), *on_gpu, key.cuda(), shuffles, code, slope)
        _close(gradients, expected, 3 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("loss", ops.LOSSES)
def test_dv_term(loss: str, dtype: torch.dtype) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    code = ops.LOSSES.index(loss)
    for joint, marginal in ((1, 1), (41, 401), (4096, 4096), (8193, 30001), (100_000, 1_000_003)):
        scores = 2 * torch.randn(joint + marginal, generator=torch.Generator().manual_seed(joint))
        if loss != "fdiv":  # whose value leaves fp32 beyond 89
            scores[1::7] += 150
            scores[::5] -= 300
        scores = scores.to(dtype)
        for start in (-math.inf, 0.7):
            log_ema = torch.tensor(start, dtype=wide)
            expected = _ops.dv_term(scores, joint, log_ema, 0.1, code)
            _close(_ops.dv_term(scores.cuda(), joint, log_ema.cuda(), 0.1, code), expected, TOLERANCE[wide])
        upstream = torch.tensor(-1.5, dtype=wide)
        gradient = _ops.dv_term_backward(upstream, scores, joint, expected[2])
        on_gpu = _ops.dv_term_backward(upstream.cuda(), scores.cuda(), joint, expected[2].cuda())
        # exp(t - log normaliser) has the absolute error of that difference, some hundreds, as its relative one.
        rtol, atol = 50 * TOLERANCE[wide] + TOLERANCE[dtype], torch.finfo(dtype).tiny
        torch.testing.assert_close(on_gpu.cpu(), gradient, rtol=rtol, atol=atol)


def test_same_bits_every_time() -> None:
    scores = _sample(1_000_003).cuda()
    x, y, key = _sample(1271, 20).cuda(), _sample(1271, 20, seed=1).cuda(), ops.shuffle_key(1, device="cuda")
    grad = ops.pair(x, y, key, 3)
    first = _ops.dv_term(scores, 1000, scores.new_zeros(()), 0.1, 0), _ops.pair_backward(grad, key, 20, 3)
    for _ in range(20):
        again = _ops.dv_term(scores, 1000, scores.new_zeros(()), 0.1, 0), _ops.pair_backward(grad, key, 20, 3)
        for a, b in zip((t for ts in first for t in ts), (t for ts in again for t in ts), strict=True):
            assert torch.equal(a, b)


def test_empty_inputs() -> None:
    key = ops.shuffle_key(0, device="cuda")
    assert ops.marginal_shuffle(torch.empty(0, 3, device="cuda"), key, 2).shape == (2, 0, 3)
    assert ops.marginal_shuffle(torch.empty(4, 0, device="cuda"), key, 2).shape == (2, 4, 0)
    assert ops.pair(torch.empty(0, 3, device="cuda"), torch.empty(0, 2, device="cuda"), key).shape == (0, 5)
    assert ops.shuffle_index(0, key, 2).shape == (2, 0)


def test_arguments_on_two_devices_are_an_error_and_not_a_crash() -> None:
    y = _sample(5, 2).cuda()
    with pytest.raises(RuntimeError, match="device"):
        _ops.marginal_shuffle(y, ops.shuffle_key(0), 1)
    with pytest.raises(RuntimeError, match="device"):
        _ops.dv_term(_sample(8).cuda(), 4, torch.tensor(0.0), 0.1, 0)
    torch.cuda.synchronize()


def test_opcheck() -> None:
    key, x, y = ops.shuffle_key(0, device="cuda"), _sample(7, 4).cuda(), _sample(7, 3).cuda()
    parts = [_sample(7, 6, seed=s).cuda().requires_grad_() for s in range(2)]
    bias = _sample(6).cuda().requires_grad_()
    scores, log_ema = _sample(40).cuda().requires_grad_(), torch.zeros((), device="cuda")
    cases = (
        (_ops.advance_key.default, (key,)),
        (_ops.shuffle_index.default, (key, 7, 2, False)),
        (_ops.marginal_shuffle.default, (y.clone().requires_grad_(), key, 2)),
        (_ops.pair.default, (x.clone().requires_grad_(), y.clone().requires_grad_(), key, 2)),
        (_ops.paired_first_layer.default, (*parts, bias, key, 2, 1, 0.0)),
        (_ops.dv_term.default, (scores, 10, log_ema, 0.1, 0)),
    )
    for op, arguments in cases:
        torch.library.opcheck(op, arguments, test_utils=OPCHECKS)
