"""Which columns of a table are meant, and the samples read from them."""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Table", "column_numbers", "in_both", "listed", "name_of", "names_that_are_numbers", "quoted", "text_note"]


class Table(NamedTuple):
    """Two samples read from a file, or three.

    Attributes:
        x: [N, dx] numbers.
        y: [M, dy] numbers; M is N unless an npz file holds arrays of unequal length.
        x_names: the columns of x by name or number.
        y_names: those of y.
        notes: what the reader decided by itself, a sentence each.
        given: [L, dz] numbers, the columns that are known already; None where none were asked for.
        given_names: those by name or number.
    """

    x: np.ndarray
    y: np.ndarray
    x_names: tuple[str, ...]
    y_names: tuple[str, ...]
    notes: tuple[str, ...]
    given: np.ndarray | None = None
    given_names: tuple[str, ...] = ()


def column_numbers(spec: str, names: Sequence[str] | None, width: int, where: str) -> list[int]:
    """The columns that a specification chooses, in its order.

    Args:
        spec: comma-separated names, 0-based numbers (negative ones count from the end) and ranges: `a:c` by names
            includes c, `0:3` by numbers is 0, 1, 2, as in Python; either end may be left out. A name that holds a
            comma is put in double quotes. A name goes before a number: where a column is called 2020, `2020` is that
            one, whichever place it has (`names_that_are_numbers` says so).
        names: the names of the columns, or None where they have only numbers.
        width: how many columns there are.
        where: what error messages begin with.

    Raises:
        ValueError: an empty specification, an unknown or ambiguous name, a number out of range, an empty range, a
            column chosen twice.

    >>> column_numbers("age,height:weight,-1", ["age", "height", "weight", "sex", "city"], 5, "x")
    [0, 1, 2, 4]
    >>> column_numbers("1:", None, 4, "x")
    [1, 2, 3]
    >>> column_numbers("1", ["2", "1", "0"], 3, "x"), column_numbers("0", ["2", "1", "0"], 3, "x")
    ([1], [2])
    """
    if names is not None and spec in names:
        return [_one_column(spec, names, width, where)]
    parts = _parts(spec)
    if not parts or not all(parts):
        shown = spec if len(spec) <= 100 else f"{spec[:97]}..."
        raise ValueError(f"{where}: columns must be names, numbers or ranges separated by commas, got {shown!r}")
    chosen: list[int] = []
    for part in parts:
        if ":" in part and (names is None or part not in names):
            chosen += _range_of_columns(part, names, width, where)
        else:
            chosen.append(_one_column(part, names, width, where))
    twice = (
        [number for i, number in enumerate(chosen) if number in chosen[:i]] if len(set(chosen)) < len(chosen) else []
    )
    if twice:
        raise ValueError(f"{where}: {spec!r} chooses column {name_of(twice[0], names)!r} twice")
    return chosen


def _parts(spec: str) -> list[str]:
    """The parts between commas, or none where they cannot be told apart."""
    try:
        return [part.strip() for part in next(csv.reader([spec], skipinitialspace=True), [])]
    except csv.Error:  # a line break, or more text than the csv module takes for a field
        return []


def quoted(name: str) -> str:
    """A name as a part of a specification, whatever it holds.

    >>> column_numbers(",".join(map(quoted, ["b", 'a,1"'])), ['a,1"', "b"], 2, "x")
    [1, 0]
    """
    return '"' + name.replace('"', '""') + '"' if any(mark in name for mark in ',"') else name


def _one_column(part: str, names: Sequence[str] | None, width: int, where: str) -> int:
    if names is not None and part in names:
        if names.count(part) > 1:
            numbers = [str(i) for i, name in enumerate(names) if name == part]
            raise ValueError(
                f"{where}: {len(numbers)} columns are called {part!r}; say which by number: {listed(numbers)}"
            )
        return names.index(part)
    if re.fullmatch(r"[+-]?\d+", part):
        number = int(part)
        if not -width <= number < width:
            raise ValueError(f"{where}: no column {number}; the columns are 0 to {width - 1}")
        return number % width
    if names is None:
        raise ValueError(f"{where}: no column {part!r}: the columns have no names; use their numbers, 0 to {width - 1}")
    close = difflib.get_close_matches(part, names[:10_000], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"{where}: no column {part!r}; {hint}it has {listed(names)}")


def _range_of_columns(part: str, names: Sequence[str] | None, width: int, where: str) -> list[int]:
    start_text, _, stop_text = (piece.strip() for piece in part.partition(":"))
    start = _one_column(start_text, names, width, where) if start_text else 0
    if not stop_text:
        stop = width
    elif names is not None and stop_text in names:
        stop = _one_column(stop_text, names, width, where) + 1
    elif re.fullmatch(r"[+-]?\d+", stop_text):
        stop = int(stop_text) + (width if int(stop_text) < 0 else 0)
        if not 0 <= stop <= width:
            raise ValueError(f"{where}: {part!r} goes beyond the {width} columns")
    else:
        stop = _one_column(stop_text, names, width, where) + 1  # which says that there is none
    if start >= stop:
        raise ValueError(f"{where}: {part!r} chooses no column")
    return list(range(start, stop))


def names_that_are_numbers(spec: str, names: Sequence[str] | None, width: int) -> list[str]:
    """A note on each part of a specification that is the name of one column and the number of another.

    >>> names_that_are_numbers("1", ["1", "age"], 2)
    ["'1' is read as the name of column 0, not as the number of column 'age'; -1 is that column"]
    """
    pieces = [piece.strip() for part in _parts(spec) for piece in part.split(":")]
    notes = []
    for piece in dict.fromkeys(pieces):
        if names is None or piece not in names or not re.fullmatch(r"[+-]?\d+", piece):
            continue
        column, number = names.index(piece), int(piece)
        if -width <= number < width and number % width != column:
            number %= width
            notes.append(
                f"{piece!r} is read as the name of column {column}, not as the number of column "
                f"{name_of(number, names)!r}; {number - width} is that column"
            )
    return notes


def in_both(x: Sequence[object], y: Sequence[object], x_names: Sequence[str]) -> list[str]:
    """A note on the columns, told apart by whatever x and y hold of each, that are on both sides."""
    theirs = set(y)
    shared = [name for column, name in zip(x, x_names, strict=True) if column in theirs]
    end = "; the mutual information of a variable with itself may be infinite"
    return [f"in both x and y: {listed(shared)}{end}"] if shared else []


def name_of(number: int, names: Sequence[str] | None) -> str:
    """The name of a column, or its number where it has none."""
    return names[number] if names is not None and names[number] else str(number)


def listed(names: Sequence[str], most: int = 20) -> str:
    """The names for an error message, or the first of them and how many there are."""
    shown = ", ".join(names[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown


def text_note(name: str, levels: int) -> str:
    """A note on a column that was read as categories."""
    return f"column {name!r} is text: {levels} categories, coded 0 to {levels - 1} in sorted order"
