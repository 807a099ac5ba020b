"""Flags of what the columns and rows are, whatever is estimated from them."""

from __future__ import annotations

import torch
from torch import Tensor

from mine_fast.data import ArraySource, PairSource
from mine_fast.inputs import QuantileInputs
from mine_fast.repeats import affine_copies, constant_columns
from mine_fast.result import Flag

__all__ = [
    "column_flags",
    "constants",
    "discrete",
    "duplicate_columns",
    "duplicate_rows",
    "heavy_tails",
    "many_levels",
    "rare_codes",
]

#: Rows that tails and copies of columns are told from; of a dataset, whose rows may cost much to fetch, and of arrays.
DATASET_ROWS, ARRAY_ROWS = 1000, 10_000

#: How far the 0.5% and 99.5% quantiles are apart, in widths of the middle half, where tails begin to be heavy. It is
#: 3.8 for a Gaussian, 2.0 for a uniform, 4.8 for an exponential, 6.6 for a Laplace distribution, 7.6 and 12 for
#: Student's t of 3 and 2 degrees of freedom, 9.0 for exp(Gaussian), 64 for Cauchy.
HEAVY = 7.2
GAUSSIAN = 3.8

#: Rows per code of what is conditioned on, from where what it tells is learnt well enough, see `rare_codes`.
ROWS_PER_CONDITION = 20


