"""The op on all pairs of a batch and its fallback in tiles, against dense fp64 torch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers import LAYOUTS, MARGINALS_NOT_FINITE, assert_gradients_close, opcheck, sample
from torch import Tensor

from mine_fast import all_pairs_tiles, reference
from mine_fast.ops import ACTIVATIONS, LOSSES, all_pairs_loss

raw = torch.ops.mine_fast
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
DTYPES = tuple(TOLERANCE)
UPSTREAM = 3.7


class Perceptron:
    """Rows and layers as leaves; `x`, `y`, weights and biases."""

    def __init__(self, rows=41, hidden=(13, 7), dtype=torch.float32, activation="silu", slope=0.3, scale=1.0):
        widths = [5, *hidden, 1]
        shapes = [(rows, 3), (rows, 2), *[(b, a) for a, b in itertools.pairwise(widths)], *[(w,) for w in widths[1:]]]
        leaves = [sample(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes)]
        self.x, self.y, *layers = leaves
        depth = len(hidden) + 1
        self.weights = [w * scale / w.shape[1] ** 0.5 for w in layers[:depth]]
        self.biases = layers[depth:]
        self.rest = (activation, slope)
        for leaf in self.leaves:
            leaf.requires_grad_()

    @property
    def leaves(self) -> list[Tensor]:
        return [self.x, self.y, *self.weights, *self.biases]

    def term(self, **arguments):
        return all_pairs_loss(self.x, self.y, self.weights, self.biases, *self.rest, **arguments)

    def gradient(self, loss: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad(UPSTREAM * loss, self.leaves, allow_unused=True))

    def exact(self, **arguments) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Loss, new log-EMA and gradient of the leaves in dense fp64."""
        leaves = [leaf.detach().double().requires_grad_() for leaf in self.leaves]
        x, y, *layers = leaves
        weights, biases = layers[: len(self.weights)], layers[len(self.weights) :]
        later = [t for layer in zip(weights[1:], biases[1:], strict=True) for t in layer]
        hidden = len(weights) - 1
        names = [self.rest[0]] * hidden if isinstance(self.rest[0], str) else self.rest[0]
        log_ema = torch.as_tensor(arguments.pop("log_ema", -math.inf)).double()
        loss, log_ema, _ = reference.all_pairs(
            x @ weights[0][:, :3].T + biases[0], y @ weights[0][:, 3:].T, later, names, [self.rest[1]] * hidden,
            log_ema, **arguments,
        )  # fmt: skip
        return loss, log_ema, list(torch.autograd.grad(UPSTREAM * loss, leaves))


def check(made, tolerance, **arguments):
    term = made.term(**arguments)
    loss, log_ema, gradient = made.exact(**arguments)
    assert term.loss.dtype == term.log_ema.dtype == made.x.dtype
    assert term.loss.item() == pytest.approx(loss.item(), rel=tolerance, abs=tolerance)
    assert term.log_ema.item() == pytest.approx(log_ema.item(), rel=tolerance, abs=tolerance)
    assert (term.log_mean_exp - term.joint_mean).isfinite()
    assert_gradients_close(made.gradient(term.loss), gradient, tolerance)


