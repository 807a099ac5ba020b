"""Which rows train, choose and are held out: the folds of the cross-fitting, with rows that belong together in one."""

from __future__ import annotations

import heapq

import torch
from torch import Tensor

__all__ = ["split_folds", "split_off"]


def split_folds(rows: int, folds: int, seed: int, groups: Tensor | None = None) -> list[Tensor]:
    """Split rows into folds at random.

    A row whose twin trains a critic is not held out from it: rows of a group go into one fold.

    Args:
        rows: N.
        folds: K.
        seed: of the order.
        groups: int64 [N], equal for rows of one group; None: every row is its own.

    Returns:
        K tensors of row numbers, int64 in random order, each row once. Their sizes differ by at most the largest group.

    Raises:
        ValueError: fewer groups than folds, or groups of another length.

    >>> [sorted(fold.tolist()) for fold in split_folds(6, 2, 0, torch.tensor([7, 7, 7, 3, 4, 5]))]
    [[0, 1, 2], [3, 4, 5]]
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(rows, generator=generator, device="cpu")
    if groups is None:
        return list(order.tensor_split(folds))
    if groups.shape != (rows,):
        raise ValueError(f"groups must be [{rows}], one number per row, got {list(groups.shape)}")
    _, group_of, counts = torch.unique(groups, return_inverse=True, return_counts=True)
    if counts.numel() < folds:
        raise ValueError(
            f"folds must be at most the {counts.numel()} different rows (equal rows stay in one fold), got {folds}"
        )
    # Largest first, each into the smallest fold: no fold gets ahead of another by more than the group it got last.
    shuffled = torch.randperm(counts.numel(), generator=generator, device="cpu")
    by_size = shuffled[counts[shuffled].argsort(descending=True, stable=True)]
    fold_of = torch.empty_like(counts)
    filled = [(0, k) for k in range(folds)]
    for group, count in zip(by_size.tolist(), counts[by_size].tolist(), strict=True):
        size, fold = heapq.heappop(filled)
        fold_of[group] = fold
        heapq.heappush(filled, (size + count, fold))
    fold_of_row = fold_of[group_of[order]]
    return [order[fold_of_row == fold] for fold in range(folds)]


def split_off(rows: Tensor, count: int, groups: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The first rows and the rest, no group on both sides.

    Args:
        rows: int64 [n] row numbers, in random order.
        count: how many to split off; with groups as many whole ones as fit, but at least one. One that has more than
            half of the rows is cut all the same: something has to be left.
        groups: as in `split_folds`, of all rows.

    >>> split_off(torch.tensor([4, 2, 0, 1]), 2)
    (tensor([4, 2]), tensor([0, 1]))
    """
    if groups is not None:
        _, group_of = torch.unique(groups[rows], return_inverse=True)
        n = rows.numel()
        position = torch.arange(n, device=rows.device)
        first_seen = torch.full_like(rows, n).scatter_reduce(0, group_of, position, "amin")[group_of]
        order = first_seen.argsort(stable=True)
        rows, sizes = rows[order], torch.unique_consecutive(first_seen[order], return_counts=True)[1]
        ends = sizes.cumsum(0)
        whole = int(ends[ends <= max(count, int(ends[0]))][-1])
        count = whole if whole <= n // 2 else count
    return rows[:count], rows[count:]
