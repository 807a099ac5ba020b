"""Batches of a loss: rows as the critic reads them, checked without a look at their values."""

from __future__ import annotations

from torch import Tensor

from mine_fast.ops._checks import check_dense, check_floating


def as_rows(samples: Tensor, name: str) -> Tensor:
    """A batch [B, ...], with [B] as [B, 1]."""
    if not isinstance(samples, Tensor):
        raise TypeError(f"{name} must be a torch tensor in a loss, got {type(samples).__name__}; mi() takes arrays")
    check_dense(name, samples)
    if samples.ndim == 0:
        raise ValueError(f"{name} must have rows, [B, d] or [B], got a 0-d tensor")
    return samples[:, None] if samples.ndim == 1 else samples


def check_batch(**batch: Tensor) -> None:
    """Two tensors of equal rows, one device, one floating dtype, under the caller's names for them.

    No look at the values, which would wait for the device.
    """
    (first_name, first), (name, other) = batch.items()
    check_floating(one_dtype=True, **{first_name: first, name: other})
    if other.shape[0] != first.shape[0]:
        raise ValueError(
            f"{first_name} and {name} must have equally many rows, got {first.shape[0]} and {other.shape[0]}"
        )
    for label, tensor in batch.items():
        if tensor.numel() == 0:
            raise ValueError(f"{label} must have rows and columns, got shape {list(tensor.shape)}")


def check_marginal(z: Tensor, z_marg: Tensor) -> None:
    """Marginal samples that stand in for z: a row for every row, of the same shape."""
    check_batch(z=z, z_marg=z_marg)
    if z_marg.shape != z.shape:
        raise ValueError(f"z_marg must have the shape of z, {list(z.shape)}, got {list(z_marg.shape)}")
