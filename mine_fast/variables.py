"""The variables of a table, for `pairwise`: its columns, or named groups of them, each as checked samples [N, d]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mine_fast.arrays import alike, as_samples
from mine_fast.columns import listed, quoted
from mine_fast.conversion import as_array
from mine_fast.describing import describe, is_pandas

__all__ = ["Variables", "table_variables"]


class Variables(NamedTuple):
    """What a table holds.

    Attributes:
        samples: [N, d] by name, of one dtype, on one device.
        notes: what the reader of a file decided by itself, a sentence each.
    """

    samples: dict[str, Tensor]
    notes: tuple[str, ...]


def table_variables(
    table: Any, groups: Mapping[str, Any] | None = None, columns: str | Sequence[Any] | None = None
) -> Variables:
    """Read the variables of a table.

    Args:
        table: [N, d] array, tensor or nested list, DataFrame, dict of columns ([N] or [N, d] each), or the path of a
            csv, npy or npz file.
        groups: columns by the name of the variable that they make up: names, or numbers where there are none; None:
            every column is a variable.
        columns: the columns to be used, as `mine-fast estimate` takes them for a file, else names or numbers; None:
            all. Not together with groups.

    Raises:
        TypeError, ValueError: no table, columns that are not there, fewer than two variables, bad data; the message
            names the column.

    >>> samples, notes = table_variables({"a": [1, 2, 3], "b": ["u", "v", "u"]})
    >>> {name: tuple(x.shape) for name, x in samples.items()}
    {'a': (3, 1), 'b': (3, 1)}
    """
    if groups is not None and columns is not None:
        raise ValueError("groups and columns cannot both be given: name the columns of every group")
    notes: tuple[str, ...] = ()
    if isinstance(table, str | Path):
        found, notes = _of_file(Path(table), columns if groups is None else _named_members(groups))
    else:
        found = _columns(table)
        if columns is not None:
            found = {key: found[key] for key in _keys(columns, found, "columns")}
    if groups is not None:
        groups = _members(groups, found)
        used = {key for keys in groups.values() for key in keys}
        found = {key: value for key, value in found.items() if key in used}
    samples = {name: as_samples(value, f"column {name!r}", recode=True) for name, value in found.items()}
    lengths = {name: len(values) for name, values in samples.items()}
    if len(set(lengths.values())) > 1:
        (first, most), *rest = lengths.items()
        name, other = next((name, rows) for name, rows in rest if rows != most)
        raise ValueError(f"table: column {name!r} has {other} rows, column {first!r} has {most}")
    if groups is not None:
        samples = {name: _together([samples[key] for key in keys]) for name, keys in groups.items()}
    if len(samples) < 2:
        raise ValueError(f"table must have at least two variables to pair, got {len(samples)}: {describe(table)}")
    first_samples = next(iter(samples.values()))
    for values in samples.values():
        first_samples, _ = alike(first_samples, values, ("table", "table"))
    return Variables({name: values.to(first_samples.dtype) for name, values in samples.items()}, notes)


def _columns(table: Any) -> dict[str, Any]:
    if is_pandas(table) and hasattr(table, "columns"):
        names = [str(name) for name in table.columns]
        return _named(names, [table.iloc[:, number] for number in range(len(names))])
    if isinstance(table, Mapping):
        return _named([str(name) for name in table], list(table.values()))
    whole = table if isinstance(table, Tensor) else as_array(table, "table")
    if whole.ndim != 2:
        raise ValueError(
            f"table must be [N, d], a DataFrame, a dict of columns or the path of a file, got {describe(table)}"
        )
    return {str(number): whole[:, number] for number in range(whole.shape[1])}


def _named(names: list[str], values: list[Any]) -> dict[str, Any]:
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ValueError(f"table: two columns are called {twice!r}, by which results are told apart; rename one")
    return dict(zip(names, values, strict=True))


def _of_file(path: Path, columns: str | Sequence[Any] | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The columns of a file by name, and the reader's notes."""
    from mine_fast.tables import archive_names, read_table

    arrays = archive_names(path)
    if columns is None:
        chosen = arrays or [":"]
    elif isinstance(columns, str):
        chosen = [columns]
    else:
        wanted = [str(column) for column in _as_list(columns)]
        chosen = wanted if arrays else [",".join(map(quoted, wanted))]
    read = [read_table(path, one) for one in chosen]
    found = _named([name for part in read for name in part.x_names], [column for part in read for column in part.x.T])
    return found, tuple(dict.fromkeys(note for part in read for note in part.notes))


def _key(column: Any, found: Mapping[str, Any], where: str) -> str:
    """The name of a column given by name or number."""
    if str(column) in found:
        return str(column)
    names = list(found)
    if isinstance(column, int) and not isinstance(column, bool) and -len(names) <= column < len(names):
        return names[column]
    raise ValueError(f"{where}: no column {column!r}; the table has {listed(names)}")


def _keys(columns: Any, found: Mapping[str, Any], where: str) -> list[str]:
    """The names of some columns, or of one."""
    return [_key(column, found, where) for column in _as_list(columns)]


def _as_list(columns: Any) -> list[Any]:
    return [columns] if isinstance(columns, str | int) else list(columns)


def _named_members(groups: Mapping[str, Any]) -> list[str] | None:
    """The columns of all groups where all are names; None: not to be told before the whole table is there."""
    if not isinstance(groups, Mapping):
        return None  # see _members
    members = dict.fromkeys(column for columns in groups.values() for column in _as_list(columns))
    return [str(column) for column in members] if members and all(isinstance(c, str) for c in members) else None


def _members(groups: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of the columns of every group."""
    if not isinstance(groups, Mapping):
        raise TypeError(f"groups must be a dict of columns by the name of the group, got {describe(groups)}")
    members = {str(name): _keys(columns, found, f"groups: {name!r}") for name, columns in groups.items()}
    empty = next((name for name, keys in members.items() if not keys), None)
    if empty is not None:
        raise ValueError(f"groups: {empty!r} has no columns")
    return members


def _together(parts: list[Tensor]) -> Tensor:
    dtype = torch.float64 if any(part.dtype == torch.float64 for part in parts) else parts[0].dtype
    return torch.cat([part.to(dtype) for part in parts], 1)
