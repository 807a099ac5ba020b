"""The pages: their links lead somewhere on the forge, their Python is Python, their names are the package's."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
names = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@names
def test_links(page):
    for link in re.findall(r"\]\(([^)\s]+)", page.read_text()):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@names
def test_python_blocks_are_python(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        ast.parse(block)


@names
def test_names_of_the_package_exist(page):
    for dotted in set(re.findall(r"`(mine_fast(?:\.\w+)+)[`(]", page.read_text())) | set(
        re.findall(r"^::: (mine_fast[\w.]+)", page.read_text(), re.MULTILINE)
    ):
        value = importlib.import_module("mine_fast")
        for part in dotted.split(".")[1:]:
            value = getattr(value, part, None) or importlib.import_module(f"{value.__name__}.{part}")


def test_the_notebook_is_executed_and_small():
    """Re-executed by `make notebook`."""
    path = ROOT / "examples" / "all_experiments.ipynb"
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    assert path.stat().st_size < 1_500_000


def test_every_page_is_in_the_site():
    """What mkdocs would only note."""
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f" {page.relative_to(ROOT / 'docs')}\n" in nav


def test_every_public_name_has_a_page():
    import mine_fast

    pages = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    for name in {*mine_fast.__all__, "MutualInfoSelector"} - {"__version__"}:
        assert re.search(rf"::: mine_fast\.[\w.]+\.{name}$", pages, re.MULTILINE), name
