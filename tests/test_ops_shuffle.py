"""The marginal shuffle: its index, the gather that pairs y with other rows, and the backward by the inverse index."""

from __future__ import annotations

import pytest
import torch
from helpers import DTYPES, HUGE_ROWS, LAYOUTS, ROWS, assert_close, assert_gradient_close, opcheck, sample
from hypothesis import example, given
from hypothesis import strategies as st

from mine_fast import reference
from mine_fast.ops import advance_key, marginal_shuffle, shuffle_index, shuffle_key

raw = torch.ops.mine_fast

seeds = st.integers(-(2**63), 2**63 - 1)
offsets = st.integers(0, 2**62)
batches = st.one_of(st.integers(2, 80), st.integers(81, 2000))


# --- index ------------------------------------------------------------------------------------------------------------


@given(rows=batches, seed=seeds, offset=offsets, shuffles=st.integers(1, 5))
@example(rows=2, seed=-1, offset=2**62, shuffles=1)
@example(rows=64, seed=-(2**63), offset=0, shuffles=3)
@example(rows=65, seed=2**63 - 1, offset=2**62, shuffles=3)
def test_index_is_a_derangement_with_its_inverse_and_equals_the_reference(
    rows: int, seed: int, offset: int, shuffles: int
) -> None:
    key = shuffle_key(seed, offset)
    index = shuffle_index(rows, key, shuffles)
    inverse = shuffle_index(rows, key, shuffles, inverse=True)
    here = torch.arange(rows).expand(shuffles, rows)
    assert torch.equal(index.sort(dim=1).values, here)
    assert not (index == here).any()
    assert torch.equal(index.gather(1, inverse), here)
    assert torch.equal(inverse.gather(1, index), here)
    assert torch.equal(index, reference.shuffle_index(key, rows, shuffles))
    assert torch.equal(inverse, reference.shuffle_index(key, rows, shuffles, inverse=True))


@given(rows=st.integers(2, 60), seed=seeds, offset=offsets, extra=st.integers(0, 5))
def test_shuffles_of_one_key_are_disjoint_until_they_have_covered_every_pair(
    rows: int, seed: int, offset: int, extra: int
) -> None:
    index = shuffle_index(rows, shuffle_key(seed, offset), rows - 1 + extra)
    every_other_row = torch.arange(rows)[None].expand(rows, rows)[~torch.eye(rows, dtype=torch.bool)].view(rows, -1)
    assert torch.equal(index[: rows - 1].T.sort(dim=1).values, every_other_row)
    assert torch.equal(index[rows - 1 :], index[:extra] if extra < rows else index[: rows - 1].repeat(6, 1)[:extra])


@pytest.mark.parametrize("rows", [*ROWS, HUGE_ROWS])
def test_index_equals_the_reference(rows: int, device: str) -> None:
    key = shuffle_key(-7, 2**61 + 3, device=device)
    for inverse in (False, True):
        index = shuffle_index(rows, key, 3, inverse=inverse)
        assert index.shape == (3, rows)
        assert index.device.type == device
        assert torch.equal(index.cpu(), reference.shuffle_index(key.cpu(), rows, 3, inverse=inverse))


# Written down once: a result of an older version is reproduced only if its pairs are.
@pytest.mark.parametrize(
    ("rows", "seed", "offset", "expected"),
    [
        (2, 0, 0, [1, 0]),
        (5, 0, 0, [4, 2, 0, 1, 3]),
        (8, 7, 3, [2, 0, 5, 4, 6, 1, 7, 3]),
        (11, -1, 1, [6, 7, 8, 4, 2, 9, 3, 10, 1, 0, 5]),
        (16, -9223372036854775808, 4611686018427387904, [5, 9, 12, 10, 8, 7, 3, 6, 11, 2, 15, 1, 0, 14, 4, 13]),
        (
            20,
            9223372036854775807,
            1099511627777,
            [18, 19, 3, 6, 14, 4, 12, 1, 17, 16, 7, 5, 2, 8, 11, 13, 0, 15, 9, 10],
        ),
    ],
)
def test_index_of_a_key_never_changes(rows: int, seed: int, offset: int, expected: list[int], device: str) -> None:
    assert shuffle_index(rows, shuffle_key(seed, offset, device)).tolist() == [expected]


def test_unsigned_and_negative_seeds_name_the_same_64_bits() -> None:
    assert torch.equal(shuffle_key(2**64 - 1), shuffle_key(-1))
    assert shuffle_key(5, 6).tolist() == [5, 6]


