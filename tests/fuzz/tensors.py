"""Tensors as nobody hopes to get them: the same values in odd layouts, and what is no plain tensor at all."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .draw import Draw

ROWS = (0, 1, 2, 2, 3, 5, 17, 64, 65)
WIDTHS = (0, 1, 1, 2, 3, 8, 17)
FLOATING = (torch.float32, torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)


def normal(draw: Draw, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(draw.seed())
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


# The same values in other memory. -------------------------------------------------------------------------------------


def _transposed(t: Tensor) -> Tensor:
    return t.mT.contiguous().mT if t.ndim >= 2 else t


def _every_other(t: Tensor) -> Tensor:
    if t.ndim == 0:
        return t
    spread = t.new_full((*t.shape[:-1], 2 * t.shape[-1]), math.nan if t.is_floating_point() else 0)
    spread[..., ::2] = t
    return spread[..., ::2]


def _offset(t: Tensor) -> Tensor:
    flat = t.new_empty(t.numel() + 3)
    flat[3:] = t.reshape(-1)
    return flat[3:].view(t.shape)


def _conjugate_twice(t: Tensor) -> Tensor:
    return t.neg()._neg_view()  # the values again, negated lazily


def _tracked(t: Tensor) -> Tensor:
    return t.detach().clone().requires_grad_() if t.is_floating_point() else t


HARMLESS: tuple[Callable[[Tensor], Tensor], ...] = (_transposed, _every_other, _offset, _conjugate_twice, _tracked)


# Other tensors. -------------------------------------------------------------------------------------------------------


def _repeated(draw: Draw, t: Tensor) -> Tensor:
    """One element everywhere, by strides of 0."""
    return (t.reshape(-1)[:1] if t.numel() else t.new_zeros(1)).reshape([1] * t.ndim).expand(t.shape)


def _overlapping(draw: Draw, t: Tensor) -> Tensor:
    return torch.as_strided(t.new_ones(max(1, sum(t.shape))), t.shape, [1] * t.ndim)


def _huge(draw: Draw, t: Tensor) -> Tensor:
    """More elements than there is memory, and than 64 bits count, in one number's storage."""
    shape = [draw.of((0, 1, 2, 3, 2**20, 2**31, 2**32, 2**40, 2**62)) for _ in range(max(1, t.ndim))]
    return torch.as_strided(t.new_ones(1), shape, [0] * len(shape))


def _of_other_shape(draw: Draw, t: Tensor) -> Tensor:
    return draw.of(
        (
            lambda: t[..., None],
            lambda: t[None],
            lambda: t.reshape(-1),
            lambda: t[1:] if t.ndim else t,
            lambda: torch.cat([t, t]) if t.ndim else t,
            lambda: t.new_ones(()),
            lambda: t.new_ones(0),
            lambda: t.new_ones(2, 2, 2),
            lambda: t.new_ones(3, 0),
        )
    )()


def _of_other_dtype(draw: Draw, t: Tensor) -> Tensor:
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8,
             torch.bool, torch.complex64, torch.float8_e4m3fn)  # fmt: skip
    return t.to(draw.of(kinds))


def _not_plain(draw: Draw, t: Tensor) -> Any:
    def quantized() -> Tensor:
        return torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8)

    def nested() -> Tensor:
        return torch.nested.nested_tensor([t, t])

    def parameter() -> Tensor:
        return torch.nn.Parameter(t.detach().clone()) if t.is_floating_point() else t

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of prototypes
        return draw.of(
            (
                lambda: t.to("meta"),
                lambda: t.to_sparse(),
                lambda: t.to_sparse_csr(),
                lambda: t.to_mkldnn(),
                quantized,
                nested,
                parameter,
                lambda: torch._efficientzerotensor(t.shape, dtype=t.dtype),
                lambda: t.to(torch.complex64).conj(),
                lambda: t.detach().numpy(),
                lambda: t.tolist(),
                lambda: draw.anything(),
            )
        )()


def _not_finite(draw: Draw, t: Tensor) -> Tensor:
    if not t.is_floating_point() or t.numel() == 0:
        return t
    changed = t.detach().clone().reshape(-1)
    value = draw.of((math.nan, math.inf, -math.inf, 3e38, -3e38, 6e4, 1e-45))
    changed[draw.between(0, len(changed) - 1)] = value
    return changed.reshape(t.shape)


HARMFUL = (_repeated, _overlapping, _huge, _of_other_shape, _of_other_shape, _of_other_dtype, _not_plain, _not_plain,
           _not_finite)  # fmt: skip


def twisted(draw: Draw, t: Tensor, huge: bool = True) -> Any:
    """Something else in the place of a tensor.

    Args:
        draw: what.
        t: the tensor.
        huge: also a tensor that plain torch would read for hours.
    """
    try:
        return draw.of(HARMFUL if huge else [twist for twist in HARMFUL if twist is not _huge])(draw, t)
    except (RuntimeError, TypeError, ValueError, IndexError):  # torch makes no such tensor of this one
        return draw.anything()


def tame(value: Any) -> bool:
    """Whether results of such arguments must be finite: no NaN among them, nothing near what float16 cannot hold."""
    if isinstance(value, (list, tuple)):
        return all(map(tame, value))
    if isinstance(value, Tensor):
        if value.is_meta or value.layout is not torch.strided or value.is_nested or value.is_quantized:
            return False
        if not (value.is_floating_point() or value.is_complex()):
            return True
        if value.untyped_storage().nbytes() < 64 and value.numel() > 2**20:  # _huge
            return False
        return bool((value.detach().to(torch.complex128).abs() < 50).all())
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf" and bool((np.abs(value.astype(np.float64)) < 50).all())
    return not isinstance(value, float) or abs(value) < 50


def tensors_of(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [t for item in result for t in tensors_of(item)] if isinstance(result, (list, tuple)) else []


def is_finite(t: Tensor) -> bool:
    return t.is_meta or not t.is_floating_point() or bool(torch.isfinite(t).all())
