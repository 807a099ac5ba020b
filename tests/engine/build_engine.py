"""Compile csrc/engine by hand: for tests of a variant that is not installed, and where the package has no `_engine`.

Objects are kept under a directory named after the sources and flags, so that a second run compiles nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

SOURCES = Path(__file__).parents[2] / "csrc" / "engine"
FLAGS = [
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
]


def build(*flags: str) -> ModuleType:
    """The module `_engine` compiled with these flags besides the usual ones."""
    import pybind11

    files = sorted([*SOURCES.glob("*"), *SOURCES.parent.glob("*.h")])
    text = b"".join(f.read_bytes() for f in files) + repr((flags, sys.version)).encode()
    folder = Path(tempfile.gettempdir()) / f"mine_fast_engine_{os.getuid()}" / hashlib.sha256(text).hexdigest()[:16]
    target = folder / f"_engine{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
        compiler = os.environ.get("CXX", "g++")

        def compile_one(source: Path) -> str:
            out = str(folder / f"{source.stem}.{os.getpid()}.o")
            subprocess.run([compiler, *FLAGS, *flags, *includes, "-c", str(source), "-o", out], check=True)
            return out

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, [f for f in files if f.suffix == ".cpp" and f.parent == SOURCES]))
        made = target.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-shared", *flags, "-o", str(made), *objects, "-pthread"], check=True)
        made.replace(target)
    # Under a name of its own: a process that has two modules of one name is given the first for both.
    spec = importlib.util.spec_from_file_location(f"{folder.name}._engine", target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load() -> ModuleType:
    """The package's own module, or one compiled here where there is none or it is older than its sources.

    An outdated module would let tests pass, and benchmarks time, what is no longer written.
    """
    try:
        from mine_fast import _engine
    except ImportError:
        return build()
    assert _engine.__file__ is not None
    newest = max(f.stat().st_mtime for f in [*SOURCES.glob("*"), *SOURCES.parent.glob("*.h")])
    return build() if Path(_engine.__file__).stat().st_mtime < newest else _engine