@pytest.mark.parametrize(
    ("key", "following"),
    [((7, 3), (7, 4)), ((-5, -1), (-5, 0)), ((2**63 - 1, 2**63 - 1), (2**63 - 1, -(2**63)))],
)
def test_advance_key(key: tuple[int, int], following: tuple[int, int], device: str) -> None:
    before = shuffle_key(*key, device)
    current, following_key = advance_key(before)
    assert (*current.tolist(), *following_key.tolist()) == (*key, *following)
    assert len({t.data_ptr() for t in (before, current, following_key)}) == 3  # the caller may overwrite its buffer


# --- gather -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64])
@pytest.mark.parametrize("trailing", [(), (1,), (3,), (2, 5)], ids=str)
def test_any_dtype_and_shape_is_gathered_exactly(dtype: torch.dtype, trailing: tuple[int, ...], device: str) -> None:
    y = sample(41, *trailing, scale=50, device=device).to(dtype)
    key = shuffle_key(3, 1, device)
    shuffled = marginal_shuffle(y, key, 4)
    assert shuffled.dtype == dtype
    assert torch.equal(shuffled, y[shuffle_index(41, key, 4)])


@pytest.mark.parametrize("rows", [*ROWS, HUGE_ROWS])
def test_every_size_is_gathered(rows: int, device: str) -> None:
    y, key = sample(rows, 3, device=device), shuffle_key(rows, device=device)
    assert torch.equal(marginal_shuffle(y, key, 2), y[shuffle_index(rows, key, 2)])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(41,), (41, 6), (41, 3, 4)], ids=str)
def test_memory_layout_does_not_matter(layout: str, shape: tuple[int, ...], device: str) -> None:
    y, key = sample(*shape, device=device), shuffle_key(5, device=device)
    laid_out = LAYOUTS[layout](y)
    assert layout == "contiguous" or not laid_out.is_contiguous() or len(shape) == 1
    assert torch.equal(marginal_shuffle(laid_out, key, 2), marginal_shuffle(y, key, 2))


def test_expanded_and_lazily_conjugated_inputs(device: str) -> None:
    key = shuffle_key(5, device=device)
    row = sample(1, 4, device=device)
    assert torch.equal(marginal_shuffle(row.expand(9, 4), key, 2), row.expand(2, 9, 4))
    z = torch.complex(sample(9, seed=1, device=device), sample(9, seed=2, device=device))
    assert torch.equal(marginal_shuffle(z.conj(), key), marginal_shuffle(z.conj().resolve_conj(), key))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (7, 0)], ids=str)
def test_empty_input_gives_an_empty_result_and_gradient(shape: tuple[int, ...], device: str) -> None:
    y = sample(*shape, device=device).requires_grad_()
    shuffled = marginal_shuffle(y, shuffle_key(0, device=device), 2)
    assert shuffled.shape == (2, *shape)
    shuffled.sum().backward()
    assert y.grad.shape == y.shape


def test_no_rows_cost_nothing_in_any_number_of_shuffles() -> None:
    for inverse in (False, True):
        index = torch.ops.mine_fast.shuffle_index(KEY, 0, 2**53 + 1, inverse)
        assert index.shape == (2**53 + 1, 0)


# --- backward ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "shuffles"), [(2, 1), (3, 4), (41, 3), (401, 1), (1271, 2)])
def test_gradient_equals_the_reference(dtype: torch.dtype, rows: int, shuffles: int, device: str) -> None:
    y, key = sample(rows, 7, dtype=dtype, device=device).requires_grad_(), shuffle_key(rows, 9, device)
    upstream = sample(shuffles, rows, 7, seed=1, dtype=dtype, device=device)
    (grad,) = torch.autograd.grad(marginal_shuffle(y, key, shuffles), y, upstream)

    exact = y.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(reference.marginal_shuffle(exact, key, shuffles), exact, upstream.double())
    assert_gradient_close(grad, expected, dtype, terms=shuffles)


