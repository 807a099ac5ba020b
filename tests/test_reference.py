"""The plain-torch reference against independent oracles: integer arithmetic, functions of torch, and maths."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import sample
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mine_fast import reference
from mine_fast.ops import shuffle_key

MASK64, MASK32 = (1 << 64) - 1, (1 << 32) - 1


# --- bijection: the same network in Python's unbounded integers -------------------------------------------------------


def mix64(v: int) -> int:
    v = ((v ^ (v >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    v = ((v ^ (v >> 27)) * 0x94D049BB133111EB) & MASK64
    return v ^ (v >> 31)


def mix32(v: int) -> int:
    v = ((v ^ (v >> 16)) * 0x7FEB352D) & MASK32
    v = ((v ^ (v >> 15)) * 0x846CA68B) & MASK32
    return v ^ (v >> 16)


def scalar_bijection(seed: int, offset: int, stream: int, n: int) -> list[int]:
    """csrc/shuffle.h read aloud: what 64-bit wrapping arithmetic of any language must give."""
    golden = 0x9E3779B97F4A7C15
    bits = max(6, (n - 1).bit_length())
    low_bits, high_bits = bits // 2, bits - bits // 2
    state = mix64((seed + golden) & MASK64)
    state = mix64(state ^ ((offset * 0xD1342543DE82EF95 + stream * 0xAF251AF3B0F025B5 + golden) & MASK64))
    keys = []
    for _ in range(8):
        state = (state + golden) & MASK64
        keys.append(mix64(state) >> 32)

    def encrypt(v: int) -> int:
        low, high = v & ((1 << low_bits) - 1), v >> low_bits
        for even, odd in zip(keys[::2], keys[1::2], strict=True):
            high ^= mix32(low ^ even) & ((1 << high_bits) - 1)
            low ^= mix32(high ^ odd) & ((1 << low_bits) - 1)
        return (high << low_bits) | low

    image = []
    for i in range(n):
        v = encrypt(i)
        while v >= n:
            v = encrypt(v)
        image.append(v)
    return image


seeds = st.integers(-(2**63), 2**63 - 1)


@given(seed=seeds, offset=seeds, stream=st.integers(0, 1), n=st.integers(1, 300))
def test_bijection_is_the_network_in_unbounded_integers(seed: int, offset: int, stream: int, n: int) -> None:
    image = reference.bijection(shuffle_key(seed, offset), stream, n)
    assert image.tolist() == scalar_bijection(seed, offset, stream, n)
    assert image.sort().values.tolist() == list(range(n))


@given(seed=seeds, offset=seeds, rows=st.integers(2, 100), shuffles=st.integers(1, 4))
def test_index_conjugates_cyclic_shifts(seed: int, offset: int, rows: int, shuffles: int) -> None:
    rank = scalar_bijection(seed, offset, 0, rows)
    row_of_rank = {r: i for i, r in enumerate(rank)}
    shifts = [1 + k for k in scalar_bijection(seed, offset, 1, rows - 1)]
    expected = [[row_of_rank[(rank[i] + shifts[s % (rows - 1)]) % rows] for i in range(rows)] for s in range(shuffles)]
    assert reference.shuffle_index(shuffle_key(seed, offset), rows, shuffles).tolist() == expected


def test_no_rows_and_one_row() -> None:
    assert reference.shuffle_index(shuffle_key(0), 0, 3).shape == (3, 0)
    with pytest.raises(RuntimeError, match="a batch of one row cannot be shuffled"):
        reference.shuffle_index(shuffle_key(0), 1, 1)


# --- pairing ----------------------------------------------------------------------------------------------------------


def test_pair_by_loops() -> None:
    x, y, key = sample(5, 2), sample(5, 3, seed=1), shuffle_key(4, 2)
    index = reference.shuffle_index(key, 5, 2)
    expected = [[*x[i].tolist(), *y[i].tolist()] for i in range(5)]
    expected += [[*x[i].tolist(), *y[index[s, i]].tolist()] for s in range(2) for i in range(5)]
    assert reference.pair(x, y, key, 2).tolist() == expected
    assert torch.equal(reference.marginal_shuffle(y, key, 2), reference.pair(x, y, key, 2)[5:, 2:].view(2, 5, 3))


# --- activations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("identity", lambda v, a: v),
        ("relu", lambda v, a: v.clamp(min=0)),
        ("leaky_relu", lambda v, a: torch.where(v > 0, v, a * v)),
        ("elu", lambda v, a: torch.where(v > 0, v, a * torch.expm1(v))),
        ("gelu", lambda v, a: v * torch.special.ndtr(v)),
        ("gelu_tanh", lambda v, a: F.gelu(v, approximate="tanh")),
        ("silu", lambda v, a: v * torch.sigmoid(v)),
        ("tanh", lambda v, a: torch.tanh(v)),
    ],
)
@pytest.mark.parametrize("slope", [0.01, 0.3, 1.0])
def test_activations_and_their_derivatives(activation: str, function, slope: float) -> None:
    v = torch.linspace(-12, 12, 4001, dtype=torch.float64)[torch.arange(4001) != 2000].requires_grad_()
    value = reference.activate(v, activation, slope)
    torch.testing.assert_close(value, function(v, slope), atol=1e-14, rtol=1e-13)
    (derivative,) = torch.autograd.grad(value.sum(), v)
    torch.testing.assert_close(reference.activation_derivative(v.detach(), activation, slope), derivative)


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_derivative_at_zero_is_torchs(activation: str) -> None:
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(reference.activate(zero, activation, 0.3).sum(), zero)
    torch.testing.assert_close(reference.activation_derivative(zero.detach(), activation, 0.3), derivative)


# --- Donsker-Varadhan term --------------------------------------------------------------------------------------------


@given(
    joint=st.lists(st.floats(-20, 20), min_size=1, max_size=10),
    marginal=st.lists(st.floats(-20, 20), min_size=1, max_size=10),
    alpha=st.floats(0.001, 1),
    log_ema=st.floats(-5, 5),
)
def test_dv_term_by_the_formulas(joint: list[float], marginal: list[float], alpha: float, log_ema: float) -> None:
    scores = torch.tensor(joint + marginal, dtype=torch.float64, requires_grad=True)
    mean = math.fsum(joint) / len(joint)
    batch = math.fsum(map(math.exp, marginal)) / len(marginal)
    ema = alpha * batch + (1 - alpha) * math.exp(log_ema)
    # d loss / d t_i = weight(t_i) / M: the moving average, the batch, and the f-divergence.
    expected = {
        "mine": (math.log(batch) - mean, math.log(ema), lambda t: math.exp(t) / ema),
        "mine_biased": (math.log(batch) - mean, log_ema, lambda t: math.exp(t) / batch),
        "fdiv": (batch / math.e - mean, log_ema, lambda t: math.exp(t - 1)),
    }
    for loss, (value, new_log_ema, weight) in expected.items():
        ema_tensor = torch.tensor(log_ema, dtype=torch.float64)
        actual, moved, statistics = reference.dv_term(scores, len(joint), ema_tensor, alpha, loss)
        (grad,) = torch.autograd.grad(actual, scores)
        assert actual.item() == pytest.approx(value, rel=1e-10, abs=1e-10)
        assert moved.item() == pytest.approx(new_log_ema, rel=1e-10, abs=1e-10)
        assert statistics[:2].tolist() == pytest.approx([mean, math.log(batch)], rel=1e-10, abs=1e-10)
        by_hand = [-1 / len(joint)] * len(joint) + [weight(t) / len(marginal) for t in marginal]
        assert grad.tolist() == pytest.approx(by_hand, rel=1e-9, abs=1e-14)


def test_first_batch_starts_the_average() -> None:
    scores = sample(12, dtype=torch.float64)
    nothing_yet = torch.tensor(-math.inf, dtype=torch.float64)
    _, log_ema, statistics = reference.dv_term(scores, 5, nothing_yet, 0.01, "mine")
    assert log_ema == statistics[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 200.0, 1e4, 1e30])
@pytest.mark.parametrize("dim", [0, 1])
def test_log_sum_exp_and_its_gradient(dtype, spread, dim):
    generator = torch.Generator().manual_seed(0)
    scores = (spread * torch.randn(40, 7, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    exact = scores.detach().double().requires_grad_()
    expected = torch.logsumexp(exact, dim)
    upstream = torch.linspace(-1, 2, len(expected), dtype=torch.float64)
    (expected @ upstream).backward()
    found = reference.log_sum_exp(scores, dim)
    (found @ upstream.to(dtype)).backward()
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=10 * tolerance)
    torch.testing.assert_close(scores.grad.double(), exact.grad, rtol=100 * tolerance, atol=tolerance)


def test_log_sum_exp_takes_no_exponential_that_underflows(monkeypatch):
    """Whose time is 15 to 60 times that of another."""
    seen, exp = [], torch.Tensor.exp
    monkeypatch.setattr(torch.Tensor, "exp", lambda self: (seen.append(float(self.min())), exp(self))[1])
    reference.log_sum_exp(torch.tensor([[0.0, -88.0, -1e30, -math.inf]]), 1)
    assert seen == [pytest.approx(-86.3, abs=0.1)]
    assert exp(torch.tensor(seen[0])) >= torch.finfo(torch.float32).tiny


def test_log_sum_exp_of_masked_and_broken_scores():
    masked = torch.tensor([[1.0, -math.inf], [-math.inf, 2.0]])
    torch.testing.assert_close(reference.log_sum_exp(masked, 1), torch.tensor([1.0, 2.0]))
    for broken in ([0.0, math.nan], [0.0, math.inf], [-math.inf, -math.inf]):
        scores = [torch.tensor(broken, requires_grad=True) for _ in range(2)]
        found = [of(one, 0) for of, one in zip((reference.log_sum_exp, torch.logsumexp), scores, strict=True)]
        for one in found:
            one.backward()
        torch.testing.assert_close(*found, equal_nan=True)
        torch.testing.assert_close(*(one.grad for one in scores), equal_nan=True)
    scores = torch.linspace(-3, 4, 12, dtype=torch.float64).view(3, 4).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda s: reference.log_sum_exp(s, 1), scores)


@pytest.mark.parametrize("alpha", [1e-2, 1e-4])
def test_the_value_does_not_feel_the_weights_of_the_gradient(alpha):
    """Where the average lags far behind, the weights sum to 1 / alpha; the value is that of the batch all the same."""
    scores = torch.randn(300, generator=torch.Generator().manual_seed(0))
    found, exact = (
        reference.dv_term(scores.to(dtype), 100, torch.tensor(-30.0, dtype=dtype), alpha, "mine")[0]
        for dtype in (torch.float32, torch.float64)
    )
    assert found.item() == pytest.approx(exact.item(), abs=5e-7)
