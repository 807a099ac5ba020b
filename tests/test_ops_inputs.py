"""Inputs that are odd and right (strided keys, shapes without data, inference mode), and those refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from helpers import sample
from torch import Tensor

from mine_fast import bounds, fallback, ops
from mine_fast.batches import as_rows, check_batch, check_marginal

raw = torch.ops.mine_fast
KEY = ops.shuffle_key(7, offset=3)
X, Y = sample(6, 2), sample(6, 3, seed=1)
WEIGHT, BIAS = sample(4, 5, seed=2), sample(4, seed=3)
SCORES = sample(10, seed=4)

# Every public op of tensors, as a function of (x, y, weight, bias, scores, key).
CALLS: dict[str, Callable[..., object]] = {
    "advance_key": lambda x, y, w, b, s, key: ops.advance_key(key),
    "shuffle_index": lambda x, y, w, b, s, key: ops.shuffle_index(6, key, 2),
    "marginal_shuffle": lambda x, y, w, b, s, key: ops.marginal_shuffle(y, key, 2),
    "pair": lambda x, y, w, b, s, key: ops.pair(x, y, key, 2),
    "paired_first_layer": lambda x, y, w, b, s, key: ops.paired_first_layer(x, y, w, b, key, 2),
    "dv_loss_of_scores": lambda x, y, w, b, s, key: ops.dv_loss_of_scores(s, 4),
    "dv_loss": lambda x, y, w, b, s, key: ops.dv_loss(s[:4], s[4:]),
}


def tensors_of(result: object) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)  # type: ignore[call-overload]


# --- odd and right ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in CALLS if not n.startswith("dv")])
def test_a_key_of_any_layout(name: str, device: str) -> None:
    data = [t.to(device) for t in (X, Y, WEIGHT, BIAS, SCORES)]
    key = KEY.to(device)
    strided = torch.stack([key, key + 1], dim=1)[:, 0]
    assert not strided.is_contiguous()
    for a, b in zip(tensors_of(CALLS[name](*data, strided)), tensors_of(CALLS[name](*data, key)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", CALLS)
def test_shapes_without_data(name: str) -> None:
    """On the meta device every op gives the shapes and dtypes that it gives on data, and gradients theirs."""
    real = [t.clone() for t in (X, Y, WEIGHT, BIAS, SCORES)]
    meta = [t.to("meta") for t in real]
    for t in (*real, *meta):
        t.requires_grad_()
    results = [tensors_of(CALLS[name](*data, key)) for data, key in ((real, KEY), (meta, KEY.to("meta")))]
    for a, b in zip(*results, strict=True):
        assert b.is_meta
        assert (a.shape, a.dtype, a.requires_grad) == (b.shape, b.dtype, b.requires_grad)
    if results[1][0].requires_grad:
        results[1][0].sum().backward()
        assert any(t.grad is not None for t in meta)
        assert all(t.grad is None or (t.grad.is_meta and t.grad.shape == t.shape) for t in meta)


def test_every_raw_op_has_shapes_without_data() -> None:
    for name in fallback._FALLBACKS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mine_fast::{name}", "Meta"), name


@pytest.mark.parametrize("name", CALLS)
def test_inference_mode_gives_the_same_numbers(name: str) -> None:
    expected = tensors_of(CALLS[name](X, Y, WEIGHT, BIAS, SCORES, KEY))
    with torch.inference_mode():
        data = [t.clone() for t in (X, Y, WEIGHT, BIAS, SCORES)]
        inside = tensors_of(CALLS[name](*data, KEY.clone()))
    outside = tensors_of(CALLS[name](*data, KEY))  # inference tensors where nothing is differentiated
    for a, b, c in zip(expected, inside, outside, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("name", [n for n in CALLS if n not in ("advance_key", "shuffle_index")])
def test_without_a_gradient_to_take_an_op_gives_the_same_numbers(name: str) -> None:
    """With a gradient an op is a node of the graph, without it is called below autograd."""
    plain = tensors_of(CALLS[name](X, Y, WEIGHT, BIAS, SCORES, KEY))
    leaves = [t.clone().requires_grad_() for t in (X, Y, WEIGHT, BIAS, SCORES)]
    tracked = tensors_of(CALLS[name](*leaves, KEY))
    with torch.no_grad():
        untracked = tensors_of(CALLS[name](*leaves, KEY))
    assert [t.requires_grad for t in (plain[0], tracked[0], untracked[0])] == [False, True, False]
    for a, b, c in zip(plain, tracked, untracked, strict=True):
        assert torch.equal(a, b.detach())
        assert torch.equal(a, c)


@pytest.mark.parametrize("name", [n for n in CALLS if n not in ("advance_key", "shuffle_index")])
def test_a_forward_derivative_is_refused_and_not_dropped(name: str) -> None:
    with torch.autograd.forward_ad.dual_level():
        data = [torch.autograd.forward_ad.make_dual(t, torch.ones_like(t)) for t in (X, Y, WEIGHT, BIAS, SCORES)]
        with pytest.raises(NotImplementedError, match="forward mode AD"):
            CALLS[name](*data, KEY)


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**63)])
def test_seeds_are_those_of_torch(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    assert int(ops.shuffle_key(seed)[0]) % 2**64 == generator.initial_seed()
    assert torch.equal(ops.shuffle_key(seed), ops.shuffle_key(seed % 2**64))


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**30])
def test_a_seed_beyond_64_bits_is_refused_as_by_torch(seed: int) -> None:
    with pytest.raises(ValueError, match="Overflow"):
        torch.Generator().manual_seed(seed)
    with pytest.raises(ValueError, match=rf"seed must fit in 64 bits, in \[-2\^63, 2\^64\), got {seed}"):
        ops.shuffle_key(seed)
    with pytest.raises(ValueError, match=f"offset must fit in 64 bits.*got {seed}"):
        ops.shuffle_key(0, seed)


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [None, "0.1", True, torch.tensor(0.1), [0.1], 1j], ids=str)
def test_alpha_must_be_a_number(alpha: object) -> None:
    with pytest.raises(TypeError, match="alpha must be a number, got"):
        ops.dv_loss_of_scores(SCORES, 4, alpha=alpha)


@pytest.mark.parametrize("alpha", [math.nan, 0.0, -0.1, 1.01, math.inf])
def test_alpha_must_be_in_range(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\], got"):
        ops.dv_loss(SCORES, SCORES, alpha=alpha)


def test_other_settings_are_named() -> None:
    with pytest.raises(TypeError, match="slope must be a number, got str 'steep'"):
        ops.paired_first_layer(X, Y, WEIGHT, BIAS, KEY, slope="steep")
    with pytest.raises(TypeError, match="shuffles must be an integer, got bool True"):
        ops.pair(X, Y, KEY, True)
    with pytest.raises(TypeError, match="seed must be an integer, got bool True"):
        ops.shuffle_key(True)


def _nested() -> Tensor:
    return torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.strided)


NOT_DENSE = {
    "nested": _nested,
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.jagged),
    "sparse": lambda: torch.ones(6, 2).to_sparse(),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", NOT_DENSE)
def test_tensors_that_are_not_dense_are_named(kind: str) -> None:
    bad = NOT_DENSE[kind]()
    what = "a nested torch.float32 tensor" if bad.is_nested else "a torch.sparse_coo torch.float32 tensor"
    for name, call in {
        "x": lambda: ops.pair(bad, Y, KEY),
        "y": lambda: ops.marginal_shuffle(bad, KEY),
        "weight": lambda: ops.paired_first_layer(X, Y, bad, None, KEY),
        "scores": lambda: ops.dv_loss_of_scores(bad, 2),
        "t_marginal": lambda: ops.dv_loss(SCORES, bad),
    }.items():
        with pytest.raises(TypeError, match=f"^{name} must be a dense tensor, got {what}"):
            call()
    with pytest.raises(TypeError, match=f"key must be an int64 tensor.*got {what}"):
        ops.advance_key(bad)
    with pytest.raises(ValueError, match=f"log_ema must be a scalar tensor on cpu, got {what}"):
        ops.dv_loss(SCORES, SCORES, bad)


def test_eight_bit_floats_are_refused_before_a_kernel_sees_them() -> None:
    with pytest.raises(TypeError, match=r"scores must be a floating-point tensor.*float8"):
        ops.dv_loss_of_scores(SCORES.to(torch.float8_e5m2), 4)


# --- batches of a loss ------------------------------------------------------------------------------------------------


def test_marginal_samples_are_checked_under_their_name() -> None:
    check_marginal(Y, Y.flip(0))
    check_marginal(torch.zeros(6, 3, 4), torch.ones(6, 3, 4))
    with pytest.raises(ValueError, match=r"z_marg must have the shape of z, \[6, 3\], got \[6, 3, 1\]"):
        check_marginal(Y, Y[..., None])
    with pytest.raises(ValueError, match=r"z_marg must have the shape of z, \[6, 3\], got \[6, 2\]"):
        check_marginal(Y, X)
    with pytest.raises(ValueError, match="z and z_marg must have equally many rows, got 6 and 5"):
        check_marginal(Y, Y[:5])
    with pytest.raises(TypeError, match=r"z_marg must have the dtype of z, torch.float32, got torch.float64"):
        check_marginal(Y, Y.double())
    with pytest.raises(TypeError, match="z_marg must be a torch tensor in a loss, got list"):
        as_rows([1.0], "z_marg")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_batch_that_is_not_dense_is_named() -> None:
    for make in NOT_DENSE.values():
        with pytest.raises(TypeError, match="z must be a dense tensor"):
            check_batch(True, x=X, z=make())
        with pytest.raises(TypeError, match="z must be a dense tensor"):
            as_rows(make(), "z")


# --- the raw ops, below the wrappers: found by tests/fuzz -------------------------------------------------------------

PARTS = sample(6, 4), sample(6, 4, seed=1), sample(4, seed=2)
NO_AVERAGE = torch.tensor(-math.inf)

# What wrote or read outside its memory, divided by zero, or returned NaN.
RAW_BAD = {
    "shuffles below the start of a table": lambda: raw.shuffle_index(KEY, 3, -5, False),
    "negative rows": lambda: raw.shuffle_index(KEY, -1, 1, False),
    "no shuffle": lambda: raw.marginal_shuffle(Y, KEY, 0),
    "a division by zero": lambda: raw.pair_backward(sample(6, 5), KEY, 2, -1),
    "rows that are planes": lambda: raw.pair(sample(6, 2, 2), sample(6, 3, 2), KEY, 1),
    "grad of another shape": lambda: raw.paired_first_layer_backward(sample(4, 12), *PARTS, KEY, 1, 1, 0.1),
    "more pairs than 64 bits count": lambda: raw.pair(X, Y, KEY, 2**62),
    "more rows than 64 bits count": lambda: raw.shuffle_index(KEY, 2**62, 2, False),
    "joint rows below 0": lambda: raw.dv_term(SCORES, -(2**63), NO_AVERAGE, 0.1, 0),
    "alpha": lambda: raw.dv_term(SCORES, 4, NO_AVERAGE, math.nan, 0),
    "no rows for a result": lambda: raw.marginal_shuffle_backward(sample(0, 6, 2), KEY),
}


@pytest.mark.parametrize("case", RAW_BAD)
def test_raw_ops_refuse_what_they_cannot_do(case: str) -> None:
    with pytest.raises(RuntimeError, match=r"must|cannot|needs|pairs"):
        RAW_BAD[case]()


def test_settings_that_are_not_finite_are_refused() -> None:
    for slope in (math.nan, math.inf):
        with pytest.raises(ValueError, match="slope must be finite, got"):
            ops.paired_first_layer(X, Y, WEIGHT, BIAS, KEY, 1, "elu", slope)
        with pytest.raises(ValueError, match="slope must be finite, got"):
            ops.all_pairs_loss(X, Y, [WEIGHT, sample(1, 4)], [BIAS, None], "elu", slope)
    for clip in (10**30, math.inf):
        assert torch.isfinite(bounds.smile_loss(SCORES, 4, clip))
    with pytest.raises(ValueError, match="clip must be a number above 0 that a 64-bit float holds"):
        bounds.smile_loss(SCORES, 4, 10**400)
