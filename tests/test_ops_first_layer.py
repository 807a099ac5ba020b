"""The paired first layer: W [x; y] + b and its activation for the joint pairs and those of every shuffle."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import DTYPES, LAYOUTS, assert_close, assert_gradient_close, opcheck, sample
from torch import Tensor, nn
from torch.nn import functional as F

from mine_fast import reference
from mine_fast.ops import ACTIVATIONS, pair, paired_first_layer, shuffle_key

raw = torch.ops.mine_fast
SLOPE = 0.3


def parts(rows: int, device: str, dtype: torch.dtype = torch.float32, width: int = 8, scale: float = 1.0):
    """x_part [B, h], y_part [B, h], bias [h] and a key: what the raw op takes."""
    x_part = sample(rows, width, seed=1, dtype=dtype, device=device, scale=scale)
    y_part = sample(rows, width, seed=2, dtype=dtype, device=device, scale=scale)
    return x_part, y_part, sample(width, seed=3, dtype=dtype, device=device), shuffle_key(rows, 5, device)


def layer_inputs(rows: int, device: str, dtype: torch.dtype = torch.float32):
    """x [B, 3], y [B, 2], weight [8, 5], bias [8] as leaves, and a key."""
    leaves = [
        sample(*shape, seed=seed, dtype=dtype, device=device).requires_grad_()
        for seed, shape in enumerate([(rows, 3), (rows, 2), (8, 5), (8,)])
    ]
    return leaves, shuffle_key(rows, 5, device)


def code(activation: str) -> int:
    return ACTIVATIONS.index(activation)


# --- forward and backward of the raw op -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_dtype_equals_the_reference(activation: str, dtype: torch.dtype, device: str) -> None:
    # Scale 3 reaches the flat ends of every activation.
    x_part, y_part, bias, key = parts(401, device, dtype, scale=3)
    result = raw.paired_first_layer(x_part, y_part, bias, key, 2, code(activation), SLOPE)
    exact = [t.double() for t in (x_part, y_part, bias)]
    expected = reference.paired_first_layer(*exact, key, 2, activation, SLOPE)
    # Pre-activations up to 10 in magnitude carry fp32 rounding of that size through.
    assert_close(result, expected, dtype, terms=10)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_gradient_equals_the_reference(activation: str, dtype: torch.dtype, device: str) -> None:
    leaves = [t.requires_grad_() for t in parts(401, device, dtype)[:3]]
    key = shuffle_key(3, device=device)
    upstream = sample(3 * 401, 8, seed=4, dtype=dtype, device=device)
    result = raw.paired_first_layer(*leaves, key, 2, code(activation), SLOPE)
    grads = torch.autograd.grad(result, leaves, upstream)

    exact = [t.detach().double().requires_grad_() for t in leaves]
    result = reference.paired_first_layer(*exact, key, 2, activation, SLOPE)
    expected = torch.autograd.grad(result, exact, upstream.double())
    for grad, exact_grad in zip(grads[:2], expected[:2], strict=True):
        assert_gradient_close(grad, exact_grad, dtype, terms=3)
    # The bias sums 401 rows that were rounded to the dtype, each by up to half a unit of values around 2.
    unit = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(grads[2].double(), expected[2], atol=unit * 401**0.5 + 1e-11, rtol=2 * unit)


@pytest.mark.parametrize("rows", [2, 3, 41, 1271, 50_021])
@pytest.mark.parametrize("shuffles", [1, 4])
@pytest.mark.parametrize("width", [1, 7, 33])
def test_every_size_equals_the_reference(rows: int, shuffles: int, width: int, device: str) -> None:
    if rows * shuffles * width > 2_000_000:
        rows = rows // 8
    *tensors, key = parts(rows, device, width=width)
    leaves = [t.requires_grad_() for t in tensors]
    upstream = sample((1 + shuffles) * rows, width, seed=4, device=device)
    result = raw.paired_first_layer(*leaves, key, shuffles, code("silu"), 1.0)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    expected = reference.paired_first_layer(*exact, key, shuffles, "silu")
    assert_close(result, expected, torch.float32)
    grads = torch.autograd.grad(result, leaves, upstream)
    exact_grads = torch.autograd.grad(expected, exact, upstream.double())
    for grad, exact_grad, terms in zip(grads, exact_grads, (1, 1, rows), strict=True):
        assert_gradient_close(grad, exact_grad, torch.float32, terms=terms * (1 + shuffles))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_does_not_matter(layout: str, device: str) -> None:
    x_part, y_part, bias, key = parts(41, device)
    upstream = sample(3 * 41, 8, seed=4, device=device)
    lay = LAYOUTS[layout]
    rest = (key, 2, code("tanh"), 1.0)
    forward = raw.paired_first_layer(lay(x_part), lay(y_part), lay(bias), *rest)
    assert torch.equal(forward, raw.paired_first_layer(x_part, y_part, bias, *rest))
    backward = raw.paired_first_layer_backward(lay(upstream), lay(x_part), lay(y_part), lay(bias), *rest)
    for a, b in zip(backward, raw.paired_first_layer_backward(upstream, x_part, y_part, bias, *rest), strict=True):
        assert torch.equal(a, b)


def test_expanded_inputs_and_upstream_gradient(device: str) -> None:
    x_part, y_part, bias, key = parts(41, device)
    expanded = [x_part[:1].expand_as(x_part), y_part[:, :1].expand_as(y_part), bias[:1].expand_as(bias)]
    leaves = [t.requires_grad_() for t in expanded]
    rest = (key, 2, code("gelu"), 1.0)
    grads = torch.autograd.grad(raw.paired_first_layer(*leaves, *rest).sum(), leaves)
    dense = [t.detach().contiguous().requires_grad_() for t in expanded]
    expected = torch.autograd.grad(raw.paired_first_layer(*dense, *rest).sum(), dense)
    for a, b in zip(grads, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rows", [2, 5])
def test_gradcheck(activation: str, rows: int, device: str) -> None:
    *tensors, key = parts(rows, device, torch.float64, width=3)
    # Finite differences would cross the kinks of relu and leaky_relu within 1e-4 of 0.
    pre = reference.paired_first_layer(*tensors, key, 2, "identity")
    assert pre.abs().min() > 1e-4
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda *t: raw.paired_first_layer(*t, key, 2, code(activation), SLOPE), leaves)


@pytest.mark.parametrize("through", ["values", "upstream"])
@pytest.mark.parametrize("leaf", range(4), ids=["x", "y", "weight", "bias"])
def test_second_derivative_is_refused_and_names_the_reference(through: str, leaf: int, device: str) -> None:
    """Also where the upstream gradient is a constant: there a node that saved its products would just miss a share."""
    leaves, key = layer_inputs(5, device, torch.float64)
    hidden = paired_first_layer(*leaves, key, activation="tanh")
    objective = hidden.sum() if through == "values" else hidden.square().sum()
    (grad,) = torch.autograd.grad(objective, leaves[leaf], create_graph=True)
    refusal = r"paired_first_layer can be differentiated once.*mine_fast\.reference"
    with pytest.raises(NotImplementedError, match=refusal):
        grad.sum().backward()


def test_reference_has_the_second_derivative() -> None:
    x_part, y_part, bias, key = parts(3, "cpu", torch.float64, width=2)
    leaves = [t.requires_grad_() for t in (x_part, y_part, bias)]
    assert torch.autograd.gradgradcheck(lambda *t: reference.paired_first_layer(*t, key, 1, "tanh"), leaves)


def test_the_same_key_gives_the_same_bits_whatever_the_threads(device: str, restore_threads: None) -> None:
    *tensors, key = parts(10_007, device, width=9)
    leaves = [t.requires_grad_() for t in tensors]
    upstream = sample(3 * 10_007, 9, seed=4, device=device)

    def run() -> tuple[Tensor, ...]:
        hidden = raw.paired_first_layer(*leaves, key, 2, code("gelu"), 1.0)
        return hidden, *torch.autograd.grad(hidden, leaves, upstream)

    torch.set_num_threads(1)
    first, again = run(), run()
    torch.set_num_threads(2)
    threaded = run()
    for a, b, c in zip(first, again, threaded, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


# --- activations over the whole range of fp32 -------------------------------------------------------------------------


def on_values(v: Tensor, activation: str, slope: float = 1.0) -> Tensor:
    """The activation alone, of a vector, through the kernel."""
    zero = torch.zeros_like(v)[:, None]
    hidden = raw.paired_first_layer(
        v[:, None], zero, zero[0], shuffle_key(0, device=v.device), 1, code(activation), slope
    )
    return hidden[: len(v), 0]


def derivative_on_values(v: Tensor, activation: str, slope: float = 1.0) -> Tensor:
    """The derivative of the activation alone, of a vector, through the backward kernel."""
    zero = torch.zeros_like(v)[:, None]
    grad = torch.cat([torch.ones_like(zero), zero])  # of the joint rows alone
    key = shuffle_key(0, device=v.device)
    return raw.paired_first_layer_backward(grad, v[:, None], zero, zero[0], key, 1, code(activation), slope)[0][:, 0]


def whole_range(device: str, top: float = 1e38) -> Tensor:
    """fp32 from the subnormals to `top` in either sign, and densely where the activations bend."""
    magnitudes = torch.logspace(-44, math.log10(top), 60_001, dtype=torch.float64)
    bend = torch.linspace(-110, 110, 120_001, dtype=torch.float64)
    return torch.cat([magnitudes, -magnitudes, bend]).float().to(device)


SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


@pytest.mark.parametrize(
    ("activation", "relative"),
    [
        # One rounding of exp, one or two of the quotient: fp32 has 6e-8 per rounding.
        ("identity", 0.0),
        ("relu", 0.0),
        ("leaky_relu", 1.2e-7),
        ("tanh", 3e-7),
        ("elu", 4e-7),
        ("silu", 3e-7),
    ],
)
def test_relative_accuracy_over_the_whole_range(activation: str, relative: float, device: str) -> None:
    v = whole_range(device)
    # silu is x / (1 + exp(-x)), as torch's: where exp overflows it is 0 and truly below 1e-36.
    if activation == "silu":
        v = v[v > -88.7]
    expected = reference.activate(v.double(), activation, SLOPE)
    result = on_values(v, activation, SLOPE).double()
    assert result.isfinite().all()
    error = (result - expected).abs()
    normal = expected.abs() >= SMALLEST_NORMAL
    assert (error[normal] / expected.abs()[normal]).max() <= relative
    assert error[~normal].max() <= 2 * 2**-149  # two units of the subnormals


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_absolute_accuracy_of_values_and_derivatives(activation: str, device: str) -> None:
    # gelu_tanh's derivative has x^2 and leaves fp32 beyond 5e19, here as in torch.
    v = whole_range(device, top=1e18)
    expected = reference.activate(v.double(), activation, SLOPE)
    error = (on_values(v, activation, SLOPE).double() - expected).abs()
    assert (error / (1 + expected.abs())).max() <= 3e-7
    expected = reference.activation_derivative(v.double(), activation, SLOPE)
    error = (derivative_on_values(v, activation, SLOPE).double() - expected).abs()
    # silu's v * (1 - sigmoid(v)), and gelu_tanh's likewise, multiply the rounding of 1 - s, 6e-8, by v up to 17.
    assert error.max() <= 1.1e-6


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_non_finite_values_are_torch_s(activation: str, device: str) -> None:
    v = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0], device=device)
    torch.testing.assert_close(
        on_values(v, activation, SLOPE), reference.activate(v, activation, SLOPE), equal_nan=True, atol=0, rtol=1e-6
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_nan_stays_a_nan_in_every_dtype(activation: str, dtype: torch.dtype, device: str) -> None:
    x_part, y_part, bias, key = parts(41, device, dtype, width=33)
    x_part[7, 20] = math.nan
    hidden = raw.paired_first_layer(x_part, y_part, bias, key, 2, code(activation), SLOPE)
    assert torch.equal(hidden.isnan().nonzero().cpu(), torch.tensor([[7, 20], [48, 20], [89, 20]]))


# --- wrapper ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "slope", "module"),
    [
        ("identity", None, nn.Identity()),
        ("relu", None, nn.ReLU()),
        ("leaky_relu", None, nn.LeakyReLU()),
        ("leaky_relu", 0.2, nn.LeakyReLU(0.2)),
        ("elu", None, nn.ELU()),
        ("elu", 0.7, nn.ELU(0.7)),
        ("gelu", None, nn.GELU()),
        ("gelu_tanh", None, nn.GELU(approximate="tanh")),
        ("silu", None, nn.SiLU()),
        ("tanh", None, nn.Tanh()),
    ],
    ids=str,
)
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_a_linear_layer_of_the_pairs(
    activation: str, slope: float | None, module: nn.Module, with_bias: bool, device: str
) -> None:
    (x, y, weight, bias), key = layer_inputs(41, device, torch.float64)
    leaves = [x, y, weight, *([bias] if with_bias else [])]
    bias = bias if with_bias else None
    hidden = paired_first_layer(x, y, weight, bias, key, 3, activation, slope)
    expected = module(F.linear(pair(x, y, key, 3), weight, bias))
    torch.testing.assert_close(hidden, expected, atol=1e-12, rtol=1e-12)
    upstream = sample(*hidden.shape, seed=9, dtype=torch.float64, device=device)
    for a, b in zip(*(torch.autograd.grad(r, leaves, upstream) for r in (hidden, expected)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_no_rows_give_an_empty_result_and_zero_gradients(device: str) -> None:
    leaves, key = layer_inputs(0, device)
    hidden = paired_first_layer(*leaves, key, 2)
    assert hidden.shape == (0, 8)
    hidden.sum().backward()
    for leaf in leaves:
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_autocast_computes_in_sixteen_bits(device: str) -> None:
    leaves, key = layer_inputs(401, device)
    with torch.autocast(device, torch.bfloat16):
        hidden = paired_first_layer(*leaves, key, 2, "silu")
    assert hidden.dtype == torch.bfloat16
    upstream = sample(*hidden.shape, seed=9, dtype=torch.bfloat16, device=device)
    grads = torch.autograd.grad(hidden, leaves, upstream)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    expected = paired_first_layer(*exact, key, 2, "silu")
    # The inputs, both products and the result are each rounded to 8 bits: values of a few units, off by a few 2^-8.
    torch.testing.assert_close(hidden.double(), expected, atol=5e-2, rtol=2e-2)
    for grad, exact_grad in zip(grads, torch.autograd.grad(expected, exact, upstream.double()), strict=True):
        assert grad.dtype == torch.float32
        assert F.cosine_similarity(grad.double().flatten(), exact_grad.flatten(), dim=0) > 0.9999
        assert abs(grad.double().norm() / exact_grad.norm() - 1) < 5e-3


# --- registration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("rows", [0, 9])
def test_opcheck_forward(activation: str, rows: int, device: str) -> None:
    *tensors, key = parts(rows, device)
    opcheck(raw.paired_first_layer.default, (*[t.requires_grad_() for t in tensors], key, 2, code(activation), SLOPE))


def test_opcheck_backward(device: str) -> None:
    *tensors, key = parts(9, device)
    grad = sample(3 * 9, 8, seed=4, device=device)
    # Without requires_grad: what it would differentiate is refused, by design.
    opcheck(raw.paired_first_layer_backward.default, (grad, *tensors, key, 2, code("silu"), SLOPE))
    opcheck(
        raw.paired_first_layer_backward.default,
        (LAYOUTS["transposed"](grad), *map(LAYOUTS["transposed"], tensors), key, 2, code("silu"), SLOPE),
    )


def test_compiles_whole_with_dynamic_rows(device: str, fresh_dynamo: None) -> None:
    def layer(*args: Tensor) -> Tensor:
        return paired_first_layer(*args, 2, "gelu_tanh")

    compiled = torch.compile(layer, fullgraph=True)
    for rows in (5, 41, 401):
        leaves, key = layer_inputs(rows, device)
        for leaf in leaves[:2]:
            torch._dynamo.mark_dynamic(leaf, 0)  # fails if the trace fixes the number of rows
        upstream = sample(3 * rows, 8, seed=9, device=device)
        result, expected = compiled(*leaves, key), layer(*leaves, key)
        torch.testing.assert_close(result, expected)
        for a, b in zip(*(torch.autograd.grad(r, leaves, upstream) for r in (result, expected)), strict=True):
            torch.testing.assert_close(a, b)


def test_compiles_whole_under_autocast(device: str, fresh_dynamo: None) -> None:
    @torch.compile(fullgraph=True, backend="aot_eager")
    def layer(*args: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return paired_first_layer(*args)

    leaves, key = layer_inputs(41, device)
    with torch.autocast(device, torch.bfloat16):
        expected = paired_first_layer(*leaves, key)
    result = layer(*leaves, key)
    assert torch.equal(result, expected)
    result.sum().backward()
    assert all(leaf.grad is not None for leaf in leaves)


# --- errors -----------------------------------------------------------------------------------------------------------

X, Y, W, B, KEY = torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(8, 5), torch.zeros(8), shuffle_key(0)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "x must be a torch tensor, got list", lambda: paired_first_layer([0.0], Y, W, B, KEY)),
        (TypeError, "x must be a floating-point tensor", lambda: paired_first_layer(X.int(), Y, W, B, KEY)),
        (TypeError, "y must have the dtype of x", lambda: paired_first_layer(X, Y.half(), W, B, KEY)),
        (ValueError, "y must be on the device of x", lambda: paired_first_layer(X, Y.to("meta"), W, B, KEY)),
        (ValueError, r"x and y must be \[B, dx\]", lambda: paired_first_layer(X, Y[:, 0], W, B, KEY)),
        (ValueError, "equally many rows, got 4 and 2", lambda: paired_first_layer(X, Y[:2], W, B, KEY)),
        (ValueError, "batch of one row.*got 1 row", lambda: paired_first_layer(X[:1], Y[:1], W, B, KEY)),
        (ValueError, "shuffles must be at least 1, got 0", lambda: paired_first_layer(X, Y, W, B, KEY, 0)),
        (TypeError, "key must be an int64 tensor", lambda: paired_first_layer(X, Y, W, B, None)),
        (TypeError, "weight must be a torch tensor, got NoneType", lambda: paired_first_layer(X, Y, None, B, KEY)),
        (TypeError, "weight must have the dtype of x", lambda: paired_first_layer(X, Y, W.double(), B, KEY)),
        (ValueError, "weight must be on the device of x", lambda: paired_first_layer(X, Y, W.to("meta"), B, KEY)),
        (ValueError, r"weight must be \[h, dx \+ dy\] = \[h, 5\], got shape \[8, 4\]",
         lambda: paired_first_layer(X, Y, W[:, :4], B, KEY)),
        (ValueError, r"weight must be \[h, dx \+ dy\].*\[8\]", lambda: paired_first_layer(X, Y, W[:, 0], B, KEY)),
        (TypeError, "bias must be a torch tensor, got float", lambda: paired_first_layer(X, Y, W, 0.0, KEY)),
        (TypeError, "bias must have the dtype of x", lambda: paired_first_layer(X, Y, W, B.double(), KEY)),
        (ValueError, r"bias must be \[h\] = \[8\], got shape \[7\]", lambda: paired_first_layer(X, Y, W, B[:7], KEY)),
        (ValueError, "activation must be one of identity, relu.*got 'swish'",
         lambda: paired_first_layer(X, Y, W, B, KEY, activation="swish")),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(error: type[Exception], message: str, call) -> None:
    with pytest.raises(error, match=message):
        call()


def test_raw_ops_refuse_what_they_would_misread(device: str) -> None:
    x_part, y_part, bias, key = parts(4, device)
    upstream = sample(8, 8, device=device)
    rest = (key, 1, code("relu"), 1.0)
    with pytest.raises(RuntimeError, match="a batch of one row cannot be shuffled"):
        raw.paired_first_layer(x_part[:1], y_part[:1], bias, *rest)
    with pytest.raises(RuntimeError, match="a batch of one row cannot be shuffled"):
        raw.paired_first_layer_backward(upstream[:2], x_part[:1], y_part[:1], bias, *rest)
    with pytest.raises(RuntimeError, match="unknown activation code 99"):
        raw.paired_first_layer(x_part, y_part, bias, key, 1, 99, 1.0)
    with pytest.raises(RuntimeError, match=r"x_part and y_part must be \[B, h\] and bias \[h\]"):
        raw.paired_first_layer(x_part, y_part[:3], bias, *rest)
    with pytest.raises(RuntimeError, match="must have one dtype"):
        raw.paired_first_layer(x_part, y_part, bias.double(), *rest)
    with pytest.raises(RuntimeError, match=r"grad must be \[\(1 \+ S\) \* B, h\]"):
        raw.paired_first_layer_backward(upstream[:5], x_part, y_part, bias, *rest)
