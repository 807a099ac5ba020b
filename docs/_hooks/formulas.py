"""Site hook: formulas in LaTeX, as the forge shows them, become MathML, which browsers draw without a script.

`$...$` in a line, and blocks fenced by ```math.
"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from mkdocs.config.defaults import MkDocsConfig


class InlineFormula(InlineProcessor):
    """`$x$`, where neither dollar has a space inside."""

    def handleMatch(self, m: Any, data: str) -> tuple[str, int, int]:  # type: ignore[override]
        """Stash the MathML as it is."""
        return self.md.htmlStash.store(mathml(m[1], "inline")), m.start(0), m.end(0)


class Formulas(Extension):
    """The pattern, after code spans (190), so that dollars in code stay."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Register it."""
        md.inlinePatterns.register(InlineFormula(r"\$(?![\s$])([^$\n]+?)(?<!\s)\$", md), "formula", 185)


def mathml(latex: str, display: str) -> str:
    """A formula in MathML; one that is no XML would break the page."""
    result = convert(latex.strip(), display=display)
    ElementTree.fromstring(result)
    return result


def fence(source: str, language: str, css_class: str, options: dict, md: Markdown, **rest: Any) -> str:
    """A block fenced by ```math."""
    return f'<div class="{css_class}">{mathml(source, "block")}</div>'


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add both to Markdown."""
    config.markdown_extensions.append(Formulas())
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "formula", "format": fence})
    return config