def test_gradient_of_a_huge_batch(device: str) -> None:
    y, key = sample(HUGE_ROWS, device=device).requires_grad_(), shuffle_key(1, device=device)
    upstream = sample(2, HUGE_ROWS, seed=1, device=device)
    (grad,) = torch.autograd.grad(marginal_shuffle(y, key, 2), y, upstream)
    index = shuffle_index(HUGE_ROWS, key, 2)
    expected = torch.zeros(HUGE_ROWS, dtype=torch.float64, device=device)
    for s in range(2):
        expected[index[s]] += upstream[s].double()
    assert_gradient_close(grad, expected, torch.float32, terms=2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_the_upstream_gradient_does_not_matter(layout: str, device: str) -> None:
    upstream, key = sample(2, 41, 6, device=device), shuffle_key(5, device=device)
    grad = raw.marginal_shuffle_backward(LAYOUTS[layout](upstream), key)
    assert torch.equal(grad, raw.marginal_shuffle_backward(upstream, key))


def test_expanded_upstream_gradient(device: str) -> None:
    y, key = sample(41, 3, device=device).requires_grad_(), shuffle_key(5, device=device)
    marginal_shuffle(y, key, 3).sum().backward()  # sum's gradient is one expanded element
    assert torch.equal(y.grad, torch.full_like(y, 3.0))


@pytest.mark.parametrize("rows", [2, 3, 6])
def test_gradcheck_and_gradgradcheck(rows: int, device: str) -> None:
    y = sample(rows, 2, dtype=torch.float64, device=device).requires_grad_()
    key = shuffle_key(2, device=device)
    assert torch.autograd.gradcheck(lambda v: marginal_shuffle(v, key, 3), y)
    assert torch.autograd.gradgradcheck(lambda v: marginal_shuffle(v, key, 3) ** 2, y)


# --- determinism ------------------------------------------------------------------------------------------------------


def test_the_same_key_gives_the_same_bits_whatever_the_threads(device: str, restore_threads: None) -> None:
    y, upstream = sample(20_011, 5, device=device), sample(3, 20_011, 5, seed=1, device=device)
    key = shuffle_key(11, 4, device)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        return marginal_shuffle(y, key, 3), raw.marginal_shuffle_backward(upstream, key)

    torch.set_num_threads(1)
    first, again = run(), run()
    torch.set_num_threads(2)
    threaded = run()
    for a, b, c in zip(first, again, threaded, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_the_key_is_read_when_the_op_runs(device: str) -> None:
    y, key = sample(41, device=device), shuffle_key(1, 0, device)
    first = marginal_shuffle(y, key)
    key[1] += 1
    assert torch.equal(marginal_shuffle(y, key), marginal_shuffle(y, shuffle_key(1, 1, device)))
    assert not torch.equal(first, marginal_shuffle(y, key))


# --- registration -----------------------------------------------------------------------------------------------------


def test_opcheck_advance_key(device: str) -> None:
    opcheck(raw.advance_key.default, (shuffle_key(1, 2, device),))


@pytest.mark.parametrize("inverse", [False, True])
def test_opcheck_index(inverse: bool, device: str) -> None:
    opcheck(raw.shuffle_index.default, (shuffle_key(1, 2, device), 9, 2, inverse))


@pytest.mark.parametrize("shape", [(9,), (9, 3), (5, 2, 3), (0, 3)], ids=str)
def test_opcheck_gather(shape: tuple[int, ...], device: str) -> None:
    y = sample(*shape, device=device)
    opcheck(raw.marginal_shuffle.default, (y.requires_grad_(), shuffle_key(1, 2, device), 2))
    opcheck(raw.marginal_shuffle.default, (y.detach().to(torch.int64), shuffle_key(1, 2, device), 2))


def test_opcheck_backward(device: str) -> None:
    grad = sample(2, 9, 3, device=device).requires_grad_()
    opcheck(raw.marginal_shuffle_backward.default, (grad, shuffle_key(1, 2, device)))
    opcheck(raw.marginal_shuffle_backward.default, (LAYOUTS["transposed"](grad.detach()), shuffle_key(1, 2, device)))


def test_compiles_whole_with_dynamic_rows(device: str, fresh_dynamo: None) -> None:
    compiled = torch.compile(lambda y, key: marginal_shuffle(y, key, 2), fullgraph=True)
    for rows in (5, 41, 401):
        y, key = sample(rows, 3, device=device).requires_grad_(), shuffle_key(rows, device=device)
        torch._dynamo.mark_dynamic(y, 0)  # fails if the trace fixes the number of rows
        upstream = sample(2, rows, 3, seed=1, device=device)
        result, expected = compiled(y, key), marginal_shuffle(y, key, 2)
        assert torch.equal(result, expected)
        assert torch.equal(*(torch.autograd.grad(r, y, upstream)[0] for r in (result, expected)))


def test_key_made_inside_a_compiled_step(device: str, fresh_dynamo: None) -> None:
    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(rows: int, offset: int) -> torch.Tensor:
        return shuffle_index(rows, shuffle_key(3, offset, device))

    for rows, offset in ((5, 0), (5, 1), (7, 2), (41, 3)):
        assert torch.equal(step(rows, offset), shuffle_index(rows, shuffle_key(3, offset, device)))


def test_a_compiled_step_advances_its_buffer_and_keeps_its_pairs_for_the_backward(
    device: str, fresh_dynamo: None
) -> None:
    buffer = shuffle_key(3, 0, device)

    @torch.compile(fullgraph=True)
    def step(y: torch.Tensor) -> torch.Tensor:
        key, following = advance_key(buffer)
        buffer.copy_(following)
        return marginal_shuffle(y, key)

    y, upstream = sample(41, 3, device=device).requires_grad_(), sample(1, 41, 3, seed=1, device=device)
    for offset in range(3):
        key = shuffle_key(3, offset, device)
        shuffled = step(y)
        assert torch.equal(shuffled, marginal_shuffle(y, key))
        assert buffer.tolist() == [3, offset + 1]
        (grad,) = torch.autograd.grad(shuffled, y, upstream)
        assert torch.equal(grad, raw.marginal_shuffle_backward(upstream, key))


def test_autocast_leaves_the_dtype(device: str) -> None:
    y = sample(41, 3, device=device)
    with torch.autocast(device, torch.bfloat16):
        shuffled = marginal_shuffle(y, shuffle_key(1, device=device))
    assert_close(shuffled, y[shuffle_index(41, shuffle_key(1, device=device))].double(), torch.float32)


# --- errors -----------------------------------------------------------------------------------------------------------

Y = torch.zeros(4, 2)
KEY = shuffle_key(0)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "y must be a torch tensor, got list", lambda: marginal_shuffle([1.0, 2.0], KEY)),
        (ValueError, "y must have rows.*0-d", lambda: marginal_shuffle(torch.tensor(1.0), KEY)),
        (ValueError, "batch of one row.*got 1 row", lambda: marginal_shuffle(Y[:1], KEY)),
        (ValueError, "batch of one row.*got 1 row", lambda: shuffle_index(1, KEY)),
        (ValueError, "shuffles must be at least 1, got 0", lambda: marginal_shuffle(Y, KEY, 0)),
        (ValueError, "shuffles must be at least 1, got -2", lambda: shuffle_index(4, KEY, -2)),
        (TypeError, "shuffles must be an integer, got float 1.5", lambda: marginal_shuffle(Y, KEY, 1.5)),
        (ValueError, "rows must not be negative, got -3", lambda: shuffle_index(-3, KEY)),
        (TypeError, "rows must be an integer, got str '4'", lambda: shuffle_index("4", KEY)),
        (TypeError, "key must be an int64 tensor.*got tuple", lambda: marginal_shuffle(Y, (0, 0))),
        (TypeError, "key must be an int64 tensor.*torch.float32", lambda: marginal_shuffle(Y, KEY.float())),
        (TypeError, r"key must be an int64 tensor.*shape \[3\]", lambda: shuffle_index(4, torch.arange(3))),
        (ValueError, "key must be on the device of the data.*on cpu", lambda: marginal_shuffle(Y.to("meta"), KEY)),
        (TypeError, "key must be an int64 tensor.*got int 3", lambda: advance_key(3)),
        (TypeError, "seed must be an integer, got float 0.5", lambda: shuffle_key(0.5)),
        (TypeError, "offset must be an integer, got NoneType None", lambda: shuffle_key(0, None)),
        (ValueError, "seed must fit in 64 bits", lambda: shuffle_key(2**64)),
        (ValueError, "offset must fit in 64 bits", lambda: shuffle_key(0, -(2**63) - 1)),
    ],
)
def test_bad_arguments_are_named(error: type[Exception], message: str, call) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda key: raw.shuffle_index(key, 1, 1, False),
        lambda key: raw.marginal_shuffle(torch.zeros(1, 2, device=key.device), key, 1),
        lambda key: raw.marginal_shuffle_backward(torch.zeros(1, 1, 2, device=key.device), key),
    ],
    ids=["shuffle_index", "marginal_shuffle", "marginal_shuffle_backward"],
)
def test_raw_ops_refuse_one_row(call, device: str) -> None:
    with pytest.raises(RuntimeError, match="a batch of one row cannot be shuffled"):
        call(shuffle_key(0, device=device))


def test_raw_ops_refuse_a_key_they_would_misread() -> None:
    for key in (torch.zeros(2), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(RuntimeError, match="key must be an int64 tensor"):
            raw.shuffle_index(key, 4, 1, False)


def test_gradient_of_integers_is_refused_by_the_raw_op() -> None:
    with pytest.raises(RuntimeError, match="grad must be float16, bfloat16, float32 or float64"):
        raw.marginal_shuffle_backward(torch.zeros(1, 4, dtype=torch.int64), KEY)
