"""Columns of a csv file: read line by line with the csv module, the chosen ones kept at eight bytes a number."""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from mine_fast.columns import Table, column_numbers, in_both, name_of, names_that_are_numbers, text_note
from mine_fast.recoding import EXACT, check_categories, floats_of_objects

__all__ = ["read_csv"]

_DELIMITERS = ",;\t"

#: How files mark a missing number.
_MISSING = ("", "na", "n/a", "#n/a", "null", "none", "-", "?")


def read_csv(path: Path, x_columns: str, y_columns: str | None, given_columns: str | None = None) -> Table:
    """Read sets of columns from UTF-8 text separated by commas, semicolons or tabs; see `read_table`.

    Raises:
        ValueError: the message names file, line and column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return _read_rows(path, lines, x_columns, y_columns, given_columns)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}{_undecodable(path)}: not UTF-8 text; save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path}: not a readable csv file ({error}); is a quotation mark left open?") from error


def _read_rows(path: Path, lines: IO[str], x_columns: str, y_columns: str | None, given_columns: str | None) -> Table:
    delimiter = _delimiter(lines)
    lines.seek(0)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows = _rows(reader)
    first_line, first = next(rows, (0, []))
    if not first:
        raise ValueError(f"{path}: the file holds only blank lines")
    width = len(first)
    notes = []
    names = [name.strip() for name in first]
    header: list[str] | None = names
    data: Iterator[tuple[int, list[str]]] = rows
    if not _is_header(names):
        header, data = None, chain([(first_line, first)], rows)
        notes.append(f"no header line in {path}: its columns are numbered 0 to {width - 1}")
    x_numbers = column_numbers(x_columns, header, width, f"x: {path}")
    y_numbers = [] if y_columns is None else column_numbers(y_columns, header, width, f"y: {path}")
    given_numbers = [] if given_columns is None else column_numbers(given_columns, header, width, f"given: {path}")
    for spec in dict.fromkeys((x_columns, y_columns, given_columns)):
        notes += [] if spec is None else names_that_are_numbers(spec, header, width)
    wanted = list(dict.fromkeys(x_numbers + y_numbers + given_numbers))
    columns = [_Column(path, name_of(number, header)) for number in wanted]

    values = array("d")  # row after row
    count = 0
    for line, row in data:
        if len(row) != width:
            raise ValueError(f"{path}, line {line}: {len(row)} fields, where the first line has {width}")
        values.extend(_numbers([row[number] for number in wanted], columns, line))
        count += 1
    if not count:
        raise ValueError(f"{path}: a header and no rows")
    table = np.frombuffer(values, dtype=np.float64).reshape(count, len(wanted))
    for place, column in enumerate(columns):
        if column.codes is not None:
            table[:, place] = column.sorted_codes()[table[:, place].astype(np.int64)]
            check_categories(len(column.codes), count, f"{path}: text must", column.name)
            notes.append(text_note(column.name, len(column.codes)))
            notes += [
                f"column {column.name!r}: {text!r} is a category of it, not a missing value"
                for text in sorted(column.codes)
                if _is_missing(text)
            ]
    wide = [place for place, column in enumerate(columns) if column.codes is None and _is_wide(table[:, place])]
    if wide:
        # Rare enough to read the file a second time, now for integers of any size.
        lines.seek(0)
        again = _rows(csv.reader(lines, delimiter=delimiter, strict=True))
        cells = [[row[wanted[place]] for place in wide] for _, row in again][-count:]
        for i, place in enumerate(wide):
            table[:, place] = _integers([row[i] for row in cells], table[:, place], path, columns[place].name)
    place_of = {number: place for place, number in enumerate(wanted)}
    x_names = tuple(name_of(number, header) for number in x_numbers)
    return Table(
        table[:, [place_of[number] for number in x_numbers]],
        table[:, [place_of[number] for number in y_numbers]],
        x_names,
        tuple(name_of(number, header) for number in y_numbers),
        (*notes, *in_both(x_numbers, y_numbers, x_names)),
        None if given_columns is None else table[:, [place_of[number] for number in given_numbers]],
        tuple(name_of(number, header) for number in given_numbers),
    )


def _is_wide(column: np.ndarray) -> bool:
    return bool((np.abs(column) > EXACT).any())


def _integers(cells: list[str], floats: np.ndarray, path: Path, name: str) -> np.ndarray:
    """A column with integers beyond 2^53 as numbers that are as different; the floats if it holds others too."""
    if not all(re.fullmatch(r"\s*[+-]?\d+\s*", cell) for cell in cells):
        return floats
    return floats_of_objects(np.array(list(map(int, cells)), dtype=object), f"{path}:", name, recode=True)


def _rows(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of their last line; blank lines are left out."""
    for row in reader:
        if len(row) > 1 or (row and row[0].strip()):
            yield reader.line_num, row


