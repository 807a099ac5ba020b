"""Compiles the kernel files of csrc/cuda with g++ and the shim: as a library, for sanitizers, with planted bugs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIM = Path(__file__).resolve().parent / "shim"
# Not optimised: the tests wait longer for the compiler than for what it makes.
FLAGS = ("-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")


@dataclass(frozen=True)
class Edit:
    """A textual change to a copy of a kernel file; `old` must occur in it, and its first occurrence is replaced."""

    file: str
    old: str
    new: str


# Limits that only a huge batch reaches, lowered, so that blocks loop over tiles and planes in a small test.
SMALL_GRID = (
    Edit("rows.cuh", "kMaxBlocks = 8192", "kMaxBlocks = 3"),
    Edit("rows.cuh", "kMaxGridY = 65535", "kMaxGridY = 2"),
    Edit("rows.cuh", "kMaxTile = kThreads", "kMaxTile = 16"),
    Edit("rows.cuh", "kBlocksWanted = 1024", "kBlocksWanted = 4"),
    Edit("block_shuffle.cuh", "kMaxShifts = 32", "kMaxShifts = 2"),
)

# ThreadSanitizer follows at most 255 threads at a time, and forgets what it saw when there are more.
FEW_THREADS = (
    Edit("rows.cuh", "kThreads = 256", "kThreads = 64"),
    Edit("dv_term.cuh", "kReduceThreads = 512", "kReduceThreads = 64"),
    *SMALL_GRID,
)

# Each makes threads read shared memory before it is written, or after it is written anew.
_SYNC = "__syncthreads();"
PLANTED_BUGS = {
    "no barrier after the keys are hashed": Edit(
        "pair.cuh", f"hash_keys(key, rows, shuffle);\n  {_SYNC}", "hash_keys(key, rows, shuffle);"
    ),
    "no barrier after the shift is found": Edit(
        "block_shuffle.cuh", f"{_SYNC}\n    for (int64_t first", "for (int64_t first"
    ),
    "no barrier after the partners are found": Edit(
        "block_shuffle.cuh", f"{_SYNC}\n      for (int r = static_cast", "for (int r = static_cast"
    ),
    "no barrier before the partners are overwritten": Edit(
        "block_shuffle.cuh", f"{_SYNC}  // `met` and", "// `met` and"
    ),
    "no barrier after the shifts are found": Edit(
        "block_shuffle.cuh", f"{_SYNC}  // now no thread", "// now no thread"
    ),
    "no barrier after the tables are filled": Edit("block_shuffle.cuh", f"{_SYNC}\n    if (active)", "if (active)"),
    "no barrier between the warps' partial sums": Edit("dv_term.cuh", f"{_SYNC}\n  if (warp == 0)", "if (warp == 0)"),
}


def compiler() -> str:
    """Path of g++, or skip the test."""
    found = shutil.which("g++")
    if found is None:
        pytest.skip("g++ is not installed, and the shim needs a C++ compiler")
    return found


def edited_sources(edits: tuple[Edit, ...], folder: Path) -> Path:
    """Copy csrc's headers and kernels, change them, and return the folder of the kernels."""
    shutil.copytree(ROOT / "csrc", folder, ignore=shutil.ignore_patterns("cpu", "engine", "*.cpp", "*.cu"))
    for edit in edits:
        path = folder / "cuda" / edit.file
        text = path.read_text()
        assert edit.old in text, f"{edit.file} no longer contains {edit.old!r}: the edit must follow the source"
        path.write_text(text.replace(edit.old, edit.new, 1))
    return folder / "cuda"


def compile_shim(target: Path, sources: tuple[str, ...], flags: tuple[str, ...], edits: tuple[Edit, ...] = ()) -> Path:
    kernels = edited_sources(edits, target.with_suffix(".csrc")) if edits else ROOT / "csrc" / "cuda"
    command = [
        compiler(),
        *FLAGS,
        *flags,
        f"-I{SHIM}",
        f"-I{kernels}",
        *(str(SHIM / s) for s in sources),
        "-o",
        str(target),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr}"
    return target


class Builds:
    """All builds of a test run, two at a time in the background, so that a test waits only for its own."""

    def __init__(self, folder: Path) -> None:
        self._pool = ThreadPoolExecutor(max_workers=2)
        self._jobs: dict[str, Future[Path]] = {}
        fibers, threads = ("driver.cpp", "fibers.cpp"), ("driver.cpp", "os_threads.cpp", "exercise_main.cpp")
        library, program = ("-shared", "-fPIC"), ("-DSHIM_FLOAT_ONLY",)
        main = (*fibers, "exercise_main.cpp")
        address = ("-g", "-fsanitize=address", *program)
        thread = ("-g", "-fsanitize=thread", "-pthread", *program)

        def add(name: str, *arguments: object) -> None:
            target = folder / name.replace(" ", "_").replace("'", "")
            self._jobs[name] = self._pool.submit(compile_shim, target, *arguments)

        add("library", fibers, library)
        add("small grid library", fibers, (*library, *program), SMALL_GRID)
        add("address", main, (*address, "-fsanitize=undefined", "-fno-sanitize-recover=all"))
        add("thread", threads, thread, FEW_THREADS)
        add("clean", main, program, SMALL_GRID)
        add("ucontext", main, ("-DSHIM_UCONTEXT", *program), SMALL_GRID)
        for name, edit in PLANTED_BUGS.items():
            add(name, main, program, (*SMALL_GRID, edit))
        add("thread planted", threads, thread, (*FEW_THREADS, PLANTED_BUGS["no barrier after the partners are found"]))
        one_too_far = Edit("block_shuffle.cuh", "r < count; r += static_cast", "r <= count; r += static_cast")
        add("address planted", main, address, (one_too_far,))

    def path(self, name: str) -> Path:
        """The finished build; raises what its compilation raised."""
        return self._jobs[name].result()

    def submit(self, job: Callable[[], object]) -> Future[object]:
        """Run something else that takes a core, behind the compilations."""
        return self._pool.submit(job)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def run_exercise(program: Path, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run an exercise program; its text output has the checksum, or what a sanitizer found."""
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=timeout)
