"""One batch of concatenated rows for a critic: the joint pairs, then those of every shuffle."""

from __future__ import annotations

import pytest
import torch
from helpers import DTYPES, HUGE_ROWS, LAYOUTS, ROWS, assert_gradient_close, opcheck, sample
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from mine_fast import reference
from mine_fast.ops import pair, shuffle_index, shuffle_key

raw = torch.ops.mine_fast


def inputs(rows: int, device: str, dtype: torch.dtype = torch.float32, x_width: int = 3, y_width: int = 2):
    """x [B, dx], y [B, dy] and a key that differs by the size."""
    x = sample(rows, x_width, seed=1, dtype=dtype, device=device)
    y = sample(rows, y_width, seed=2, dtype=dtype, device=device)
    return x, y, shuffle_key(rows, 17, device)


def by_hand(x: Tensor, y: Tensor, key: Tensor, shuffles: int) -> Tensor:
    """The definition, block by block."""
    blocks = [torch.cat([x, y], dim=1)]
    blocks += [torch.cat([x, y[partner]], dim=1) for partner in shuffle_index(len(x), key, shuffles)]
    return torch.cat(blocks)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [*ROWS, HUGE_ROWS])
def test_rows_are_copied_exactly(dtype: torch.dtype, rows: int, device: str) -> None:
    x, y, key = inputs(rows, device, dtype)
    assert torch.equal(pair(x, y, key, 2), by_hand(x, y, key, 2))


@given(
    rows=st.integers(2, 50), x_width=st.integers(0, 9), y_width=st.integers(0, 9), shuffles=st.integers(1, 60),
    seed=st.integers(-(2**63), 2**63 - 1),
)  # fmt: skip
@example(rows=5, x_width=0, y_width=0, shuffles=2, seed=0)
def test_any_widths_and_number_of_shuffles(rows: int, x_width: int, y_width: int, shuffles: int, seed: int) -> None:
    x, y, _ = inputs(rows, "cpu", x_width=x_width, y_width=y_width)
    key = shuffle_key(seed)
    assert torch.equal(pair(x, y, key, shuffles), by_hand(x, y, key, shuffles))


@pytest.mark.parametrize("x_layout", LAYOUTS)
@pytest.mark.parametrize("y_layout", LAYOUTS)
def test_memory_layout_does_not_matter(x_layout: str, y_layout: str, device: str) -> None:
    x, y, key = inputs(41, device)
    assert torch.equal(pair(LAYOUTS[x_layout](x), LAYOUTS[y_layout](y), key), pair(x, y, key))


def test_expanded_inputs(device: str) -> None:
    x, y, key = inputs(41, device)
    constant = y[:1].expand_as(y)
    assert torch.equal(pair(x, constant, key, 2), torch.cat([x, constant], 1).repeat(3, 1))
    broadcast = x[:, :1].expand(41, 5)
    assert torch.equal(pair(broadcast, y, key), pair(broadcast.contiguous(), y, key))


def test_no_rows_give_an_empty_result_and_gradient(device: str) -> None:
    x, y, key = inputs(0, device)
    x.requires_grad_(), y.requires_grad_()
    paired = pair(x, y, key, 3)
    assert paired.shape == (0, 5)
    paired.sum().backward()
    assert x.grad.shape == x.shape
    assert y.grad.shape == y.shape


# --- backward ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "shuffles"), [(2, 1), (3, 4), (41, 3), (401, 1), (1271, 2), (50_021, 1)])
def test_gradient_equals_the_reference(dtype: torch.dtype, rows: int, shuffles: int, device: str) -> None:
    x, y, key = inputs(rows, device, dtype)
    leaves = x.requires_grad_(), y.requires_grad_()
    upstream = sample((1 + shuffles) * rows, 5, seed=3, dtype=dtype, device=device)
    grads = torch.autograd.grad(pair(*leaves, key, shuffles), leaves, upstream)

    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = torch.autograd.grad(reference.pair(*exact, key, shuffles), exact, upstream.double())
    for grad, exact_grad in zip(grads, expected, strict=True):
        assert_gradient_close(grad, exact_grad, dtype, terms=1 + shuffles)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_the_upstream_gradient_does_not_matter(layout: str, device: str) -> None:
    upstream, key = sample(3 * 41, 5, device=device), shuffle_key(5, device=device)
    for a, b in zip(
        raw.pair_backward(LAYOUTS[layout](upstream), key, 3, 2), raw.pair_backward(upstream, key, 3, 2), strict=True
    ):
        assert torch.equal(a, b)


def test_expanded_upstream_gradient(device: str) -> None:
    x, y, key = inputs(41, device)
    x.requires_grad_(), y.requires_grad_()
    pair(x, y, key, 2).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 3.0))
    assert torch.equal(y.grad, torch.full_like(y, 3.0))


@pytest.mark.parametrize("frozen", ["x", "y"])
def test_gradient_of_one_input_alone(frozen: str, device: str) -> None:
    x, y, key = inputs(9, device)
    leaf = (y if frozen == "x" else x).requires_grad_()
    pair(x, y, key).square().sum().backward()
    assert torch.allclose(leaf.grad, 4 * leaf)  # twice in the batch, 2 v each


@pytest.mark.parametrize("rows", [2, 3, 6])
def test_gradcheck_and_gradgradcheck(rows: int, device: str) -> None:
    x, y, key = inputs(rows, device, torch.float64)
    leaves = x.requires_grad_(), y.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: pair(a, b, key, 2), leaves)
    assert torch.autograd.gradgradcheck(lambda a, b: pair(a, b, key, 2) ** 2, leaves)


