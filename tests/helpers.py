"""What tests share: samples in several layouts, tolerances that travel with the dtype, datasets, and comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

#: Row counts: the smallest batches, odd ones, and one beyond a thread's share of work (32768 elements).
ROWS = (2, 3, 41, 401, 1271)
HUGE_ROWS = 200_003


class Tolerance(NamedTuple):
    """How far a result in `dtype` may be from the fp64 reference of the same inputs."""

    dtype: torch.dtype
    atol: float
    rtol: float


# The kernels accumulate 16-bit inputs in fp32 and round once, so a 16-bit result is within one unit in the last place
# (2^-8 for bfloat16, 2^-10 for float16) of the fp64 one; atol covers fp32 accumulation where terms cancel, and for
# float16 its subnormals (2^-24).
TOLERANCES = (
    Tolerance(torch.float64, atol=1e-13, rtol=1e-12),
    Tolerance(torch.float32, atol=2e-6, rtol=2e-6),
    Tolerance(torch.bfloat16, atol=2e-6, rtol=2**-8),
    Tolerance(torch.float16, atol=2e-6, rtol=2**-10),
)
DTYPES = tuple(t.dtype for t in TOLERANCES)
_TOLERANCE_OF = {t.dtype: t for t in TOLERANCES}

#: All that torch.library.opcheck can check, named so that a new torch cannot drop one.
OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def opcheck(op: torch._ops.OpOverload, args: tuple) -> None:
    """Hold a raw op to its schema, its autograd registration, its fake kernel and AOT dispatch with dynamic shapes."""
    torch.library.opcheck(op, args, test_utils=OPCHECKS)


def sample(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu", scale: float = 1.0
) -> Tensor:
    """Standard normal values times scale: the same for every device, and (rounded) for every dtype."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    return values.to(device, dtype)


def with_outliers(scores: Tensor, size: float = 200.0) -> Tensor:
    """The scores with about one in 16 moved by +-size: without outliers a test of log-mean-exp says little."""
    draws = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)).to(scores.device)
    return torch.where(draws < 1 / 32, scores - size, torch.where(draws > 31 / 32, scores + size, scores))


#: Marginal scores whose log-mean-exp may not be finite, by name. Long ones span several blocks of every reduction.
_INF, _NAN = math.inf, math.nan
MARGINALS_NOT_FINITE: dict[str, list[float]] = {
    "finite": [80.0, -200.0, 1.0],
    "one -inf": [-_INF, 0.0, 80.0],
    "all -inf": [-_INF] * 3,
    "all -inf, long": [-_INF] * 20_000,
    "one +inf": [1.0, _INF, 300.0],
    "all +inf": [_INF] * 3,
    "+inf first, long": [_INF] + [500.0] * 20_000,
    "+inf last, long": [500.0] * 20_000 + [_INF],
    "+inf in every block": ([500.0] * 500 + [_INF]) * 40,
    "+inf among -inf": [-_INF] * 10_000 + [_INF] + [-_INF] * 10_000,
    "one NaN": [1.0, _NAN, 300.0],
    "NaN first": [_NAN, 1.0],
    "NaN last, long": [1.0] * 20_000 + [_NAN],
    "NaN and +inf": [_NAN, _INF, 1.0],
    "+inf then NaN, long": [_INF] + [1.0] * 20_000 + [_NAN],
    "NaN among -inf, long": [-_INF] * 10_000 + [_NAN] + [-_INF] * 10_000,
}
#: Joint scores to go with them.
JOINTS_NOT_FINITE = ([1.0, -3.0], [1.0, _INF], [-_INF, 1.0], [_INF, -_INF], [_NAN, 1.0])


# Layouts: the same values in memory that is not contiguous. -----------------------------------------------------------


def _transposed(t: Tensor) -> Tensor:
    return t.mT.contiguous().mT if t.ndim >= 2 else _every_other(t)


def _every_other(t: Tensor) -> Tensor:
    spread = t.new_full((*t.shape[:-1], 2 * t.shape[-1]), float("nan"))
    spread[..., ::2] = t
    return spread[..., ::2]


def _offset_slice(t: Tensor) -> Tensor:
    wider = t.new_full(tuple(n + 2 for n in t.shape), float("nan"))
    inner = wider[(slice(1, -1),) * t.ndim]
    inner.copy_(t)
    return inner


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "transposed": _transposed,
    "every_other": _every_other,
    "offset_slice": _offset_slice,
}


class Pairs(Dataset):
    """Rows by number from a list."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        return self.items[row]


# Comparisons ----------------------------------------------------------------------------------------------------------


def assert_close(
    actual: Tensor, expected: Tensor, dtype: torch.dtype, *, terms: int = 1, result_dtype: torch.dtype | None = None
) -> None:
    """Compare a result with the fp64 reference of the same inputs, within the tolerance of the inputs' dtype.

    Args:
        actual: what an op returned.
        expected: fp64 reference, the same shape.
        dtype: dtype whose tolerance holds.
        terms: values of order 1 that each element sums, whose rounding adds up.
        result_dtype: dtype the result must have, by default `dtype`.
    """
    assert actual.dtype == (result_dtype or dtype)
    _, atol, rtol = _TOLERANCE_OF[dtype]
    torch.testing.assert_close(actual.double(), expected, atol=atol * max(1.0, terms**0.5), rtol=rtol)


def assert_gradient_close(actual: Tensor, expected: Tensor, dtype: torch.dtype, *, terms: int = 1) -> None:
    """As `assert_close`, and the direction (cosine) and signed bias of the whole gradient.

    Elementwise tolerance lets every element be off by the same sign; a gradient that is systematically too long or
    leans to one side trains differently, and only the sums show it.
    """
    assert_close(actual, expected, dtype, terms=terms)
    if actual.numel() == 0:
        return
    _, atol, rtol = _TOLERANCE_OF[dtype]
    a, e = actual.double().flatten(), expected.flatten()
    norm = e.norm()
    if norm == 0:
        return
    # 1 - cosine is half the square of the relative error; fp64 itself leaves 1e-15.
    assert 1 - torch.dot(a, e) / (a.norm() * norm) < rtol**2 + 1e-14
    assert abs(a.norm() / norm - 1) < rtol
    # Roundings of either sign average out as 1 / sqrt(n); 5 standard deviations of that may remain.
    allowed = (rtol * e.abs().mean() + atol) * min(1.0, 5 / e.numel() ** 0.5)
    assert abs((a - e).mean()) <= allowed


def assert_compiles_alike(eager: nn.Module, graph: nn.Module, batch: tuple[Tensor, ...], steps: int) -> None:
    """Two losses of equal state, one compiled as one graph: the same values and gradients step after step."""
    compiled = torch.compile(graph, fullgraph=True)
    for _ in range(steps):
        eager.zero_grad()
        graph.zero_grad()
        a, b = eager(*batch), compiled(*batch)
        a.backward()
        b.backward()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        for p, q in zip(eager.parameters(), graph.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)


def assert_gradients_close(found, wanted, tolerance, parts=None):
    """Every tensor to its own size, or to a tenth of the whole where it is smaller than that: some are exactly 0.

    `parts` is the gradient of the joint term alone, where the marginal one cancels most of it: the rounding stays.
    """
    whole = torch.cat([w.flatten() for w in wanted]).norm()
    for f, w, part in zip(found, wanted, wanted if parts is None else parts, strict=True):
        assert f.shape == w.shape
        assert (f.double() - w).norm() <= tolerance * max(w.norm(), part.norm(), whole / 10) + 1e-14
