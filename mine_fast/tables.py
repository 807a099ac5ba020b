"""Tables from files: the columns called x and y of a csv, npy or npz file, for the command line."""

from __future__ import annotations

import contextlib
import difflib
import math
from pathlib import Path
from typing import Any

import numpy as np

from mine_fast.columns import Table, column_numbers, in_both, listed, text_note
from mine_fast.csv_table import read_csv
from mine_fast.recoding import floats_of_text

__all__ = ["Table", "archive_names", "read_table"]

_TEXT_SUFFIXES = (".csv", ".tsv", ".txt")


def read_table(
    path: str | Path, x_columns: str, y_columns: str | None = None, given_columns: str | None = None
) -> Table:
    """Read sets of columns from a file.

    Args:
        path: .csv (also .tsv, .txt; separated by commas, semicolons or tabs; UTF-8), .npy (a 2-D array) or .npz.
        x_columns: which columns are x; see `column_numbers`. In an .npz file the name of an array, `NAME`, or
            columns of it, `NAME:COLUMNS`.
        y_columns: which are y; None: there are none, y is [N, 0].
        given_columns: which are known already; None: there are no such.

    Returns:
        The samples. Columns of a csv file that are wholly text, and arrays of text, become codes 0, 1, ... of their
        sorted values; a note says so. Integers of a csv file beyond 2^53 are counted from the column's smallest where
        float64 could not tell them apart.

    Raises:
        FileNotFoundError: no such file.
        ValueError: anything else wrong with the file or the columns; the message names file, line and column.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: not a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    suffix = path.suffix.lower()
    if suffix in _TEXT_SUFFIXES:
        return read_csv(path, x_columns, y_columns, given_columns)
    if suffix in (".npy", ".npz"):
        return _read_numpy(path, x_columns, y_columns, given_columns, archive=suffix == ".npz")
    raise ValueError(f"{path}: files must end in {', '.join(_TEXT_SUFFIXES)}, .npy or .npz, got {suffix!r}")


def archive_names(path: Path) -> list[str]:
    """The names of the arrays of an npz file; none where it is no such file, which `read_table` explains."""
    if path.suffix.lower() != ".npz":
        return []
    try:
        with np.load(path, allow_pickle=False) as content:
            return list(content.files)
    except Exception:  # of numpy, zipfile and zlib: damaged bytes make them raise almost anything
        return []


def _read_numpy(path: Path, x_columns: str, y_columns: str | None, given_columns: str | None, archive: bool) -> Table:
    with path.open("rb") as file:
        magic = file.read(6)
    if not magic.startswith(b"PK" if archive else b"\x93NUMPY"):
        raise ValueError(
            f"{path}: not a {path.suffix} file (a pickle under that name is refused: loading it runs code)"
        )
    try:
        # Without pickles: loading one can run any code. Memory-mapped, so that only the chosen columns are read.
        content = np.load(path, allow_pickle=False, mmap_mode=None if archive else "r")
    except Exception as error:  # of numpy, zipfile and zlib: damaged bytes make them raise almost anything
        raise ValueError(f"{path}: {_numpy_trouble(error)}") from error
    notes: list[str] = []
    sides: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {}
    with content if archive else contextlib.nullcontext():
        for side, spec in (("x", x_columns), ("y", y_columns), ("given", given_columns)):
            if spec is None:
                continue
            where = f"{side}: {path}"
            name, values, columns = _archive_array(content, spec, where) if archive else ("", content, spec)
            sides[side] = _columns_of(values, name, columns, where, notes)
    x, x_names = sides["x"]
    y, y_names = sides.get("y", (x[:, :0], ()))
    notes += in_both(x_names, y_names, x_names)
    return Table(x, y, x_names, y_names, tuple(dict.fromkeys(notes)), *sides.get("given", ()))


def _archive_array(content: Any, spec: str, where: str) -> tuple[str, np.ndarray, str]:
    # A name may hold a colon itself: the longest one that fits is meant.
    fitting = [name for name in content.files if spec == name or spec.startswith(f"{name}:")]
    if not fitting:
        name = spec.partition(":")[0]
        close = difflib.get_close_matches(name, content.files, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"{where}: no array {name!r}; {hint}it has {listed(content.files)}")
    name = max(fitting, key=len)
    try:
        values = content[name]
    except Exception as error:  # as above
        raise ValueError(f"{where}: array {name!r}: {_numpy_trouble(error)}") from error
    if not isinstance(values, np.ndarray):
        raise ValueError(f"{where}: {name!r} is no array: a member of a zip file that numpy did not write")
    return name, values, spec[len(name) + 1 :] or ":"


def _columns_of(
    values: np.ndarray, name: str, columns: str, where: str, notes: list[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The columns of an array, and their names."""
    called = f"array {name!r}" if name else "the array"
    if values.dtype.kind not in "biufUS":
        raise ValueError(f"{where}: {called} must hold real numbers, got dtype {values.dtype}")
    if values.ndim == 0:
        raise ValueError(f"{where}: {called} must be [N] or [N, d], got a single number")
    if len(values) == 0:
        raise ValueError(f"{where}: {called} has no rows")
    if values.ndim > 2:
        notes.append(f"{called} of shape {list(values.shape)} flattened to {math.prod(values.shape[1:])} columns")
    values = values.reshape(len(values), -1)
    numbers = column_numbers(columns, None, values.shape[1], f"{where}: {called}")
    names = tuple(f"{name}:{number}" if name else str(number) for number in numbers)
    # A copy in any case: a mapped file that somebody truncates meanwhile would end the process.
    values = np.array(values) if columns == ":" else np.ascontiguousarray(values[:, numbers])
    if values.dtype.kind in "US":
        values = floats_of_text(values, f"{where}: {called}")
        for column, label in zip(values.T, names, strict=True):
            notes.append(text_note(label, int(column.max()) + 1))
    return values, names


def _numpy_trouble(error: Exception) -> str:
    text = str(error)
    if "pickle" in text or "Python objects" in text:
        return "holds Python objects (pickled), refused because loading them can run code; save it as numbers"
    if isinstance(error, MemoryError):
        return f"needs more memory than there is ({text})"
    return f"damaged or not a numpy file ({text or type(error).__name__})"