def test_the_same_key_gives_the_same_bits_whatever_the_threads(device: str, restore_threads: None) -> None:
    x, y, key = inputs(20_011, device)
    upstream = sample(3 * 20_011, 5, seed=3, device=device)

    def run() -> tuple[Tensor, ...]:
        return pair(x, y, key, 2), *raw.pair_backward(upstream, key, 3, 2)

    torch.set_num_threads(1)
    first, again = run(), run()
    torch.set_num_threads(2)
    threaded = run()
    for a, b, c in zip(first, again, threaded, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


# --- registration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 9])
def test_opcheck_forward(rows: int, device: str) -> None:
    x, y, key = inputs(rows, device)
    opcheck(raw.pair.default, (x.requires_grad_(), LAYOUTS["transposed"](y).requires_grad_(), key, 2))


def test_opcheck_backward(device: str) -> None:
    grad = sample(3 * 9, 5, device=device)
    opcheck(raw.pair_backward.default, (grad.requires_grad_(), shuffle_key(1, 2, device), 3, 2))
    opcheck(raw.pair_backward.default, (LAYOUTS["transposed"](grad.detach()), shuffle_key(1, 2, device), 3, 2))


def test_compiles_whole_with_dynamic_rows(device: str, fresh_dynamo: None) -> None:
    compiled = torch.compile(lambda x, y, key: pair(x, y, key, 2), fullgraph=True)
    for rows in (5, 41, 401):
        x, y, key = inputs(rows, device)
        leaves = x.requires_grad_(), y.requires_grad_()
        for leaf in leaves:
            torch._dynamo.mark_dynamic(leaf, 0)  # fails if the trace fixes the number of rows
        upstream = sample(3 * rows, 5, seed=3, device=device)
        result, expected = compiled(*leaves, key), pair(*leaves, key, 2)
        assert torch.equal(result, expected)
        for a, b in zip(*(torch.autograd.grad(r, leaves, upstream) for r in (result, expected)), strict=True):
            assert torch.equal(a, b)


def test_autocast_casts_in_the_critic_and_not_here(device: str) -> None:
    x, y, key = inputs(41, device)
    layer = torch.nn.Linear(5, 4, device=device)
    y.requires_grad_()
    with torch.autocast(device, torch.bfloat16):
        paired = pair(x, y, key)
        scores = layer(paired)
    assert paired.dtype == torch.float32
    assert scores.dtype == torch.bfloat16
    scores.sum().backward()
    assert y.grad.dtype == torch.float32
    # Every y meets two x, and the gradient of each is the (bfloat16) weight summed over the outputs.
    expected = 2 * layer.weight.detach().bfloat16().double()[:, 3:].sum(0).expand_as(y)
    torch.testing.assert_close(y.grad.double(), expected, atol=1e-2, rtol=2**-7)


# --- errors -----------------------------------------------------------------------------------------------------------

X, Y, KEY = torch.zeros(4, 3), torch.zeros(4, 2), shuffle_key(0)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "x must be a torch tensor, got list", lambda: pair([1.0], Y, KEY)),
        (TypeError, "y must be a torch tensor, got NoneType", lambda: pair(X, None, KEY)),
        (TypeError, "x must be a floating-point tensor.*int64", lambda: pair(X.long(), Y.long(), KEY)),
        (TypeError, "y must be a floating-point tensor.*complex64", lambda: pair(X, Y.to(torch.complex64), KEY)),
        (TypeError, "y must have the dtype of x, torch.float32, got torch.float64", lambda: pair(X, Y.double(), KEY)),
        (ValueError, "y must be on the device of x, cpu, got meta", lambda: pair(X, Y.to("meta"), KEY)),
        (ValueError, "key must be on the device of the data", lambda: pair(X.to("meta"), Y.to("meta"), KEY)),
        (ValueError, r"x and y must be \[B, dx\].*\[4\] and \[4, 2\]", lambda: pair(X[:, 0], Y, KEY)),
        (ValueError, r"x and y must be \[B, dx\].*\[4, 3\] and \[4, 2, 1\]", lambda: pair(X, Y[..., None], KEY)),
        (ValueError, "equally many rows, got 4 and 3", lambda: pair(X, Y[:3], KEY)),
        (ValueError, "batch of one row.*got 1 row", lambda: pair(X[:1], Y[:1], KEY)),
        (ValueError, "shuffles must be at least 1, got 0", lambda: pair(X, Y, KEY, 0)),
        (TypeError, "shuffles must be an integer, got str '2'", lambda: pair(X, Y, KEY, "2")),
        (TypeError, "key must be an int64 tensor.*got int 0", lambda: pair(X, Y, 0)),
    ],
)
def test_bad_arguments_are_named(error: type[Exception], message: str, call) -> None:
    with pytest.raises(error, match=message):
        call()


def test_raw_ops_refuse_what_they_would_misread(device: str) -> None:
    x, y, key = inputs(4, device)
    with pytest.raises(RuntimeError, match="a batch of one row cannot be shuffled"):
        raw.pair(x[:1], y[:1], key, 1)
    with pytest.raises(RuntimeError, match="a batch of one row cannot be shuffled"):
        raw.pair_backward(torch.zeros(2, 5, device=device), key, 3, 1)
