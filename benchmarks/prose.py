"""Text of the pages that benchmarks write."""

from __future__ import annotations

import textwrap

#: Columns of a line of text in the pages; tables, pictures and code may be wider.
WIDTH = 120


def wrapped(text: str) -> str:
    """A paragraph in lines of `WIDTH` columns at most.

    >>> wrapped("mine-pytorch " * 10).splitlines()[1]
    'mine-pytorch'
    """
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def span(counts: list[int]) -> str:
    """The smallest and the largest of some counts.

    >>> span([2, 5, 2]), span([3])
    ('2 to 5', '3')
    """
    least, most = min(counts), max(counts)
    return f"{least} to {most}" if least < most else str(most)
