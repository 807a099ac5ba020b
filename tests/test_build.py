"""What decides a build: versions, the torch that make was asked for, and what the source distribution holds."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.stem}_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", ["2.10.0", "2.10.0a0+git1234", "2.13.0+cpu", "2.100", "3.0.1"])
def test_a_torch_that_has_the_abi(version: str) -> None:
    load(ROOT / "setup.py").check_torch(version)


@pytest.mark.parametrize("version", ["2.9.1+cu128", "2.6.0", "1.13.1", "2.2"])
def test_an_older_torch_is_told_in_one_line(version: str) -> None:
    with pytest.raises(SystemExit) as raised:
        load(ROOT / "setup.py").check_torch(version)
    assert str(raised.value) == f"error: mine_fast needs torch >= 2.10, found {version}"


@pytest.fixture
def source_tree(tmp_path: Path) -> Path:
    """The files that git would commit, without what was built beside them."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        target = tmp_path / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    return tmp_path / "source"


def test_the_source_distribution_holds_what_its_makefile_needs(
    source_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from setuptools import build_meta

    monkeypatch.chdir(source_tree)
    monkeypatch.setattr("sys.argv", ["setup.py"])
    with tarfile.open(tmp_path / build_meta.build_sdist(str(tmp_path))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    committed = {str(p.relative_to(source_tree)) for p in source_tree.rglob("*") if p.is_file()}
    needed = {n for n in committed if n.split("/")[0] in ("csrc", "mine_fast", "tests", "benchmarks", "docs")}
    assert needed <= held
    assert {"Makefile", "LICENSE", "README.md", "setup.py", "build_backend/mine_fast_build.py"} <= held
    assert not [name for name in held if name.endswith((".so", ".o", ".pyc"))]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_installs_torch_again_only_when_another_is_asked_for(tmp_path: Path) -> None:
    log, python = tmp_path / "log", tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    python.chmod(0o755)

    def made_by(torch: str) -> list[str]:
        log.write_text("")
        stamp = f"VENV={tmp_path / 'venv'}"
        subprocess.run(["make", "-s", stamp, f"TORCH={torch}", f"{tmp_path}/venv/.test"], cwd=ROOT, check=True)
        return log.read_text().splitlines()

    package = "-m pip install -e .[test]"
    assert made_by("torch>=2.10") == ["-m pip install torch>=2.10", package]
    assert made_by("torch>=2.10") == []
    assert made_by("torch==2.13.0") == ["-m pip install torch==2.13.0", package]
    assert made_by("torch==2.13.0") == []
    assert made_by("torch>=2.10") == ["-m pip install torch>=2.10", package]


LIBRARIES = sorted((ROOT / "mine_fast").glob("_*.so"))


@pytest.mark.skipif(shutil.which("nm") is None or not LIBRARIES, reason="no nm, or the package is installed elsewhere")
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name.partition(".")[0])
def test_what_is_compiled_needs_only_the_stable_abi_of_torch(library: Path) -> None:
    """One wheel serves every later torch: C functions that are promised to stay, no C++ of at::, c10:: or torch::."""
    told = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
    symbols = {line.split()[-1].partition("@")[0] for line in told.stdout.splitlines()}
    assert symbols
    assert not {name for name in symbols if re.match(r"_ZNK?(2at|3c10|5torch)", name)}
    of_torch = {name for name in symbols if re.match(r"aoti_|torch_|THP", name)}
    assert bool(of_torch) == ("_C" in library.name)
    of_python = {name for name in symbols if re.match(r"_?Py", name)}
    if "abi3" in library.name:
        assert of_python <= {"PyModule_Create2", "PyModuleDef_Init"}


def test_the_wheels_are_for_every_python_that_is_supported() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    least = settings["project"]["requires-python"].removeprefix(">=").replace(".", "")
    wheels = settings["tool"]["cibuildwheel"]
    assert wheels["build"][0] == f"cp{least}-*"
    assert (ROOT / wheels["test-command"].rpartition("{project}/")[2]).is_file()
