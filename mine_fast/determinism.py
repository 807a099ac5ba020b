"""Whether one variable is a function of the other: then the information is infinite, and no estimate means anything.

Every row's value is predicted from its nearest neighbours in the other variable by a local linear fit that leaves the
row out. Noise leaves an error that stays as the rows get denser; where there is none, the error falls with the distance
to the neighbours, and is zero up to rounding for a linear map.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mine_fast.data import PairSource
from mine_fast.repeats import affine_copies
from mine_fast.result import Flag

__all__ = ["deterministic", "is_function_of"]

#: Rows looked at: enough to see a curve of a few bends, and half a second's work at the most columns.
ROWS = 1000

#: More columns together have no near neighbours among so few rows, and are looked at one by one.
MAX_COLUMNS = 32

#: Neighbours in a single column, and columns of x times columns of y that are tried one by one.
SINGLE_NEIGHBOURS, MAX_PAIRS = 6, 256

#: Errors, as a share of the difference of two random rows: none up to rounding of float32, and small.
ROUNDING, SMALL = 1e-6, 1e-2

#: How much the error grows with half the rows where it is one of distance: 4 times for a smooth curve, 2 for a surface,
#: and once for noise.
GROWTH = 1.8

#: A column with fewer distinct values than this share of the rows is discrete, where a function is finite information.
DISTINCT = 0.95


def deterministic(source: PairSource, seed: int, names: tuple[str, str] = ("x", "y")) -> Flag | None:
    """The flag of a pair of which one is a function of the other, as far as some random rows can tell.

    Reaches maps that a local linear fit to neighbours among `ROWS` rows can follow: smooth ones of one column, which
    may be one of many, or of a variable of two, linear ones of up to `MAX_COLUMNS`, and columns of x that y has too.

    Args:
        source: the rows.
        seed: of the choice of rows.
        names: what the flag calls the two variables.
    """
    index = torch.randperm(len(source), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")[:ROWS]
    x, y = (side.detach().flatten(1).double().cpu() for side in source.rows(index))
    if _share_a_column(x, y):
        return _flag(names[1], names[0], len(index))
    for name, values, other, given in ((names[1], y, names[0], x), (names[0], x, names[1], y)):
        if is_function_of(values, given):
            return _flag(name, other, len(index))
    return None


def _flag(name: str, other: str, rows: int) -> Flag:
    return Flag(
        "deterministic",
        f"{name} has a column that is a function of {other} without noise, as far as {rows} rows tell: the "
        "mutual information of continuous variables is infinite then, and the estimate says how much of it the critic "
        "resolved",
    )


def _share_a_column(x: Tensor, y: Tensor) -> bool:
    """Whether a continuous column of x [n, dx] is one of y [n, dy], but for scale and shift."""
    x, y = x[:, _continuous(x)], y[:, _continuous(y)]
    first = affine_copies(torch.cat([x, y], 1))
    return bool(torch.isin(first[x.shape[1] :], first[: x.shape[1]]).any())


def is_function_of(y: Tensor, x: Tensor) -> bool:
    """Whether a continuous column of y [n, dy] is a function of x [n, dx] without noise.

    >>> x = torch.randn(500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> is_function_of(x**2, x), is_function_of(x, x**2)   # the sign is lost
    (True, False)
    """
    y = y[:, _continuous(y)]
    neighbours = 3 * (x.shape[1] + 1)
    half = len(y) // 2
    if not y.shape[1] or not bool(_continuous(x).any()):
        return False
    return (
        x.shape[1] <= MAX_COLUMNS
        and half >= 2 * neighbours
        and _follows(y, x, lambda y, x: _local_linear_error(y, x, neighbours))
    ) or (
        # One column of many, whose neighbours the others hide.
        x.shape[1] > 1
        and half >= 2 * SINGLE_NEIGHBOURS
        and _follows(y, x[:, _continuous(x)][:, : max(1, MAX_PAIRS // y.shape[1])], _error_along_columns)
    )


def _follows(y: Tensor, x: Tensor, error_of: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether an error of predicting y [n, dy] by x is rounding, or shrinks with the distance of neighbours."""
    scale = (y - y.roll(1, 0)).abs().median(0).values
    half = len(y) // 2
    error, sparse = error_of(y, x) / scale, error_of(y[:half], x[:half]) / scale
    return bool(((error < ROUNDING) | ((error < SMALL) & (sparse > GROWTH * error))).any())


def _continuous(columns: Tensor) -> Tensor:
    """Which columns of [n, d] have hardly a value twice, bool [d]."""
    ordered = columns.sort(0).values
    return (ordered[1:] != ordered[:-1]).double().mean(0) >= DISTINCT


def _error_along_columns(y: Tensor, x: Tensor) -> Tensor:
    """Median absolute errors [dx, dy] of predicting y [n, dy] linearly by the neighbours in one column of x [n, dx]."""
    ordered = x.sort(0)
    width = SINGLE_NEIGHBOURS + 1
    others = torch.arange(width, device=x.device) != width // 2
    windows = ordered.values.unfold(0, width, 1)  # [m, dx, width]
    offset = windows[..., others] - windows[..., width // 2, None]
    spread = offset - offset.mean(2, keepdim=True)
    variance = (spread**2).sum(2).clamp_min(torch.finfo(x.dtype).tiny)
    errors = []
    for column in y.T:
        values = column[ordered.indices].unfold(0, width, 1)
        target = values[..., others] - values[..., width // 2, None]
        slope = (spread * target).sum(2) / variance
        errors.append((target.mean(2) - slope * offset.mean(2)).abs().median(0).values)
    return torch.stack(errors, 1)


def _local_linear_error(y: Tensor, x: Tensor, neighbours: int) -> Tensor:
    """Median absolute error [dy] of predicting each row of y [n, dy] by a linear fit to its neighbours in x [n, dx]."""
    middle = torch.quantile(x, x.new_tensor([0.25, 0.75]), dim=0)
    spread = middle[1] - middle[0]
    x = x / torch.where(spread > 0, spread, 1.0)
    nearest = _nearest(x, neighbours)
    offset = x[nearest] - x[:, None]  # [n, k, dx]
    offset = offset / offset.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    # The row itself is at 0: the intercept predicts it.
    design = torch.cat([torch.ones_like(offset[..., :1]), offset], 2)
    target = y[nearest]
    mean = target.mean(1, keepdim=True)
    gram = design.mT @ design
    # A trace of a ridge: columns may repeat each other. It moves a linear prediction by less than ROUNDING.
    gram.diagonal(dim1=1, dim2=2).add_(1e-9 * neighbours)
    intercept = torch.linalg.solve(gram, design.mT @ (target - mean))[:, 0]
    return (y - mean[:, 0] - intercept).abs().median(0).values


def _nearest(x: Tensor, count: int) -> Tensor:
    """Numbers of the `count` rows nearest to each row of x [n, dx], itself left out, [n, count]."""
    rows = len(x)
    if x.shape[1] > 1:
        return torch.cdist(x, x).fill_diagonal_(torch.inf).topk(count, largest=False).indices
    # In one column they are among as many to either side in its order.
    values, order = x[:, 0].sort()
    shifts = torch.arange(-count, count + 1, device=x.device)
    shifts = shifts[shifts != 0]
    place = torch.arange(rows, device=x.device)[:, None] + shifts
    inside = place.clamp(0, rows - 1)
    distance = (values[inside] - values[:, None]).abs().masked_fill(inside != place, torch.inf)
    nearest = order[inside.gather(1, distance.topk(count, largest=False).indices)]
    return torch.empty_like(nearest).index_copy_(0, order, nearest)
