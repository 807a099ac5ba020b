"""The pages: their links lead somewhere on the forge, their Python is Python, their names are the package's."""

from __future__ import annotations

import ast
import importlib
import json
import pickle
import re
from pathlib import Path

import numpy as np
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


def prose(page: Path) -> list[tuple[int, str]]:
    """The lines, with their numbers, that are no table, picture or code."""
    found, in_code = [], False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            in_code = not in_code
        elif not in_code and not re.match(r"\||!\[|    ", line):
            found.append((number, line))
    return found


@names
def test_prose_is_wrapped(page):
    assert [(number, len(line)) for number, line in prose(page) if len(line) > 120] == []


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


def test_every_op_has_an_entry():
    from mine_fast import ops, reference

    of_ops, of_reference = ((ROOT / "docs" / "api" / f"{name}.md").read_text() for name in ("ops", "reference"))
    for name in ops.__all__:
        assert f"::: mine_fast.ops.{name}\n" in of_ops, name
    shown = set(re.search(r"members: \[(.+)\]", of_reference)[1].split(", "))
    assert shown == {*reference.__all__} - {"ACTIVATIONS", "LOSSES"}


def test_what_the_readme_saves(tmp_path, monkeypatch):
    """Its code runs, and what it says of the results is so."""
    import mine_fast

    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text().partition("\n## Save, repeat, another device\n")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    x, noise = np.random.default_rng(0).standard_normal((2, 200))
    r = mine_fast.estimate(x, x + noise)
    names = {"mine_fast": mine_fast, "x": x, "y": x + noise, "r": r}
    exec(code, names)
    assert json.loads(names["text"])["mi"] == r.mi
    kept = pickle.loads(names["kept"])
    assert kept.history == r.history
    assert np.array_equal(kept.joint_scores, r.joint_scores)
    assert (tmp_path / "mi.csv").read_text().startswith(",x,y,y^2\n")
    assert (tmp_path / "pairs.csv").read_text().startswith("a,b,mi,stderr,lower_95,p_value,q_value,n,flags\n")
    assert mine_fast.estimate(x, x + noise, seed=0).mi == r.mi != mine_fast.estimate(x, x + noise, seed=1).mi
