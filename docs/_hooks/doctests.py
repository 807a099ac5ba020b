"""griffe extension: doctests of docstrings as code blocks; bare, `>>>` would read as nested quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe

#: A run of lines from a prompt to the next empty line.
DOCTEST = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)


class FencedDoctests(griffe.Extension):
    """Puts a fence around every doctest."""

    def on_object(self, *, obj: griffe.Object, **rest: Any) -> None:
        """Change a docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = DOCTEST.sub(lambda m: f"```pycon\n{m[0].rstrip()}\n```\n", obj.docstring.value)
