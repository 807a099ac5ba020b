"""`MIMatrix`: the mutual information of every two variables of a table."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mine_fast.files import atomic_path
from mine_fast.multiple_testing import q_values
from mine_fast.result import FailedEstimate, Flag, MIResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MIMatrix"]

#: Pairs that `print` shows.
SHOWN = 20


@dataclass(frozen=True, eq=False)
class MIMatrix:
    """The mutual information of every two of d variables, in nats, with its errors and tests.

    Every pair was estimated once, so all matrices are symmetric. The diagonal is NaN: the information of a continuous
    variable with itself is infinite. So is what could not be estimated, whose result says why.

    Attributes:
        names: of the variables, [d].
        results: `[d][d]`, the `MIResult` or `FailedEstimate` of each pair, without its scores; None on the diagonal.
        notes: what the reader of a file decided by itself, a sentence each.

    `m["age", "height"]` is the result of two variables.

    >>> import mine_fast, numpy as np
    >>> a, b, noise = np.random.default_rng(0).standard_normal((3, 500))
    >>> m = mine_fast.pairwise({"a": a, "b": b, "sum": a + b + noise}, steps=50)
    >>> bool(m.mi[0, 2] == m.mi[2, 0] == m["sum", "a"].mi)
    True
    >>> (m.q_value < 0.05).astype(int).tolist()
    [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    """

    names: tuple[str, ...]
    results: Sequence[Sequence[MIResult | FailedEstimate | None]] = field(repr=False)
    notes: tuple[str, ...] = ()

    @cached_property
    def mi(self) -> np.ndarray:
        """[d, d], the estimates in nats; see `MIResult.mi`."""
        return self._matrix("mi")

    @cached_property
    def stderr(self) -> np.ndarray:
        """[d, d], their standard errors in nats."""
        return self._matrix("stderr")

    @cached_property
    def p_value(self) -> np.ndarray:
        """[d, d], of the independence of each pair by itself; see `MIResult.p_value`."""
        return self._matrix("p_value")

    @cached_property
    def q_value(self) -> np.ndarray:
        """[d, d], of Benjamini and Hochberg over all pairs.

        Taking all pairs with q <= 0.05 for dependent, one in 20 of those taken is expected to be independent at most.
        """
        upper = np.triu_indices(len(self.names), 1)
        result = np.full_like(self.p_value, np.nan)
        result[upper] = result.T[upper] = q_values(self.p_value[upper])
        return result

    @property
    def flags(self) -> dict[tuple[str, str], tuple[Flag, ...]]:
        """The flags of the pairs that have any, by the names of the two."""
        return {names: result.flags for names, result in self.pairs() if isinstance(result, MIResult) and result.flags}

    @property
    def errors(self) -> dict[tuple[str, str], Exception]:
        """Why pairs could not be estimated, by the names of the two."""
        return {names: result.error for names, result in self.pairs() if isinstance(result, FailedEstimate)}

    def pairs(self) -> Iterator[tuple[tuple[str, str], MIResult | FailedEstimate]]:
        """The names and the result of every pair, once each.

        >>> r = MIResult(mi=0.5, stderr=0.1, p_value=0.01, n=100)
        >>> m = MIMatrix(("a", "b"), [[None, r], [r, None]])
        >>> [(names, result.mi) for names, result in m.pairs()]
        [(('a', 'b'), 0.5)]
        """
        for i, row in enumerate(self.results):
            for j in range(i + 1, len(row)):
                result = row[j]
                assert result is not None
                yield (self.names[i], self.names[j]), result

    def __getitem__(self, names: tuple[str, str]) -> MIResult | FailedEstimate:
        """The result of two variables, in either order.

        Raises:
            KeyError: no such variable, or the same twice.
        """
        try:
            i, j = (self.names.index(name) for name in names)
        except ValueError:
            raise KeyError(f"no pair {names!r}; the variables are {', '.join(self.names)}") from None
        result = self.results[i][j]
        if result is None:
            raise KeyError(f"{names[0]!r} was not paired with itself")
        return result

    def _matrix(self, name: str) -> np.ndarray:
        rows = [[getattr(result, name, np.nan) for result in row] for row in self.results]
        return np.array(rows, dtype=float)

    def to_frame(self, what: str = "mi") -> Any:
        """One of the matrices as a pandas DataFrame with the names.

        Args:
            what: "mi", "stderr", "p_value" or "q_value".

        Returns:
            DataFrame [d, d], the names as its index and columns.

        Raises:
            ImportError: pandas is not installed.
            ValueError: another matrix.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_frame() needs pandas: pip install pandas") from error
        return pd.DataFrame(self._named(what), index=list(self.names), columns=list(self.names))

    def _named(self, what: str) -> np.ndarray:
        if what not in ("mi", "stderr", "p_value", "q_value"):
            raise ValueError(f"what must be 'mi', 'stderr', 'p_value' or 'q_value', got {what!r}")
        matrix: np.ndarray = getattr(self, what)
        return matrix

    def save(self, path: str | Path, what: str = "mi") -> None:
        """Write one of the matrices as csv, names in the first row and column, what is NaN left empty.

        Args:
            path: of the file.
            what: see `to_frame`; "pairs" writes a row per pair with all of them and the flags.

        Raises:
            ValueError: another matrix.
            OSError: the file cannot be written; what was there before is left as it was.

        >>> import tempfile
        >>> r = MIResult(mi=0.5, stderr=0.1, p_value=0.01, n=100)
        >>> m = MIMatrix(("a", "b"), [[None, r], [r, None]])
        >>> path = Path(tempfile.mkdtemp()) / "mi.csv"
        >>> m.save(path)
        >>> print(path.read_text())
        ,a,b
        a,,0.5
        b,0.5,
        """
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if what == "pairs":
                writer.writerow(["a", "b", "mi", "stderr", "lower_95", "p_value", "q_value", "n", "flags"])
                for (a, b), result in self.pairs():
                    writer.writerow([a, b, *self._cells(a, b, result)])
                return
            writer.writerow(["", *self.names])
            for name, row in zip(self.names, self._named(what), strict=True):
                writer.writerow([name, *("" if np.isnan(value) else repr(float(value)) for value in row)])

    def _cells(self, a: str, b: str, result: MIResult | FailedEstimate) -> list[object]:
        if isinstance(result, FailedEstimate):
            return ["", "", "", "", "", "", str(result)]
        q = float(self.q_value[self.names.index(a), self.names.index(b)])
        codes = " ".join(flag.code for flag in result.flags)
        return [result.mi, result.stderr, result.lower(), result.p_value, q, result.n, codes]

    def summary(self, most: int = SHOWN) -> str:
        """The pairs with the most information as a block of text.

        Args:
            most: how many to show.

        >>> r = MIResult(mi=0.5, stderr=0.1, p_value=0.01, n=100)
        >>> print(MIMatrix(("a", "b"), [[None, r], [r, None]]).summary())
        2 variables, 1 pairs, 1 of them dependent (q <= 0.05); nats
          a  b  0.500 +- 0.100  q 1.0e-02
        """
        ranked = sorted(
            ((result.mi, names, result) for names, result in self.pairs() if isinstance(result, MIResult)),
            key=lambda one: -one[0],
        )
        count = len(self.names)
        found = int((self.q_value[np.triu_indices(count, 1)] <= 0.05).sum())
        lines = [f"{count} variables, {len(ranked)} pairs, {found} of them dependent (q <= 0.05); nats"]
        width = max((len(name) for _, names, _ in ranked[:most] for name in names), default=0)
        for mi, (a, b), result in ranked[:most]:
            q = float(self.q_value[self.names.index(a), self.names.index(b)])
            codes = "".join(f"  [{flag.code}]" for flag in result.flags)
            lines.append(f"  {a:{width}}  {b:{width}}  {mi:.3f} +- {result.stderr:.3f}  q {q:.1e}{codes}")
        if len(ranked) > most:
            lines.append(f"  ... and {len(ranked) - most} with less")
        lines += [f"  {a}, {b}: failed, {error}" for (a, b), error in self.errors.items()]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()

    def plot(self, level: float = 0.05, *, figure: Figure | None = None) -> Figure:
        """Draw the matrix as a heat map, variables that share much beside each other, under the tree that says so.

        Args:
            level: pairs with a larger q-value are dotted.
            figure: an empty matplotlib figure to draw into; None makes one with pyplot.

        Returns:
            The figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from mine_fast.heat_map import plot_matrix

        return plot_matrix(self, level, figure)
