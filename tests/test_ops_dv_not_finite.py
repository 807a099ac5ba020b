"""Scores of +-inf and NaN: they show in the loss, the moving average outlives them, kernel and reference agree."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import DTYPES, JOINTS_NOT_FINITE, MARGINALS_NOT_FINITE
from torch import Tensor

from mine_fast import fallback, reference
from mine_fast.ops import LOSSES, dv_loss, dv_loss_of_scores

STARTED = 0.7
SUMS = {d: torch.float64 if d == torch.float64 else torch.float32 for d in DTYPES}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-9}


def kernel(scores: Tensor, joint_rows: int, log_ema: Tensor, loss: str) -> tuple[Tensor, ...]:
    term = dv_loss_of_scores(scores, joint_rows, log_ema, 0.1, loss)
    return (*term, *torch.autograd.grad(term.loss, scores))


def plain(scores: Tensor, joint_rows: int, log_ema: Tensor, loss: str) -> tuple[Tensor, ...]:
    value, new_log_ema, statistics = reference.dv_term(scores, joint_rows, log_ema, 0.1, loss)
    return (value, new_log_ema, *statistics[:2], *torch.autograd.grad(value, scores))


def assert_agree(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for a, e in zip(actual, expected, strict=True):
        tolerance = TOLERANCE[a.dtype]
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("log_ema", [-math.inf, STARTED])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("marginal", MARGINALS_NOT_FINITE)
def test_kernel_reference_and_fallback_agree(marginal: str, loss: str, log_ema: float, device: str) -> None:
    for joint in JOINTS_NOT_FINITE:
        for dtype in DTYPES:
            scores = torch.tensor([*joint, *MARGINALS_NOT_FINITE[marginal]], dtype=dtype, device=device)
            scores.requires_grad_()
            ema = torch.tensor(log_ema, dtype=SUMS[dtype], device=device)
            actual = kernel(scores, 2, ema, loss)
            assert_agree(actual, plain(scores, 2, ema, loss))
            value, new_ema, statistics = fallback.dv_term(scores.detach(), 2, ema, 0.1, LOSSES.index(loss))
            upstream = torch.ones((), dtype=ema.dtype, device=device)
            gradient = fallback.dv_term_backward(upstream, scores.detach(), 2, statistics)
            assert_agree(actual, (value, new_ema, *statistics[:2], gradient))


@pytest.mark.parametrize("log_ema", [-math.inf, STARTED])
@pytest.mark.parametrize("marginal", MARGINALS_NOT_FINITE)
def test_the_moving_average_outlives_a_batch_that_is_not_finite(marginal: str, log_ema: float, device: str) -> None:
    scores = torch.tensor(MARGINALS_NOT_FINITE[marginal], device=device)
    ema = torch.tensor(log_ema, device=device)
    for alpha in (0.1, 1.0):
        term = dv_loss(torch.zeros(3, device=device), scores, ema, alpha)
        expected = torch.logsumexp(scores.double(), 0) - math.log(scores.numel())
        torch.testing.assert_close(term.log_mean_exp.double(), expected, atol=1e-5, rtol=1e-6, equal_nan=True)
        if expected.isfinite():
            assert term.log_ema.isfinite()
            assert term.log_ema != ema
        else:
            assert term.log_ema == ema
            assert not term.loss.isfinite()
        # The next batch moves it as if this one had not been.
        after = dv_loss(torch.zeros(3, device=device), torch.ones(5, device=device), term.log_ema, alpha)
        assert after.loss.isfinite()
        assert after.log_ema.isfinite()


@pytest.mark.parametrize("joint", [math.inf, -math.inf, math.nan])
def test_joint_scores_leave_the_average_alone(joint: float, device: str) -> None:
    marginal, ema = torch.ones(5, device=device), torch.tensor(STARTED, device=device)
    bad = dv_loss(torch.tensor([joint, 0.0], device=device), marginal, ema, 0.1)
    assert not bad.loss.isfinite()
    assert bad.log_ema == dv_loss(torch.zeros(2, device=device), marginal, ema, 0.1).log_ema


def test_compiled_steps_keep_the_average(device: str, fresh_dynamo: None) -> None:
    compiled = torch.compile(lambda s, e: dv_loss_of_scores(s, 2, e, 0.1), fullgraph=True, backend="aot_eager")
    ema = torch.tensor(STARTED, device=device)
    for name, marginal in MARGINALS_NOT_FINITE.items():
        scores = torch.tensor([0.0, 1.0, *marginal], device=device)
        for a, e in zip(compiled(scores, ema), dv_loss_of_scores(scores, 2, ema, 0.1), strict=True):
            torch.testing.assert_close(a, e, equal_nan=True, msg=name)