def _sampled_rows(source: PairSource, seed: int) -> tuple[Tensor, Tensor]:
    """Random rows of x and y, flattened, on the CPU in float64: [n, dx] and [n, dy]."""
    many = isinstance(source, ArraySource)
    width = source.x_width + source.y_width
    rows = max(DATASET_ROWS, min(ARRAY_ROWS, 4_000_000 // width)) if many else DATASET_ROWS
    index = torch.randperm(len(source), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")[:rows]
    x, y = (side.detach().flatten(1).double().cpu() for side in source.rows(index))
    return x, y


def column_flags(source: PairSource, ranked: bool, seed: int, names: tuple[str, str] = ("x", "y")) -> list[Flag]:
    """Flags of what a sample of the rows tells of the columns.

    Args:
        source: the rows.
        ranked: whether the default critic reads them, which knows codes itself (see `discrete`).
        seed: of the choice of rows.
        names: what the flags call the two variables.
    """
    found: list[Flag | None] = []
    for name, columns in zip(names, _sampled_rows(source, seed), strict=True):
        found += [duplicate_columns(name, columns), heavy_tails(name, columns, ranked)]
        if not ranked:
            found.append(discrete(name, QuantileInputs().fit(columns), coded=False))
    return [flag for flag in found if flag is not None]


def constants(source: PairSource, names: tuple[str, str] = ("x", "y")) -> tuple[list[Flag], bool]:
    """Flags for constant columns, and whether x or y has no other (then it carries no information)."""
    flags, degenerate = [], False
    for name, constant in zip(names, constant_columns(source), strict=True):
        if bool(constant.any()):
            columns = constant.nonzero().flatten()
            message = f"{name} has {columns.numel()} constant column(s) ({_listed(columns)})"
            flags.append(Flag("constant_column", message))
            degenerate |= bool(constant.all())
    return flags, degenerate


def duplicate_columns(name: str, columns: Tensor) -> Flag | None:
    """Columns [n, d] that say what another one of the same variable says."""
    first = affine_copies(columns)
    copies = (first != torch.arange(first.numel(), device="cpu")).nonzero().flatten()
    if not copies.numel():
        return None
    pairs = ", ".join(f"{copy} of {first[copy]}" for copy in copies[:10].tolist())
    return Flag(
        "duplicate_columns",
        f"{name} has {copies.numel()} column(s) that are another one but for scale and shift "
        f"({pairs}{', ...' if copies.numel() > 10 else ''}): they hold no information of their own, and make the rest "
        "harder to learn; leave them out",
    )


def heavy_tails(name: str, columns: Tensor, ranked: bool) -> Flag | None:
    """Columns [n, d] with values so far out that a critic which reads them raw follows a few rows.

    Args:
        name: of the variable.
        columns: a sample of it.
        ranked: whether the critic reads ranks, as the default one does, on which tails have no hold.
    """
    ordered = columns.sort(0).values
    last = len(ordered) - 1
    low, first, third, high = (ordered[round(share * last)] for share in (0.005, 0.25, 0.75, 0.995))
    # As halves: the range of the largest numbers overflows.
    reach = (0.5 * high - 0.5 * low) / (0.5 * third - 0.5 * first)  # 0 / 0 or x / 0 where half the values are equal
    heavy = (reach > HEAVY) & (third > first)
    if not bool(heavy.any()):
        return None
    found = heavy.nonzero().flatten()
    what = (
        f"{found.numel()} column(s) of {name} ({_listed(found)}) have heavy tails: 99% of the values span "
        f"{float(reach[found].max()):.3g} times the middle half, where a Gaussian has {GAUSSIAN}"
    )
    if ranked:
        return Flag("heavy_tails", f"{what}; the critic reads ranks, which they do not touch", "note")
    return Flag(
        "heavy_tails",
        f"{what}; T reads the values as they are, and a few rows rule its training: give it ranks, or logarithms or "
        "asinh of the values, which leave the information as it is",
    )


def discrete(name: str, inputs: QuantileInputs, coded: bool) -> Flag | None:
    """Columns of few values, each of which many rows share.

    Args:
        name: of the variable.
        inputs: fitted to it; columns that it gives an indicator per value are those meant.
        coded: whether the critic reads these indicators.
    """
    values = 1 + (inputs.knots[:, 1:] != inputs.knots[:, :-1]).sum(1).cpu()  # [d]
    levels = torch.bincount(inputs.level_columns.cpu(), minlength=inputs.columns)
    # Fewer levels than values: a column of quantities with a code among them.
    found = ((levels > 1) & (levels == values)).nonzero().flatten()
    if not found.numel():
        return None
    width = inputs.columns
    most = int(values[found].max())
    if width == 1:
        what = f"{name} is discrete ({most} values)"
    else:
        up_to = "" if int(values[found].min()) == most else "up to "
        what = f"{found.numel()} of {width} columns of {name} ({_listed(found)}) are discrete ({up_to}{most} values)"
    if coded:
        read = "each value is read as a code, and its rank besides"
    else:
        read = "T reads the numbers as they are; if their order means nothing, give it an indicator of each value"
    limit = ""
    if found.numel() == width:
        entropy = float(values.double().log().sum())
        limit = f". The information is at most ln({most}) = " if width == 1 else ". The information is at most "
        limit += f"{entropy:.3g} nats"
    return Flag("discrete", f"{what}: {read}{limit}", "note")


def rare_codes(name: str, inputs: QuantileInputs, rows: int) -> Flag | None:
    """Codes of a variable that is conditioned on, of which each value has few rows.

    Where x and y depend on z alone, 40 codes of 5 rows each, I(X;Y|Z) = 0 is read as 0.08 on average of ten samples; of
    8 rows and more as 0.01 or less, and of 200 codes of 6 rows as 0.04 (benchmarks/repeats.py).

    Args:
        name: of the variable.
        inputs: fitted to it.
        rows: N.
    """
    if not inputs.level_columns.numel():
        return None
    levels = torch.bincount(inputs.level_columns.cpu(), minlength=inputs.columns)
    rare = (rows < ROWS_PER_CONDITION * levels).nonzero().flatten()
    if not rare.numel():
        return None
    most = int(levels.max())
    return Flag(
        "rare_codes",
        f"{name} has codes of fewer than {ROWS_PER_CONDITION} rows each ({most} values in {rows} rows): what they tell "
        "is learnt from few rows, and what is missed counts as I(X;Y|Z), which is then too high, and its p-value too "
        "small; merge rare codes",
    )


def many_levels(name: str, columns: Tensor) -> Flag | None:
    """Columns that look like codes of more values than the default critic gives an indicator each."""
    if not columns.numel():
        return None
    return Flag(
        "many_levels",
        f"{columns.numel()} column(s) of {name} ({_listed(columns)}) repeat many values and are read as quantities; if "
        "they are codes, whose order means nothing, the estimate is too low: merge rare codes",
    )


def _listed(columns: Tensor) -> str:
    return ", ".join(map(str, columns[:10].tolist())) + (", ..." if columns.numel() > 10 else "")


def duplicate_rows(groups: Tensor | None) -> Flag | None:
    """Pairs that occur more than once: copies of one measurement, or values that are few.

    Args:
        groups: int64 [N], equal for copies (`split_folds` keeps those in one fold); None: nobody looked.
    """
    if groups is None:
        return None
    rows, distinct = groups.numel(), groups.unique().numel()
    if distinct == rows:
        return None
    return Flag(
        "duplicate_rows",
        f"{rows - distinct} of {rows} rows repeat another: copies were held out together and count once in the error "
        "bar and the p-value",
    )
