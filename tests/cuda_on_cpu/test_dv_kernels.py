"""The Donsker-Varadhan kernels of csrc/cuda, run on the CPU, against the CPU ops."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import JOINTS_NOT_FINITE, MARGINALS_NOT_FINITE
from torch import Tensor

from mine_fast import ops

from .shim_kernels import ShimKernels

_ops = torch.ops.mine_fast

# The last two take several blocks of 8192 scores; in the last, one holds joint and marginal scores.
SIZES = ((1, 1), (2, 3), (41, 401), (512, 512), (1271, 6000), (8192, 8192), (9001, 27003))
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def _scores(joint: int, marginal: int, dtype: torch.dtype, outliers: bool) -> Tensor:
    scores = 2 * torch.randn(joint + marginal, generator=torch.Generator().manual_seed(joint))
    if outliers:  # beyond what exp takes in fp32, in both directions
        scores[::3] -= 130
        scores[1::5] += 200
    return scores.to(dtype)


def _close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("outliers", [False, True])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("loss", ops.LOSSES)
def test_dv_term(kernels: ShimKernels, loss: str, dtype: torch.dtype, outliers: bool) -> None:
    code = ops.LOSSES.index(loss)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for order, (joint, marginal) in enumerate(SIZES):
        scores = _scores(joint, marginal, dtype, outliers)
        for log_ema in (torch.tensor(-math.inf, dtype=wide), torch.tensor(0.7, dtype=wide)):
            kernels.set_order(order)
            actual = kernels.dv_term(scores, joint, log_ema, 0.1, code)
            expected = _ops.dv_term(scores, joint, log_ema, 0.1, code)
            for a, e in zip(actual, expected, strict=True):
                _close(a, e, TOLERANCE[wide])
            upstream = torch.tensor(-1.5, dtype=wide)
            gradient = kernels.dv_term_backward(upstream, scores, joint, expected[2])
            expected_gradient = _ops.dv_term_backward(upstream, scores, joint, expected[2])
            # exp(t - log normaliser) has the absolute error of that difference, some hundreds, as its relative one.
            rtol, atol = 50 * TOLERANCE[wide] + TOLERANCE[dtype], torch.finfo(dtype).smallest_normal
            torch.testing.assert_close(gradient, expected_gradient, rtol=rtol, atol=atol)


def test_same_bits_in_every_order(kernels: ShimKernels) -> None:
    scores = _scores(9001, 27003, torch.float32, outliers=True)
    results = set()
    for order in range(4):
        kernels.set_order(order)
        results.add(tuple(float(t) for t in kernels.dv_term(scores, 9001, torch.tensor(0.0), 0.1, 0)[:2]))
    assert len(results) == 1


@pytest.mark.parametrize("where", [3, 500])
def test_nan_reaches_the_loss(kernels: ShimKernels, where: int) -> None:
    scores = _scores(41, 10000, torch.float32, outliers=False)
    scores[where] = math.nan
    kernels.set_order(1)
    value, _, statistics = kernels.dv_term(scores, 41, torch.tensor(0.0), 0.1, 0)
    assert value.isnan()
    assert statistics.isnan().tolist()[:2] == [where < 41, where >= 41]


def test_marginal_scores_of_minus_infinity_weigh_nothing(kernels: ShimKernels) -> None:
    scores = torch.zeros(10 + 20000)
    scores[10:10010] = -math.inf
    kernels.set_order(1)
    _, _, statistics = kernels.dv_term(scores, 10, torch.tensor(-math.inf), 0.1, 1)
    torch.testing.assert_close(statistics[1], torch.tensor(-math.log(2.0)))


@pytest.mark.parametrize("loss", ops.LOSSES)
@pytest.mark.parametrize("marginal", MARGINALS_NOT_FINITE)
def test_scores_that_are_not_finite(kernels: ShimKernels, marginal: str, loss: str) -> None:
    code, upstream = ops.LOSSES.index(loss), torch.tensor(1.0)
    for joint in JOINTS_NOT_FINITE:
        scores = torch.tensor([*joint, *MARGINALS_NOT_FINITE[marginal]])
        for log_ema in (torch.tensor(-math.inf), torch.tensor(0.7)):
            kernels.set_order(1)
            actual = kernels.dv_term(scores, 2, log_ema, 0.1, code)
            expected = _ops.dv_term(scores, 2, log_ema, 0.1, code)
            gradients = (k.dv_term_backward(upstream, scores, 2, expected[2]) for k in (kernels, _ops))
            for a, e in (*zip(actual, expected, strict=True), tuple(gradients)):
                torch.testing.assert_close(a, e, rtol=2e-6, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize("size", [1e4, -1e7, 2e38])
def test_the_joint_mean_loses_no_digits(kernels: ShimKernels, size: float) -> None:
    """Many scores of one size, whose sum in fp32 loses what they differ by, or leaves fp32."""
    joint = size + torch.randn(300_001, generator=torch.Generator().manual_seed(0))
    kernels.set_order(1)
    _, _, statistics = kernels.dv_term(torch.cat([joint, torch.zeros(3)]), len(joint), torch.tensor(0.0), 0.1, 0)
    assert statistics[0] == joint.double().mean().float()


def test_unaligned_scores(kernels: ShimKernels) -> None:
    scores = _scores(20, 21, torch.float32, outliers=False)[1:]
    _, _, statistics = _ops.dv_term(scores, 19, torch.tensor(0.0), 0.1, 0)
    kernels.set_order(1)
    gradient = kernels.dv_term_backward(torch.tensor(1.0), scores, 19, statistics)
    _close(gradient, _ops.dv_term_backward(torch.tensor(1.0), scores, 19, statistics), 2e-6)
