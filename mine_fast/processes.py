"""The processes of a `torch.distributed` group: what each of them has, brought together on all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Processes", "processes_of"]

Item = TypeVar("Item")


class Processes:
    """A group of processes that make the same calls in the same order.

    Args:
        group: a `torch.distributed.ProcessGroup` that this process is a member of; or "world": the default group at the
            time of a call, and where there is none, this process alone.

    Raises:
        ValueError: another name; a group of other processes.
        TypeError: neither a name nor a group.
    """

    def __init__(self, group: Any) -> None:
        if isinstance(group, str):
            if group != "world":
                raise ValueError(f"process_group must be None, 'world' or a ProcessGroup, got {group!r}")
        elif dist.is_available() and group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError("process_group must be one that this process is a member of, got one of others")
        elif not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
            raise TypeError(f"process_group must be None, 'world' or a ProcessGroup, got {type(group).__name__}")
        self.group = group

    def __repr__(self) -> str:
        return repr(self.group) if isinstance(self.group, str) else f"<group of {self.size}>"

    def __deepcopy__(self, memo: object) -> Processes:
        """The copy of a module is in the same group, which cannot be copied."""
        return self

    @property
    def size(self) -> int:
        """W, how many; 1 with "world" before `init_process_group`.

        Raises:
            RuntimeError: a launcher says that there are more, and they have not been joined: alone, each would train
                on its own rows and nobody would notice.
        """
        if not isinstance(self.group, str):
            return dist.get_world_size(self.group)
        if dist.is_available() and dist.is_initialized():
            return dist.get_world_size()
        launched = os.environ.get("WORLD_SIZE", "1")
        if launched not in ("", "1"):
            raise RuntimeError(
                f"process_group='world' in a job of WORLD_SIZE={launched} needs torch.distributed.init_process_group() "
                "first (or Fabric.launch())"
            )
        return 1

    @property
    def rank(self) -> int:
        """The number of this process in the group."""
        return dist.get_rank(self._handle) if self.size > 1 else 0

    def gather(self, values: Tensor) -> Tensor:
        """Values [k] of every process, [W, k], in the order of the ranks: the same bits in all. Without gradient."""
        values = values.detach().contiguous()
        parts = [torch.empty_like(values) for _ in range(self.size)]
        with self._explaining():
            dist.all_gather(parts, values, group=self._handle)
        return torch.stack(parts)

    def gather_rows(self, rows: Tensor, counts: list[int]) -> Tensor:
        """The rows [B_r, ...] of all processes, in the order of the ranks, [B, ...].

        Differentiable: the gradient of a process's rows is the sum of what they cause in all processes.

        Args:
            rows: of this process; the other dimensions are the same in all.
            counts: B_r of every process.
        """
        gathered: Tensor = _GatherRows.apply(rows, self, counts)
        return gathered

    def share_gradient(self, value: Tensor, share: Tensor) -> Tensor:
        """`value` [], the same in all processes, as a sum over them of which `share` [] is this process's part.

        The gradient of what comes back, where every process differentiates it, is that of the sum over the processes:
        d/d(share) is the sum of the gradients that come in, W where each is 1. A second derivative is refused: the
        share takes what comes from other processes for a constant.
        """
        shared: Tensor = _ShareGradient.apply(share, value.detach(), self)
        return shared

    def gather_objects(self, item: Item) -> list[Item]:
        """One picklable object from every process, in the order of the ranks; alone, the object itself."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        with self._explaining():
            dist.all_gather_object(items, item, group=self._handle)
        return items

    def sum_in_place(self, values: Tensor) -> Tensor:
        """The elementwise sum over all processes, written into `values`."""
        with self._explaining():
            dist.all_reduce(values, group=self._handle)
        return values

    @property
    def _handle(self) -> Any:
        return None if isinstance(self.group, str) else self.group

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # the base of dist.DistError; gloo raises it as it is
            raise RuntimeError(
                f"rank {self.rank} of {self.size} could not meet the other processes: one of them has ended, or has "
                f"not made the same call within the timeout of the process group; torch says: {error}"
            ) from error


def processes_of(process_group: Any) -> Processes | None:
    """The argument `process_group` of public functions, checked; None stays None."""
    return None if process_group is None else Processes(process_group)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, processes: Processes, counts: list[int]) -> Tensor:
        ctx.processes, ctx.counts = processes, counts
        # Equal sizes, which every backend takes: the rows that are missing to the most are zeros.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: rows.shape[0]] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        with processes._explaining():
            dist.all_gather(parts, padded, group=processes._handle)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # 16 bits would lose the small shares in the sum.
        wide = grad.float() if torch.finfo(grad.dtype).bits < 32 else grad.clone(memory_format=torch.contiguous_format)
        begin = sum(ctx.counts[: ctx.processes.rank])
        own = ctx.processes.sum_in_place(wide)[begin : begin + ctx.counts[ctx.processes.rank]]
        return own.to(grad.dtype), None, None


class _ShareGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, share: Tensor, value: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        ctx.save_for_backward(share)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        total = ctx.processes.sum_in_place(grad.detach().clone())
        return _Once.apply(total, *ctx.saved_tensors) if torch.is_grad_enabled() else total, None, None


class _Once(torch.autograd.Function):
    """A gradient, with what it is the gradient of beside it, so that a second derivative comes by here."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, share: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise NotImplementedError("the loss of several processes can be differentiated once")