def _delimiter(lines: IO[str]) -> str:
    """The delimiter that splits the first lines into as many fields each; of several, the one with the most.

    Commas count last: they may be those of decimals between semicolons or tabs, which is refused where it is read.
    """
    sample = [line for _, line in zip(range(20), lines, strict=False)]

    def quality(delimiter: str) -> tuple[bool, bool, int]:
        widths = [len(row) for row in csv.reader(sample, delimiter=delimiter) if len(row) > 1 or "".join(row).strip()]
        splits = len(set(widths)) == 1 and widths[0] > 1
        return splits, splits and delimiter != ",", widths[0] if widths else 0

    return max(_DELIMITERS, key=quality)


def _is_header(names: list[str]) -> bool:
    """Whether a first line names the columns.

    It does if some field is text, other than a mark for a missing number, or if the fields are the numbers 0, 1, 2, ...
    in order, as pandas writes them, with or without an empty field for its index.
    """
    numbered = names[1:] if names[0] == "" and len(names) > 1 else names
    if numbered == [str(i) for i in range(len(numbered))]:
        return True
    return not all(_is_missing(name) or _is_number(name) for name in names)


def _is_missing(text: str) -> bool:
    return text.strip().lower() in _MISSING


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python reads 1_000 as a number, other programs do not


def _numbers(cells: list[str], columns: list[_Column], line: int) -> list[float]:
    """The numbers of a row: in one go where they are plain numbers, else cell by cell, which finds the one to blame."""
    try:
        numbers = list(map(float, cells))
        if math.isfinite(sum(numbers)) and "_" not in "".join(cells) and all(column.is_numeric for column in columns):
            return numbers
    except ValueError:
        pass
    return [column.number(cell, line) for column, cell in zip(columns, cells, strict=True)]


class _Column:
    """Turns the cells of a column into numbers; its first cell decides whether it is numbers or text."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.codes: dict[str, float] | None = None
        self.first_line = 0
        self.is_numeric = False

    def number(self, cell: str, line: int) -> float:
        if not self.first_line:
            self.first_line = line
            self.is_numeric = _is_number(cell)
            self.codes = None if self.is_numeric else {}
        if self.codes is not None:
            code = self.codes.get(cell)
            return self._new_code(cell, line) if code is None else code
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or "_" in cell:
            raise self._error(cell, line, "is not a finite number")
        return value

    def _new_code(self, cell: str, line: int) -> float:
        assert self.codes is not None
        if _is_number(cell):
            if all(_is_missing(text) for text in self.codes):
                raise self._error(next(iter(self.codes)), self.first_line, "is not a finite number")
            raise self._error(cell, line, f"is a number in a column of text (line {self.first_line} is text)")
        if re.fullmatch(r"\s*[+-]?\d[\d.,' ]*\s*", cell):
            raise self._error(cell, line, "is not a number; write decimals as 3.14 and no thousands separators")
        if not cell.strip():
            raise self._error(cell, line, "")
        self.codes[cell] = code = float(len(self.codes))
        return code

    def _error(self, cell: str, line: int, what: str) -> ValueError:
        shown = cell if len(cell) <= 40 else f"{cell[:37]}..."
        found = f"{shown!r} {what}" if cell.strip() else "the cell is empty; drop or impute the row"
        return ValueError(f"{self.path}, line {line}, column {self.name!r}: {found}")

    def sorted_codes(self) -> np.ndarray:
        """[levels] the code in sorted order of each code in order of appearance."""
        assert self.codes is not None
        order = {text: float(place) for place, text in enumerate(sorted(self.codes))}
        return np.array([order[text] for text in self.codes])


def _undecodable(path: Path) -> str:
    with path.open("rb") as lines:
        if lines.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            return " (UTF-16)"
        lines.seek(0)
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f", line {number}, byte 0x{line[error.start]:02x}"
    return ""
