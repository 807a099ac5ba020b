"""Batches of a loss: rows as the critic reads them, checked without a look at their values."""

from __future__ import annotations

import torch
from torch import Tensor

from mine_fast.ops._checks import check_dense, check_floating
from mine_fast.ops._dispatch import autocast_enabled


def as_rows(samples: Tensor, name: str) -> Tensor:
    """A batch [B, ...], with [B] as [B, 1]."""
    if not isinstance(samples, Tensor):
        raise TypeError(f"{name} must be a torch tensor in a loss, got {type(samples).__name__}; mi() takes arrays")
    check_dense(name, samples)
    if samples.ndim == 0:
        raise ValueError(f"{name} must have rows, [B, d] or [B], got a 0-d tensor")
    return samples[:, None] if samples.ndim == 1 else samples


def as_read(x: Tensor, z: Tensor, concatenated: bool) -> tuple[Tensor, Tensor]:
    """Rows in the dtypes that a critic reads, where those that came leave no doubt.

    A concatenation takes whole numbers (one-hot codes) as those of the other side's dtype. Under autocast, which leaves
    some tensors in its own dtype and others as they were, two floating ones are brought to the wider.
    """
    is_complex = x.is_complex() or z.is_complex()
    if concatenated and not is_complex and x.is_floating_point() != z.is_floating_point():
        dtype = x.dtype if x.is_floating_point() else z.dtype
    elif autocast_enabled(x.device.type) and x.is_floating_point() and z.is_floating_point():
        dtype = torch.promote_types(x.dtype, z.dtype)
    else:
        return x, z
    return x.to(dtype), z.to(dtype)


def check_batch(concatenated: bool, **batch: Tensor) -> None:
    """Two tensors of equal rows and one device, under the caller's names for them: both of one floating dtype, unless
    one holds whole numbers (tokens) that a critic of two arguments reads.

    No look at the values, which would wait for the device.
    """
    (first_name, first), (name, other) = batch.items()
    both = first.is_floating_point() and other.is_floating_point()
    if both or concatenated or any(t.is_complex() for t in batch.values()):
        check_floating(one_dtype=True, **{first_name: first, name: other})
    elif other.device != first.device:
        raise ValueError(f"{name} must be on the device of {first_name}, {first.device}, got {other.device}")
    if other.shape[0] != first.shape[0]:
        raise ValueError(
            f"{first_name} and {name} must have equally many rows, got {first.shape[0]} and {other.shape[0]}"
        )
    for label, tensor in batch.items():
        if tensor.numel() == 0:
            raise ValueError(f"{label} must have rows and columns, got shape {list(tensor.shape)}")


def check_marginal(z: Tensor, z_marg: Tensor) -> None:
    """Marginal samples that stand in for z: a row for every row, of the same shape and dtype."""
    check_batch(False, z=z, z_marg=z_marg)
    if z_marg.dtype != z.dtype:
        raise TypeError(f"z_marg must have the dtype of z, {z.dtype}, got {z_marg.dtype}")
    if z_marg.shape != z.shape:
        raise ValueError(f"z_marg must have the shape of z, {list(z.shape)}, got {list(z_marg.shape)}")
