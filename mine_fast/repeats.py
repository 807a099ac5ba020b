"""What is repeated: columns that are constant or copies of others, and rows that are there more than once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mine_fast.data import ArraySource, PairSource
from mine_fast.reference import mix64

__all__ = ["affine_copies", "constant_columns", "duplicate_groups"]

#: Rows of a dataset that are looked at, evenly spaced; arrays are read whole.
MAX_ROWS = 50_000

#: How far two columns may be apart to be the same, in half-widths of their middle half: float32 rounds no coarser.
SAME_COLUMN = 1e-5

#: A column with fewer rows beside its median says too little to be told a copy: rare events may coincide.
ROWS_OFF_MEDIAN = 10

#: What comes back so often on average may be a code, of a few values surely.
ROWS_PER_CODE, SURELY_CODES = 5, 32


def constant_columns(source: PairSource) -> tuple[Tensor, Tensor]:
    """Which columns have one value in all rows: all of arrays, up to 50,000 evenly spaced ones of other sources.

    Reads on only while some column still looks constant, so that a dataset without any gives up a few rows.

    Returns:
        Booleans [x_width] and [y_width], on the CPU; the columns of flattened rows where rows have more dimensions.

    >>> x, y = constant_columns(ArraySource(torch.ones(9, 1), torch.arange(18.0).reshape(9, 2)))
    >>> x.tolist(), y.tolist()
    ([True], [False, False])
    """
    if isinstance(source, ArraySource):
        return _constant(source.x, source.x[:1]), _constant(source.y, source.y[:1])
    rows = torch.arange(0, len(source), -(-len(source) // MAX_ROWS), device="cpu")
    first_x, first_y = source.rows(rows[:1])
    constant = [torch.ones(width, dtype=torch.bool, device="cpu") for width in (source.x_width, source.y_width)]
    done, size = 1, 32
    while done < len(rows) and any(bool(mask.any()) for mask in constant):
        x, y = source.rows(rows[done : done + size])
        constant[0] &= _constant(x, first_x)
        constant[1] &= _constant(y, first_y)
        done, size = done + size, min(2 * size, 4096)
    return constant[0], constant[1]


def _constant(samples: Tensor, first: Tensor) -> Tensor:
    return (samples == first).all(0).flatten().cpu()


def affine_copies(columns: Tensor) -> Tensor:
    """Which columns are scaled, shifted, mirrored copies of an earlier one.

    Args:
        columns: [n, d], float64 on the CPU.

    Returns:
        int64 [d], the first column that each is a copy of, its own number where there is none.

    >>> a, b = torch.randn(2, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> affine_copies(torch.stack([a, b, 3 - 2 * a, a + b], 1)).tolist()
    [0, 1, 0, 3]
    """
    rows, width = columns.shape
    columns = columns[: rows - 1 + rows % 2]  # of an odd number the median mirrors with the column
    offset = columns - columns.median(0).values
    away = offset != 0
    scale = torch.where(away, offset.abs(), torch.nan).nanmedian(0).values
    first = away.int().argmax(0, keepdim=True)
    standard = offset / scale * offset.gather(0, first).sign()  # equal for affine copies; nan where constant
    usable = (away.sum(0) >= ROWS_OFF_MEDIAN) & standard.isfinite().all(0)
    # Copies have the same projection on a random direction, and so are neighbours in its order.
    generator = torch.Generator("cpu").manual_seed(0)
    direction = torch.rand(len(columns), generator=generator, dtype=torch.float64, device="cpu")
    order = (direction @ torch.tanh(standard)).argsort()
    copy_of = torch.arange(width, device="cpu")
    previous = None
    for column in order[usable[order]].tolist():
        if previous is not None:
            a, b = standard[:, previous], standard[:, column]
            if bool(((a - b).abs() <= SAME_COLUMN * (1 + a.abs())).all()):
                first_of_both = min(int(copy_of[previous]), column)
                copy_of[copy_of == copy_of[previous]] = first_of_both
                copy_of[column] = first_of_both
        previous = column
    return copy_of


def duplicate_groups(source: PairSource) -> Tensor | None:
    """Which rows are copies of one another, where copies are no matter of course.

    A critic that trained on a copy of a held-out row knows the pair, so copies belong into one fold. Discrete data
    repeats its rows naturally, and keeping those together would hide values from the training.

    Of x and y the one with more different rows tells copies: where its rows come back, their partners do too, whatever
    the other one is (a label, say). They may still do so by nature, see `_comes_back`.

    Args:
        source: pairs in memory; others are not looked at.

    Returns:
        int64 [N] on the CPU, the same number for rows with equal x and y, numbered from 0; so N minus the groups is the
        number of needless copies. None where rows come back by nature, or without their partner, and where less than
        one row in 200 is a needless copy.

    >>> x = torch.rand(1000, 1, dtype=torch.float64).repeat(2, 1)
    >>> groups = duplicate_groups(ArraySource(x, x ** 2))
    >>> bool((groups[:1000] == groups[1000:]).all()), int(groups.max())
    (True, 999)
    >>> duplicate_groups(ArraySource(x, torch.rand(2000, 1, dtype=torch.float64)))   # x repeats, the pairs do not
    """
    if not isinstance(source, ArraySource):
        return None
    x, y = _row_hashes(source.x), _row_hashes(source.y)
    pair = mix64(mix64(x) + y)
    rows = len(source)
    copies, _ = _occurrences(pair)
    of_x, of_y = _occurrences(x), _occurrences(y)
    (occurrences, counts), samples = (of_x, source.x) if len(of_x[1]) >= len(of_y[1]) else (of_y, source.y)
    # A value that comes back without its partner, or very often, is one of a few among quantities, and no copy.
    atom = (occurrences > copies) | (copies > max(20, rows // 100))
    _, groups = torch.unique(torch.where(atom, torch.arange(rows, device=pair.device), pair), return_inverse=True)
    pairs = int(groups.max()) + 1
    if 200 * (rows - pairs) < rows:
        return None
    # Where all repeats are copies of pairs, there are about as many different rows as there are different pairs.
    return None if 10 * len(counts) < 9 * pairs or _comes_back(samples, counts) else groups.cpu()


def _comes_back(samples: Tensor, counts: Tensor) -> bool:
    """Whether rows repeat because there are few different ones: codes, or columns of few values each.

    What comes back `ROWS_PER_CODE` times on average is a code, if it is one of `SURELY_CODES` values, of whole numbers,
    or if some come more often than others: copies come as often, or a few times.

    Args:
        samples: [N, ...].
        counts: [K], how often each of the different rows is there.
    """
    rows, distinct = len(samples), len(counts)
    if rows >= ROWS_PER_CODE * distinct:
        irregular = int(counts.min()) < int(counts.max())
        if distinct <= SURELY_CODES or irregular or bool((samples == samples.round()).all()):
            return True
    # As many pairs of equal rows as columns of few values each bring that know nothing of each other?
    log_chance = 0.0
    for column in samples.flatten(1).T:
        _, of_value = torch.unique(column, return_counts=True)
        if 2 * of_value.numel() > distinct:
            return False
        log_chance += math.log(float((of_value.double() / rows).square().sum()))
    return math.exp(log_chance) > 0.5 * float((counts.double() / rows).square().sum() - 1 / rows)


def _occurrences(values: Tensor) -> tuple[Tensor, Tensor]:
    """How often the value of each row occurs, [N], and each of the different values, [K]."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return counts[place], counts


def _row_hashes(samples: Tensor) -> Tensor:
    """64 bits [N] that differ where the rows do, but for one pair of rows in 2^64."""
    flat = samples.flatten(1)
    generator = torch.Generator("cpu").manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, flat.shape[1:], generator=generator, device="cpu").to(flat.device) * 2 + 1
    # Adding 0 makes -0 the 0 that it equals. By blocks, for the copies that mixing makes.
    blocks = flat.split(max(1, 2**20 // flat.shape[1]))
    return torch.cat([(mix64((block.double() + 0.0).view(torch.int64)) * weights).sum(1) for block in blocks])
