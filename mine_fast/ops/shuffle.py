"""The marginal shuffle: keys, its index, and shuffled copies of y."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mine_fast.checks import check_64_bits
from mine_fast.ops._checks import check_dense, check_integer, check_key, check_shuffles
from mine_fast.ops._dispatch import backward_kernel, in_eager_mode, kernel, needs_gradient

_advance_key = torch.ops.mine_fast.advance_key.default
_shuffle_index = torch.ops.mine_fast.shuffle_index.default
_marginal_shuffle = torch.ops.mine_fast.marginal_shuffle.default
_backward = torch.ops.mine_fast.marginal_shuffle_backward.default


def shuffle_key(seed: int, offset: int = 0, device: torch.device | str | None = None) -> Tensor:
    """Make the key of a marginal shuffle.

    Args:
        seed: names a stream of shuffles; in [-2^63, 2^64) as for `torch.manual_seed`, a negative one modulo 2^64.
        offset: position in the stream, usually the step number; the same range.
        device: where the data is.

    Returns:
        int64 [2].

    Raises:
        ValueError: outside that range, where two seeds would silently mean one stream.
        TypeError: no integer.

    >>> from mine_fast import ops
    >>> ops.shuffle_key(7, offset=3)
    tensor([7, 3])
    """
    return torch.tensor([_as_int64("seed", seed), _as_int64("offset", offset)], dtype=torch.int64, device=device)


def _as_int64(name: str, value: int) -> int:
    check_integer(name, value)
    check_64_bits(name, value)
    return int(value) if value < 1 << 63 else int(value) - (1 << 64)  # the kernels read it as unsigned


def advance_key(key: Tensor) -> tuple[Tensor, Tensor]:
    """A copy of a key, to use now, and the key of the next step, to keep in a buffer: no transfer, no host sync.

    Args:
        key: int64 [2], from `shuffle_key`.

    Returns:
        (seed, offset) and (seed, offset + 1), both int64 [2].

    Raises:
        TypeError: no such key.

    >>> from mine_fast import ops
    >>> ops.advance_key(ops.shuffle_key(7, offset=3))
    (tensor([7, 3]), tensor([7, 4]))
    """
    check_key(key)
    return _advance_key(key)


@torch.library.register_fake("mine_fast::advance_key")
def _(key: Tensor) -> tuple[Tensor, Tensor]:
    return key.new_empty(2), key.new_empty(2)


def shuffle_index(rows: int, key: Tensor, shuffles: int = 1, inverse: bool = False) -> Tensor:
    """The index of the marginal shuffle: a derangement of the rows per shuffle.

    Args:
        rows: B, the rows of the batch; 0, or at least 2.
        key: int64 [2], from `shuffle_key`.
        shuffles: S. Up to B - 1 shuffles of one key give every row S different partners.
        inverse: return the inverse permutations.

    Returns:
        int64 [S, B]; row s holds the partner of every row in shuffle s.

    Raises:
        ValueError: one row, a negative number of rows, or fewer than one shuffle.
        TypeError: no such key; rows or shuffles is no integer.

    Source: a cycle-walked Feistel network (Mitchell et al., arXiv 2106.06161), conjugating cyclic shifts.

    >>> import torch
    >>> from mine_fast import ops
    >>> index = ops.shuffle_index(5, ops.shuffle_key(0))
    >>> bool((index == torch.arange(5)).any())   # no row keeps its own partner
    False
    >>> inverse = ops.shuffle_index(5, ops.shuffle_key(0), inverse=True)
    >>> index[0][inverse[0]].tolist()
    [0, 1, 2, 3, 4]
    """
    check_integer("rows", rows)
    check_shuffles(key, rows, shuffles)
    if rows < 0:
        raise ValueError(f"rows must not be negative, got {rows}")
    return _shuffle_index(key, rows, shuffles, inverse)


@torch.library.register_fake("mine_fast::shuffle_index")
def _(key: Tensor, rows: int, shuffles: int, inverse: bool) -> Tensor:
    return key.new_empty(shuffles, rows)


def marginal_shuffle(y: Tensor, key: Tensor, shuffles: int = 1) -> Tensor:
    """Shuffled copies of y: samples of its marginal, to be paired with x row by row.

    Args:
        y: [B, ...], any dtype to shuffle, floating to differentiate.
        key: int64 [2], from `shuffle_key`, on the device of y.
        shuffles: S.

    Returns:
        [S, B, ...] in the dtype of y. The backward gathers by the inverse permutation: deterministic, no atomics.

    Raises:
        ValueError: one row, fewer than one shuffle, y without rows to index, a key on another device.
        TypeError: y is no dense tensor; no such key; shuffles is no integer.

    >>> import torch
    >>> from mine_fast import ops
    >>> ops.marginal_shuffle(torch.arange(4.0), ops.shuffle_key(1)).sort().values
    tensor([[0., 1., 2., 3.]])
    """
    check_dense("y", y)
    if y.ndim == 0:
        raise ValueError("y must have rows, [B, ...], got a 0-d tensor")
    check_shuffles(key, y.shape[0], shuffles, y.device)
    if in_eager_mode(y):
        return (
            _MarginalShuffle.apply(y, key, shuffles)
            if needs_gradient(y)
            else kernel(_marginal_shuffle, y, key, shuffles)
        )
    return _marginal_shuffle(y, key, shuffles)


class _MarginalShuffle(torch.autograd.Function):
    """The op as a node of our own; see `_dispatch`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, key: Tensor, shuffles: int) -> Tensor:
        ctx.save_for_backward(key)
        return kernel(_marginal_shuffle, y, key, shuffles)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _marginal_shuffle_backward(ctx, grad)


@torch.library.register_fake("mine_fast::marginal_shuffle")
def _(y: Tensor, key: Tensor, shuffles: int) -> Tensor:
    return y.new_empty(shuffles, *y.shape)


@torch.library.register_fake("mine_fast::marginal_shuffle_backward")
def _(grad: Tensor, key: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[1:])


def _save_key(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.shuffles = inputs[2] if len(inputs) > 2 else inputs[0].shape[0]


def _marginal_shuffle_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return backward_kernel(_backward, grad, ctx.saved_tensors[0]), None, None


def _marginal_shuffle_backward_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _marginal_shuffle(grad, ctx.saved_tensors[0], ctx.shuffles), None


torch.library.register_autograd("mine_fast::marginal_shuffle", _marginal_shuffle_backward, setup_context=_save_key)
torch.library.register_autograd(
    "mine_fast::marginal_shuffle_backward", _marginal_shuffle_backward_backward, setup_context=_save_key
)
