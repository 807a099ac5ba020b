"""The Donsker-Varadhan term: its value, the log-domain moving average, and the bias-corrected gradient."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import DTYPES, HUGE_ROWS, LAYOUTS, TOLERANCES, opcheck, sample, with_outliers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mine_fast import reference
from mine_fast.ops import LOSSES, DVTerm, dv_loss, dv_loss_of_scores, shuffle_key

raw = torch.ops.mine_fast
SIZES = [(1, 1), (2, 3), (41, 41), (401, 1271), (512, 513), (1271, 1024), (3, HUGE_ROWS), (HUGE_ROWS, 2)]
NO_EMA = -math.inf


def accumulation(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def relative_rounding(dtype: torch.dtype) -> float:
    """Rounding of what the kernels compute with, which is at least fp32; a result passes through a handful."""
    return 4 * torch.finfo(accumulation(dtype)).eps


def expected_term(scores: Tensor, joint_rows: int, log_ema: float, alpha: float, loss: str, upstream: float):
    """(loss, log_ema, statistics, gradient) of the fp64 reference."""
    exact = scores.detach().double().requires_grad_()
    ema = torch.tensor(log_ema, dtype=torch.float64, device=scores.device)
    value, new_ema, statistics = reference.dv_term(exact, joint_rows, ema, alpha, loss)
    (grad,) = torch.autograd.grad(value, exact, torch.full_like(value, upstream))
    return value.detach(), new_ema, statistics, grad


def assert_term_close(term: DVTerm, grad: Tensor, expected, dtype: torch.dtype, largest: float) -> None:
    """Compare with the fp64 reference; `largest` is the largest score, whose rounding the exponents inherit."""
    value, log_ema, statistics, exact_grad = expected
    rounding = relative_rounding(dtype)
    for name, actual, exact in zip(DVTerm._fields, term, (value, log_ema, statistics[0], statistics[1]), strict=True):
        assert actual.dtype == accumulation(dtype), name
        assert actual.shape == (), name
        # fdiv's value is exp(lme - 1): its relative error is the absolute error of lme.
        torch.testing.assert_close(
            actual.detach().double(), exact, atol=rounding * (1 + largest), rtol=rounding * (1 + largest), msg=name
        )
    assert grad.dtype == dtype
    # t - log_normaliser is rounded at the size of the scores, and exp makes that a relative error of the weight. Then
    # a 16-bit gradient is rounded to its dtype, where float16's may be subnormal (2^-24).
    rtol = rounding * (1 + largest) + next(t.rtol for t in TOLERANCES if t.dtype == dtype)
    subnormal = 2**-24 if dtype == torch.float16 else 1e-37
    torch.testing.assert_close(grad.double(), exact_grad, atol=subnormal, rtol=rtol)
    if dtype != torch.float16:  # subnormal weights have no direction to speak of
        assert 1 - torch.nn.functional.cosine_similarity(grad.double(), exact_grad, dim=0) < rtol**2 + 1e-14
        assert abs(grad.double().norm() / exact_grad.norm() - 1) < rtol
    # The joint gradients sum to -1, the marginal ones to the weight of the batch: what is lost or gained in the sum is
    # a bias of the whole step.
    allowed = exact_grad.abs().sum() * rtol + grad.numel() * subnormal
    assert abs((grad.double() - exact_grad).sum()) <= allowed


# --- value, statistics and gradient -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_equals_the_reference(n: int, m: int, loss: str, dtype: torch.dtype, device: str) -> None:
    scores = sample(n + m, seed=n, dtype=dtype, device=device).requires_grad_()
    term = dv_loss_of_scores(scores, n, torch.tensor(0.3, device=device), alpha=0.2, loss=loss)
    (grad,) = torch.autograd.grad(term.loss, scores, torch.full_like(term.loss, 1.7))
    log_ema = float(torch.tensor(0.3))
    expected = expected_term(scores, n, log_ema, 0.2, loss, float(torch.tensor(1.7, dtype=term.loss.dtype)))
    assert_term_close(term, grad, expected, dtype, largest=5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", ["mine", "mine_biased"])
@pytest.mark.parametrize("size", [200.0, 3e4])
def test_outlier_scores(size: float, loss: str, dtype: torch.dtype, device: str) -> None:
    scores = with_outliers(sample(401 + 1271, dtype=dtype, device=device), size).requires_grad_()
    assert scores.abs().max() > 0.9 * size
    term = dv_loss_of_scores(scores, 401, loss=loss)
    (grad,) = torch.autograd.grad(term.loss, scores)
    expected = expected_term(scores, 401, NO_EMA, 0.01, loss, 1.0)
    assert_term_close(term, grad, expected, dtype, largest=size)


@pytest.mark.parametrize("size", [200.0, 1e4, 1e30])
@pytest.mark.parametrize("loss", ["mine", "mine_biased"])
@pytest.mark.parametrize("sign", [(1, 1), (1, -1), (-1, 1), (-1, -1)], ids=str)
def test_any_finite_score_gives_a_finite_loss_and_gradient(
    size: float, loss: str, sign: tuple[int, int], device: str
) -> None:
    joint = (sign[0] * size + sample(41, device=device)).requires_grad_()
    marginal = (sign[1] * size + sample(1271, seed=1, device=device)).requires_grad_()
    log_ema = None
    for _ in range(3):
        term = dv_loss(joint, marginal, log_ema, loss=loss)
        grads = torch.autograd.grad(term.loss, (joint, marginal))
        assert all(t.isfinite().all() for t in (*term[:1], *term[2:], *grads))
        log_ema = term.log_ema
    assert loss == "mine_biased" or log_ema.isfinite()
    expected = (sign[1] - sign[0]) * size
    # The noise around +-size is within 5; where the two means cancel, fp32 rounding of their size is left.
    torch.testing.assert_close(term.loss.item(), expected, atol=5.0 + 1e-6 * size, rtol=1e-6)


def test_the_largest_fp32_scores(device: str) -> None:
    top = torch.finfo(torch.float32).max
    # The spread itself overflows fp32: exp(-inf) = 0 is the right weight.
    scores = torch.tensor([0.0, top, -top, top], device=device, requires_grad=True)
    term = dv_loss_of_scores(scores, 1)
    (grad,) = torch.autograd.grad(term.loss, scores)
    assert term.log_mean_exp == top
    assert term.loss == top
    torch.testing.assert_close(grad[2], torch.zeros_like(grad[2]), atol=0, rtol=0)
    assert grad.isfinite().all()


def test_fdiv_overflows_honestly(device: str) -> None:
    joint = torch.zeros(5, device=device)
    below = torch.full((7,), 88.0, device=device, requires_grad=True)
    term = dv_loss(joint, below, loss="fdiv")
    torch.testing.assert_close(term.loss.item(), math.exp(87.0), rtol=2e-5, atol=0)
    term.loss.backward()
    torch.testing.assert_close(below.grad.double().sum().item(), math.exp(87.0), rtol=1e-5, atol=0)
    # log(largest fp32) = 88.72, and fdiv has exp(t - 1).
    above = torch.full((7,), 90.0, device=device, requires_grad=True)
    term = dv_loss(joint, above, loss="fdiv")
    assert term.loss == math.inf
    assert term.log_mean_exp == 90.0
    assert torch.autograd.grad(term.loss, above)[0].isposinf().all()
    # One score beyond the limit among many: the mean may still be finite.
    mixed = torch.cat([above.detach()[:1] - 0.2, torch.zeros(9999, device=device)])
    torch.testing.assert_close(dv_loss(joint, mixed, loss="fdiv").loss.item(), math.exp(88.8) / 1e4, rtol=1e-5, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", [0, 3, 40, 41, 42, 700, 1311])
def test_a_nan_score_gives_a_nan_loss(place: int, dtype: torch.dtype, loss: str, device: str) -> None:
    scores = with_outliers(sample(41 + 1271, dtype=dtype, device=device))
    scores[place] = math.nan
    for others in (scores, torch.where(scores.isnan(), scores, -math.inf)):
        term = dv_loss_of_scores(others, 41, torch.tensor(0.1, device=device), loss=loss)
        assert term.loss.isnan()
        assert (term.joint_mean if place < 41 else term.log_mean_exp).isnan()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_minus_infinity_weighs_nothing(dtype: torch.dtype, device: str) -> None:
    """A critic may mask pairs with -inf: alone, in part, or as a whole block of the reduction."""
    joint, marginal = sample(9, dtype=dtype, device=device), sample(1300, seed=1, dtype=dtype, device=device)
    marginal[3] = -math.inf
    marginal[400:1200] = -math.inf
    marginal.requires_grad_()
    for loss in LOSSES:
        term = dv_loss(joint, marginal, loss=loss)
        (grad,) = torch.autograd.grad(term.loss, marginal)
        kept = marginal.isfinite()
        expected = torch.logsumexp(marginal[kept].double(), 0) - math.log(1300)
        torch.testing.assert_close(term.log_mean_exp.double(), expected.detach(), atol=1e-6, rtol=1e-6)
        assert term.loss.isfinite()
        assert (grad[~kept] == 0).all()
        assert (grad[kept] > 0).all()
    nothing = torch.full((600,), -math.inf, dtype=dtype, device=device)
    assert dv_loss(joint, nothing).log_mean_exp == -math.inf


def test_plus_infinity_is_not_hidden(device: str) -> None:
    for place in (0, 700):
        marginal = sample(1271, device=device)
        marginal[place] = math.inf
        for loss in LOSSES:
            assert not dv_loss(torch.zeros(3, device=device), marginal, loss=loss).loss.isfinite()


@given(
    joint=st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=30),
    marginal=st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=600),
    shift=st.floats(-1000, 1000),
)
def test_adding_a_constant_to_the_critic_changes_nothing(joint: list, marginal: list, shift: float) -> None:
    """DV is invariant to T + c, and its gradient with it; the log-mean-exp lies between mean and maximum."""
    scores = torch.tensor(joint + marginal, dtype=torch.float64, requires_grad=True)
    moved = (scores.detach() + shift).requires_grad_()
    terms = [dv_loss_of_scores(s, len(joint), loss="mine_biased") for s in (scores, moved)]
    torch.testing.assert_close(terms[0].loss, terms[1].loss, atol=1e-9, rtol=0)
    grads = [torch.autograd.grad(t.loss, s)[0] for t, s in zip(terms, (scores, moved), strict=True)]
    torch.testing.assert_close(*grads, atol=1e-9, rtol=0)
    tail = scores.detach()[len(joint) :]
    assert tail.mean() - 1e-9 <= terms[0].log_mean_exp <= tail.max() + 1e-9


# --- moving average ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_ema_is_mine_pytorchs_recurrence(dtype: torch.dtype, alpha: float, device: str) -> None:
    """running_mean <- alpha * mean(exp t) + (1 - alpha) * running_mean in the linear domain, over several steps."""
    running_mean, log_ema = None, None
    tolerance = {torch.float64: 1e-13, torch.float32: 2e-6}[dtype]
    for step in range(12):
        joint = sample(50, seed=2 * step, dtype=dtype, device=device)
        marginal = (sample(70, seed=2 * step + 1, dtype=dtype, device=device) + 0.2 * step).requires_grad_()
        term = dv_loss(joint, marginal, log_ema, alpha=alpha, loss="mine")
        (grad,) = torch.autograd.grad(term.loss, marginal)
        log_ema = term.log_ema

        t = marginal.detach().double()
        batch = t.exp().mean()
        running_mean = batch if running_mean is None else alpha * batch + (1 - alpha) * running_mean
        weights = t.exp() / running_mean / 70
        torch.testing.assert_close(log_ema.double().exp(), running_mean, atol=0, rtol=tolerance)
        torch.testing.assert_close(grad.double(), weights, atol=0, rtol=2 * tolerance)
        torch.testing.assert_close(term.loss.double(), batch.log() - joint.double().mean(), atol=tolerance, rtol=0)


def test_ema_follows_scores_out_of_the_linear_domain(device: str) -> None:
    """exp(400) has no fp32, nor exp(800) any fp64: the average of logarithms still moves as it should."""
    log_ema = None
    for level in (0.0, 400.0, 800.0, 800.0, 0.0):
        marginal = torch.full((5,), level, device=device, requires_grad=True)
        term = dv_loss(torch.zeros(3, device=device), marginal, log_ema, alpha=0.5)
        (grad,) = torch.autograd.grad(term.loss, marginal)
        weight = 0.2 * math.exp(level - float(term.log_ema))
        torch.testing.assert_close(grad, torch.full_like(grad, weight), rtol=1e-4, atol=0)
        log_ema = term.log_ema
    torch.testing.assert_close(log_ema.item(), 800 + math.log(0.75 * 0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("loss", ["mine_biased", "fdiv"])
def test_other_losses_leave_the_ema_alone(loss: str, device: str) -> None:
    scores = sample(20, device=device)
    log_ema = torch.tensor(0.7, device=device)
    term = dv_loss_of_scores(scores, 10, log_ema, loss=loss)
    assert term.log_ema == log_ema
    assert term.log_ema.data_ptr() != log_ema.data_ptr()  # a new state, which the caller may overwrite
    assert dv_loss_of_scores(scores, 10, loss=loss).log_ema == NO_EMA


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("ema_dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_log_ema_of_any_shape_and_dtype_comes_back_as_a_scalar(
    shape: tuple[int, ...], ema_dtype: torch.dtype, device: str
) -> None:
    log_ema = torch.full(shape, 0.5, dtype=ema_dtype, device=device, requires_grad=True)
    term = dv_loss_of_scores(sample(20, device=device), 10, log_ema)
    expected = expected_term(sample(20, device=device), 10, 0.5, 0.01, "mine", 1.0)[1]
    torch.testing.assert_close(term.log_ema.double(), expected, atol=1e-6, rtol=1e-6)
    assert term.log_ema.shape == ()
    assert log_ema.dtype == ema_dtype


def test_only_the_loss_is_differentiable(device: str) -> None:
    scores = sample(20, device=device).requires_grad_()
    term = dv_loss_of_scores(scores, 10, torch.tensor(0.1, device=device))
    assert [t.requires_grad for t in term] == [True, False, False, False]


def test_minus_infinity_starts_the_average(device: str) -> None:
    scores = sample(20, device=device)
    fresh = dv_loss_of_scores(scores, 10)
    for a, b in zip(fresh, dv_loss_of_scores(scores, 10, torch.tensor(NO_EMA, device=device)), strict=True):
        assert torch.equal(a, b)
    assert fresh.log_ema == fresh.log_mean_exp


# --- gradient by finite differences -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "log_ema"), [("mine_biased", None), ("fdiv", None), ("mine", None)])
def test_gradcheck(loss: str, log_ema: None, device: str) -> None:
    """For mine this holds on the first batch alone, where the average is the batch: later its gradient is corrected."""
    scores = with_outliers(sample(25, dtype=torch.float64, device=device), 3.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: dv_loss_of_scores(s, 9, log_ema, loss=loss).loss, scores)


def test_corrected_gradient_is_not_that_of_the_value(device: str) -> None:
    scores = sample(20, dtype=torch.float64, device=device).requires_grad_()
    log_ema = torch.tensor(3.0, dtype=torch.float64, device=device)
    corrected = dv_loss_of_scores(scores, 10, log_ema, loss="mine")
    biased = dv_loss_of_scores(scores, 10, log_ema, loss="mine_biased")
    assert torch.equal(corrected.loss, biased.loss)
    grads = [torch.autograd.grad(t.loss, scores)[0] for t in (corrected, biased)]
    torch.testing.assert_close(grads[0][:10], grads[1][:10], atol=1e-15, rtol=1e-14)
    factor = torch.exp(corrected.log_mean_exp - corrected.log_ema)
    torch.testing.assert_close(grads[0][10:], factor * grads[1][10:], atol=1e-15, rtol=1e-13)


@pytest.mark.parametrize("loss", LOSSES)
def test_second_derivative_is_refused_and_names_the_reference(loss: str, device: str) -> None:
    scores = sample(20, device=device).requires_grad_()
    (grad,) = torch.autograd.grad(dv_loss_of_scores(scores, 10, loss=loss).loss, scores, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"dv_loss can be differentiated once.*mine_fast\.reference"):
        grad.square().sum().backward()


@pytest.mark.parametrize("loss", ["mine_biased", "fdiv"])
def test_reference_has_the_second_derivative(loss: str) -> None:
    scores = sample(7, dtype=torch.float64).requires_grad_()
    ema = torch.tensor(NO_EMA, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda s: reference.dv_term(s, 3, ema, 0.01, loss)[0], scores)


# --- the host's exponential -------------------------------------------------------------------------------------------


def exponential(v: Tensor) -> Tensor:
    """exp(v) by the kernel: the marginal weights of M = len(v) scores, log normaliser 0 and upstream gradient M."""
    scores = torch.cat([v.new_zeros(1), v])
    # A power of two for M keeps upstream / M exact.
    return raw.dv_term_backward(v.new_tensor(float(len(v))), scores, 1, v.new_zeros(3))[1:]


def test_exponential_over_the_whole_range(device: str) -> None:
    v = torch.linspace(-110, 88.72, 2**19, dtype=torch.float64).float().to(device)
    result, expected = exponential(v).double(), v.double().exp()
    error = (result - expected).abs()
    normal = expected >= torch.finfo(torch.float32).tiny
    assert (error[normal] / expected[normal]).max() < 2e-7
    assert error[~normal].max() <= 2**-149  # one unit of the subnormals, down to 0
    assert (result[v < -104] == 0).all()


def test_exponential_at_its_ends(device: str) -> None:
    v = [math.inf, -math.inf, math.nan, 0.0, -0.0, 88.72283, 88.72284, 1e38, -1e38, -87.5, -104.1, -103.9]
    v = torch.tensor(v + [0.0] * 4, device=device)
    result = exponential(v)
    torch.testing.assert_close(result, v.double().exp().float(), rtol=2e-7, atol=2**-149, equal_nan=True)


# --- determinism, layouts, wrapper ------------------------------------------------------------------------------------


def test_the_same_scores_give_the_same_bits_whatever_the_threads(device: str, restore_threads: None) -> None:
    scores = with_outliers(sample(2 * HUGE_ROWS, device=device), 5.0).requires_grad_()

    def run() -> tuple[Tensor, ...]:
        term = dv_loss_of_scores(scores, HUGE_ROWS, torch.tensor(0.1, device=device))
        return *term, torch.autograd.grad(term.loss, scores)[0]

    torch.set_num_threads(1)
    first, again = run(), run()
    torch.set_num_threads(2)
    threaded = run()
    for a, b, c in zip(first, again, threaded, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_does_not_matter(layout: str, device: str) -> None:
    scores = sample(40, 6, device=device)
    expected = dv_loss_of_scores(scores, 100)
    for a, b in zip(dv_loss_of_scores(LAYOUTS[layout](scores), 100), expected, strict=True):
        assert torch.equal(a, b)
    strided = LAYOUTS[layout](scores).flatten() if layout == "contiguous" else LAYOUTS["every_other"](scores.flatten())
    statistics = torch.stack([expected.joint_mean, expected.log_mean_exp, expected.log_ema])
    upstream = torch.ones((), device=device)
    assert torch.equal(
        raw.dv_term_backward(upstream, strided, 100, statistics),
        raw.dv_term_backward(upstream, scores.flatten(), 100, statistics),
    )


def test_expanded_scores(device: str) -> None:
    constant = torch.full((1,), 2.0, device=device, requires_grad=True)
    term = dv_loss(constant.expand(9), (constant / 2).expand(17))
    assert term.loss == -1
    term.loss.backward()
    torch.testing.assert_close(constant.grad, torch.full_like(constant, -0.5))


@pytest.mark.parametrize("loss", LOSSES)
def test_two_tensors_of_any_shape_equal_one(loss: str, device: str) -> None:
    joint, marginal = sample(41, 1, device=device), sample(3, 41, 1, seed=1, device=device)
    apart = dv_loss(joint, marginal, loss=loss)
    together = dv_loss_of_scores(torch.cat([joint, marginal.flatten(0, 1)]), 41, loss=loss)
    for a, b in zip(apart, together, strict=True):
        assert torch.equal(a, b)


def test_gradients_keep_the_shapes_of_the_scores(device: str) -> None:
    joint = sample(5, 1, device=device).requires_grad_()
    marginal = sample(3, 5, seed=1, device=device).requires_grad_()
    dv_loss(joint, marginal).loss.backward()
    assert joint.grad.shape == (5, 1)
    assert marginal.grad.shape == (3, 5)
    torch.testing.assert_close(joint.grad, torch.full_like(joint, -0.2))
    torch.testing.assert_close(marginal.grad.sum().item(), 1.0)


def test_autocast_keeps_the_loss_in_fp32(device: str) -> None:
    critic = torch.nn.Linear(3, 1, device=device)
    pairs = sample(60, 3, device=device)
    with torch.autocast(device, torch.bfloat16):
        scores = critic(pairs)
        term = dv_loss_of_scores(scores, 20)
    assert scores.dtype == torch.bfloat16
    assert all(t.dtype == torch.float32 for t in term)
    term.loss.backward()
    expected = dv_loss_of_scores(scores.detach().double(), 20)
    torch.testing.assert_close(term.loss.double(), expected.loss, atol=1e-6, rtol=1e-6)
    assert critic.weight.grad.isfinite().all()


# --- registration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", range(3))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck_forward(loss: int, dtype: torch.dtype, device: str) -> None:
    log_ema = torch.tensor(0.2, dtype=accumulation(dtype), device=device)
    scores = sample(20, dtype=dtype, device=device)
    opcheck(raw.dv_term.default, (scores.requires_grad_(), 8, log_ema, 0.1, loss))


def test_opcheck_backward(device: str) -> None:
    statistics = torch.tensor([0.1, 0.2, 0.3], device=device)
    upstream = torch.tensor(1.5, device=device)
    # Without requires_grad: what it would differentiate is refused, by design.
    opcheck(raw.dv_term_backward.default, (upstream, sample(20, device=device), 8, statistics))
    opcheck(raw.dv_term_backward.default, (upstream, LAYOUTS["every_other"](sample(20, device=device)), 8, statistics))


@pytest.mark.parametrize("loss", LOSSES)
def test_compiles_whole_with_dynamic_rows(loss: str, device: str, fresh_dynamo: None) -> None:
    # One loss through inductor, which compiles C++; the others trace the same graph.
    backend = "inductor" if loss == "mine" else "aot_eager"

    def term_of(joint: Tensor, marginal: Tensor, log_ema: Tensor | None) -> DVTerm:
        return dv_loss(joint, marginal, log_ema, 0.1, loss)

    compiled = torch.compile(term_of, fullgraph=True, backend=backend)
    log_ema = torch.tensor(0.4, device=device)
    for rows in (5, 41, 401):
        leaves = [sample(n, seed=n, device=device).requires_grad_() for n in (rows, 2 * rows + 1)]
        for leaf in leaves:
            torch._dynamo.mark_dynamic(leaf, 0)  # fails if the trace fixes the number of rows
        result, expected = compiled(*leaves, log_ema), term_of(*leaves, log_ema)
        for a, b in zip(result, expected, strict=True):
            torch.testing.assert_close(a, b)
        upstream = torch.tensor(1.7, device=device)
        for a, b in zip(
            *(torch.autograd.grad(term.loss, leaves, upstream) for term in (result, expected)), strict=True
        ):
            torch.testing.assert_close(a, b)


def test_first_batch_compiles_whole(device: str, fresh_dynamo: None) -> None:
    scores = sample(20, device=device)
    compiled = torch.compile(lambda s: dv_loss_of_scores(s, 8), fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(scores), dv_loss_of_scores(scores, 8), strict=True):
        assert torch.equal(a, b)


# --- errors -----------------------------------------------------------------------------------------------------------

J, M = torch.zeros(4), torch.zeros(6)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "t_joint must be a torch tensor, got list", lambda: dv_loss([0.0], M)),
        (TypeError, "t_marginal must be a torch tensor, got NoneType", lambda: dv_loss(J, None)),
        (TypeError, "t_joint must be a floating-point tensor.*int64", lambda: dv_loss(J.long(), M)),
        (TypeError, "t_marginal must be a floating-point tensor.*complex64", lambda: dv_loss(J, M.to(torch.cfloat))),
        (TypeError, "t_marginal must have the dtype of t_joint", lambda: dv_loss(J, M.double())),
        (ValueError, "t_marginal must be on the device of t_joint, cpu", lambda: dv_loss(J, M.to("meta"))),
        (ValueError, "t_joint and t_marginal must not be empty, got 0 and 6 scores", lambda: dv_loss(J[:0], M)),
        (ValueError, "t_joint and t_marginal must not be empty, got 4 and 0 scores", lambda: dv_loss(J, M[:0])),
        (ValueError, "loss must be one of mine, mine_biased, fdiv, got 'dv'", lambda: dv_loss(J, M, loss="dv")),
        (ValueError, r"alpha must be in \(0, 1\], got 0", lambda: dv_loss(J, M, alpha=0)),
        (ValueError, r"alpha must be in \(0, 1\], got 1.5", lambda: dv_loss(J, M, alpha=1.5)),
        (ValueError, r"alpha must be in \(0, 1\], got nan", lambda: dv_loss(J, M, alpha=math.nan)),
        (TypeError, "log_ema must be a scalar tensor on cpu, got float 0.0", lambda: dv_loss(J, M, 0.0)),
        (ValueError, r"log_ema must be a scalar tensor on cpu, got.*shape \[2\]",
         lambda: dv_loss(J, M, torch.zeros(2))),
        (ValueError, "log_ema must be a scalar tensor on cpu, got.*meta",
         lambda: dv_loss(J, M, torch.zeros((), device="meta"))),
        (TypeError, "scores must be a floating-point tensor", lambda: dv_loss_of_scores(J.bool(), 2)),
        (ValueError, "scores must hold joint and marginal.*got 4 scores with joint_rows=0",
         lambda: dv_loss_of_scores(J, 0)),
        (ValueError, "got 4 scores with joint_rows=4", lambda: dv_loss_of_scores(J, 4)),
        (ValueError, "got 0 scores with joint_rows=1", lambda: dv_loss_of_scores(J[:0], 1)),
        (TypeError, "joint_rows must be an integer, got float 2.0", lambda: dv_loss_of_scores(J, 2.0)),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(error: type[Exception], message: str, call) -> None:
    with pytest.raises(error, match=message):
        call()


def test_raw_op_refuses_what_it_would_misread(device: str) -> None:
    scores, ema = sample(6, device=device), torch.zeros((), device=device)
    for joint_rows in (0, 6, -1, 7):
        with pytest.raises(RuntimeError, match="the DV term needs joint and marginal scores"):
            raw.dv_term(scores, joint_rows, ema, 0.1, 0)
    with pytest.raises(RuntimeError, match="log_ema must be a scalar tensor in the accumulation dtype"):
        raw.dv_term(scores, 3, ema.double(), 0.1, 0)
    with pytest.raises(RuntimeError, match="unknown loss code 3"):
        raw.dv_term(scores, 3, ema, 0.1, 3)
    with pytest.raises(RuntimeError, match="scores must be float16, bfloat16, float32 or float64"):
        raw.dv_term(shuffle_key(0, device=device), 1, ema, 0.1, 0)