# The op. --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("log_ema", [-math.inf, 0.7])
def test_every_loss_equals_the_dense_one(dtype, loss, log_ema):
    check(Perceptron(dtype=dtype), TOLERANCE[dtype], loss=loss, log_ema=torch.tensor(log_ema), alpha=0.2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_equals_the_dense_one(dtype, activation):
    check(Perceptron(dtype=dtype, activation=activation), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [2, 3, 8, 130, 401])
@pytest.mark.parametrize("hidden", [(1,), (64, 64), (9, 17, 3)], ids=str)
def test_every_size_equals_the_dense_one(dtype, rows, hidden):
    check(Perceptron(rows, hidden, dtype, "relu"), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_beyond_the_range_of_exp(dtype):
    made = Perceptron(130, dtype=dtype, scale=12.0)
    term = made.term()
    assert term.log_mean_exp > 120
    # fp32 rounds scores of some hundreds by 1e-5, and the exponent passes that on.
    check(made, 3e-4 if dtype == torch.float32 else 1e-10)


def test_tiles_of_the_fallback_that_divide_nothing(monkeypatch):
    monkeypatch.setattr(all_pairs_tiles, "_CPU_PAIRS", 3 * 41)
    check(Perceptron(41, dtype=torch.float64), 1e-10)


def test_fp32_in_the_fallback_too():
    """What a device without kernels computes."""
    made = Perceptron(301)
    layers = [t.detach() for layer in zip(made.weights[1:], made.biases[1:], strict=True) for t in layer]
    x_part = (made.x @ made.weights[0][:, :3].T + made.biases[0]).detach()
    y_part = (made.y @ made.weights[0][:, 3:].T).detach()
    code = ACTIVATIONS.index("silu")
    arguments = (x_part, y_part, layers, [code] * 2, [1.0] * 2, torch.tensor(0.3), 0.01, 0, True)
    for plain, kernel in zip(all_pairs_tiles.all_pairs(*arguments), raw.all_pairs(*arguments), strict=True):
        assert plain.dtype == kernel.dtype
        torch.testing.assert_close(plain, kernel, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits_are_computed_in_float32(dtype):
    made = Perceptron(dtype=dtype)
    term = made.term()
    assert term.loss.dtype == torch.float32
    loss, _, gradient = made.exact()
    assert term.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert_gradients_close(made.gradient(term.loss), gradient, torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_does_not_matter(layout, dtype):
    made, dense = Perceptron(dtype=dtype), Perceptron(dtype=dtype)
    lay = LAYOUTS[layout]
    x, y = (lay(t.detach()).requires_grad_() for t in (made.x, made.y))
    weights, biases = ([lay(t) for t in tensors] for tensors in (made.weights, made.biases))
    loss = all_pairs_loss(x, y, weights, biases, *made.rest).loss
    grads = torch.autograd.grad(UPSTREAM * loss, [x, y, *made.weights, *made.biases])
    assert_gradients_close(grads, [g.double() for g in dense.gradient(dense.term().loss)], TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_frozen_leaves_get_no_gradient_and_change_no_other(dtype):
    made = Perceptron(dtype=dtype)
    every = made.gradient(made.term().loss)
    frozen = [made.x, made.weights[1], made.biases[0], made.biases[2]]
    for leaf in frozen:
        leaf.requires_grad_(False)
    rest = [leaf for leaf in made.leaves if leaf.requires_grad]
    found = iter(torch.autograd.grad(UPSTREAM * made.term().loss, rest))
    for leaf, wanted in zip(made.leaves, every, strict=True):
        if leaf.requires_grad:
            assert torch.equal(next(found), wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_biases_may_be_missing(dtype):
    made = Perceptron(dtype=dtype)
    for bias in made.biases:
        bias.detach().zero_()
    wanted = made.term().loss
    found = all_pairs_loss(made.x, made.y, made.weights, [None] * 3, *made.rest).loss
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_gradient_the_value_is_the_same(dtype):
    made = Perceptron(dtype=dtype)
    with torch.no_grad():
        term = made.term()
    assert not term.loss.requires_grad
    assert torch.equal(term.loss, made.term().loss.detach())


def test_one_activation_and_slope_for_each_layer():
    made = Perceptron(dtype=torch.float64)
    made.rest = (("elu", "tanh"), 0.3)
    check(made, 1e-10)
    term = all_pairs_loss(made.x, made.y, made.weights, made.biases, ["elu", "tanh"], [0.3, 1.0])
    assert torch.equal(term.loss, made.term().loss)


@pytest.mark.parametrize("rows", [2, 4])
def test_gradcheck(rows):
    made = Perceptron(rows, (4, 3), torch.float64, "tanh")

    def loss(x, y, *layers):
        # Of the biased loss: the other's gradient is not that of its value.
        return all_pairs_loss(x, y, layers[:3], layers[3:], "tanh", loss="mine_biased").loss

    assert torch.autograd.gradcheck(loss, made.leaves)


def test_second_derivative_is_refused_and_names_the_reference():
    made = Perceptron()
    (grad,) = torch.autograd.grad(made.term().loss, made.x, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"all_pairs_loss can be differentiated once.*mine_fast\.reference"):
        grad.square().sum().backward()


@pytest.mark.parametrize("loss", range(3))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(dtype, loss):
    made = Perceptron(11, dtype=dtype)
    layers = [
        t.detach().requires_grad_() for layer in zip(made.weights[1:], made.biases[1:], strict=True) for t in layer
    ]
    parts = [sample(11, 13, seed=s, dtype=dtype).requires_grad_() for s in range(2)]
    log_ema = torch.tensor(0.3, dtype=dtype)
    opcheck(raw.all_pairs.default, (*parts, layers, [1, 6], [1.0, 1.0], log_ema, 0.1, loss, True))
    inputs = [part.detach() for part in parts]
    opcheck(raw.all_pairs_backward.default, (log_ema, inputs[0].flatten(), inputs))


def test_the_raw_op_without_gradient_says_so():
    parts = [sample(5, 4, seed=s).requires_grad_() for s in range(2)]
    layers = [sample(1, 4), sample(1)]
    loss, *_ = raw.all_pairs(*parts, layers, [1], [1.0], torch.tensor(0.0), 0.1, 0, False)
    with pytest.raises(RuntimeError, match="with_gradient=False"):
        loss.backward()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compiles_as_one_graph(dtype, fresh_dynamo):
    made = Perceptron(dtype=dtype)
    log_ema = torch.tensor(0.3, dtype=dtype)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(x, y, *layers):
        return 2 * all_pairs_loss(x, y, layers[:3], layers[3:], "silu", log_ema=log_ema).loss

    value = loss(*made.leaves)
    assert value.item() == pytest.approx(2 * made.term(log_ema=log_ema).loss.item(), rel=1e-6)
    wanted = made.gradient(made.term(log_ema=log_ema).loss)
    for found, w in zip(torch.autograd.grad(value, made.leaves), wanted, strict=True):
        torch.testing.assert_close(found, w * (2 / UPSTREAM))


def test_autocast_keeps_the_sums_in_float32():
    made = Perceptron(dtype=torch.float32)
    plain = made.term().loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = made.term().loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(plain.item(), rel=0.02)
    assert all(g.dtype == torch.float32 for g in made.gradient(loss))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [n for n, values in MARGINALS_NOT_FINITE.items() if len(values) < 10])
def test_scores_that_are_not_finite_show_and_leave_the_average(name, dtype):
    """One-column layers that pass x through: row i of x scores what it holds with every row of y."""
    values = MARGINALS_NOT_FINITE[name]
    x = torch.tensor([*values, values[0]], dtype=dtype)[:, None]
    one, zero = torch.ones(1, 1, dtype=dtype), torch.zeros(1, dtype=dtype)
    weights = [torch.tensor([[1.0, 0.0]], dtype=dtype), one]
    term = all_pairs_loss(x, torch.zeros_like(x), weights, [zero, zero], "identity", log_ema=torch.tensor(0.25))
    log_mean_exp = torch.logsumexp(x[:, 0].double(), 0) - math.log(len(x))
    torch.testing.assert_close(term.log_mean_exp.double(), log_mean_exp, equal_nan=True)
    assert term.loss.isfinite() == (log_mean_exp - x.mean()).isfinite()
    assert term.log_ema.isfinite()
    assert (term.log_ema == 0.25) == (not log_mean_exp.isfinite())


X, Y = sample(6, 3), sample(6, 2, seed=1)
W, B = [sample(4, 5), sample(1, 4)], [sample(4), sample(1)]
BAD = [
    ((X[:1], Y[:1], W, B), ValueError, "x and y need at least 2 rows: 1 cannot be paired"),
    ((X[:0], Y[:0], W, B), ValueError, "x and y need at least 2 rows: 0 cannot"),
    ((X, Y[:5], W, B), ValueError, "equally many rows, got 6 and 5"),
    ((X[0], Y, W, B), ValueError, r"x and y must be \[B, dx\] and \[B, dy\]"),
    ((X.long(), Y, W, B), TypeError, "x must be a floating-point tensor"),
    ((X, Y.double(), W, B), TypeError, "y must have the dtype of x"),
    ((X, Y, [W[0].double(), W[1]], B), TypeError, r"weights\[0\] must have the dtype of x"),
    ((X, Y.to("meta"), W, B), ValueError, "y must be on the device of x"),
    ((X, Y, W[:1], B[:1]), ValueError, "two or more layers, got 1 weights and 1 biases"),
    ((X, Y, W, B[:1]), ValueError, "two or more layers, got 2 weights and 1 biases"),
    ((X, Y, [W[0][:, :4], W[1]], B), ValueError, r"weights\[0\] must be \[h, 5\], got shape \[4, 4\]"),
    ((X, Y, [W[0], W[0]], B), ValueError, r"weights\[1\] must be \[1, 4\], got shape \[4, 5\]"),
    ((X, Y, W, [B[1], B[1]]), ValueError, r"biases\[0\] must be \[4\], got shape \[1\]"),
    ((X, Y, W, B, "sigmoid"), ValueError, "activation must be one of identity"),
    ((X, Y, W, B, ["relu", "relu"]), ValueError, "one entry for each of the 1 hidden layers, got 2 and 2"),
    ((X, Y, W, B, "elu", "1"), TypeError, "slope must be a number"),
    ((X, Y, W, B, "elu", 1.0, 0.5), TypeError, "log_ema must be a scalar tensor"),
    ((X, Y, W, B, "elu", 1.0, None, 0.0), ValueError, "alpha must be in"),
    ((X, Y, W, B, "elu", 1.0, None, 0.1, "js"), ValueError, "loss must be one of mine, mine_biased, fdiv"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=lambda v: str(v)[:30])
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        all_pairs_loss(*arguments)


# Closed forms. --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_additive_critic_by_its_closed_form(dtype):
    """sum_(j != i) exp(f_i + g_j) = sum exp(f) sum exp(g) - sum_i exp(f_i + g_i): rows enough for many tiles."""
    rows = 1500
    f, g = (sample(rows, 1, seed=s, dtype=dtype).requires_grad_() for s in range(2))
    one = torch.ones(1, 1, dtype=dtype)
    term = all_pairs_loss(f, g, [torch.ones(1, 2, dtype=dtype), one], [None, None], "identity", loss="mine_biased")
    grads = torch.autograd.grad(term.loss, [f, g])
    exact = [t.detach().double().requires_grad_() for t in (f, g)]
    a, b = exact
    total = a.exp().sum() * b.exp().sum() - (a + b).exp().sum()
    loss = total.log() - math.log(rows * (rows - 1)) - (a + b).mean()
    assert term.loss.item() == pytest.approx(loss.item(), rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])
    assert_gradients_close(grads, torch.autograd.grad(loss, exact), TOLERANCE[dtype])
