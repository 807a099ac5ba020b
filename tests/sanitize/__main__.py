"""Build the CPU library with sanitizers and run on it what reaches C++: `make sanitize`.

1. AddressSanitizer and UndefinedBehaviorSanitizer: the package, built apart into build/sanitize, under the tests of
   ops, engine and all pairs, and fuzz cases. Leaks are not looked for in a Python process, which never frees all.
2. The same and LeakSanitizer: the engine without Python (exercise.cpp).
3. ThreadSanitizer: likewise, several threads in a step and several engines at once.

Each has to find a fault that is planted on purpose before its silence counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "sanitize"
EXERCISE = Path(__file__).with_name("exercise.cpp")
CXX = os.environ.get("CXX", "c++")

#: What runs in CI: every op and every step of the engine, in a few minutes.
QUICK = (
    "tests/test_ops_dv.py",
    "tests/test_ops_dv_not_finite.py",
    "tests/test_ops_first_layer.py",
    "tests/test_ops_inputs.py",
    "tests/test_ops_pair.py",
    "tests/test_ops_shuffle.py",
    "tests/test_all_pairs.py",
    "tests/test_native.py",
)
ENGINE = ("tests/engine/test_train.py", "tests/engine/test_gradient.py", "tests/engine/test_all_pairs_step.py",
          "tests/engine/test_separable_steps.py", "tests/engine/test_activations.py")  # fmt: skip
#: torch.compile starts compilers and processes of its own, which is slow here and reaches no other code of ours.
WITHOUT = "not compile and not cuda and not opcheck"
#: And besides, with --all: what estimates.
ALL = ("tests/test_mine.py", "tests/test_mine_state.py", "tests/test_estimate.py", "tests/test_separable.py",
       "tests/test_default_critics.py", "tests/test_noise.py", "tests/test_evaluation.py")  # fmt: skip


def say(what: str, since: float) -> None:
    print(f"=== {what}: {time.monotonic() - since:.0f} s", flush=True)


def run(command: Sequence[str | Path], folder: Path = ROOT, **variables: str) -> None:
    subprocess.run([str(part) for part in command], cwd=folder, env=os.environ | variables, check=True)


def build_package() -> None:
    """The package with sanitized libraries, in build/sanitize/lib."""
    flags = {"MINE_FAST_CUDA": "0", "MINE_FAST_SANITIZE": "address,undefined"}
    folders = ["--build-lib", BUILD / "lib", "--build-temp", BUILD / "temp"]
    run([sys.executable, "setup.py", "-q", "build", *folders], **flags)
    info = json.loads((BUILD / "lib" / "mine_fast" / "_build_info.json").read_text())
    assert "-fsanitize=address,undefined" in info["flags"], info


def under_asan() -> dict[str, str]:
    """Variables of a Python whose extensions are sanitized: the runtime has to come before Python itself."""

    def library(name: str) -> str:
        command = [CXX, f"-print-file-name={name}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    throwing_new = BUILD / "throwing_new.so"
    run([CXX, "-shared", "-fPIC", "-O1", ROOT / "tests/sanitize/throwing_new.cpp", "-o", throwing_new])
    return {
        # libstdc++ too, or the runtime does not find __cxa_throw when it starts.
        "LD_PRELOAD": f"{throwing_new} {library('libasan.so')} {library('libstdc++.so')}",
        # What asks for more memory than there is gets the error that it would get. The last two: throwing_new comes
        # before the runtime, and its memory is of malloc where the runtime's operator delete frees it.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=3072:halt_on_error=1:"
        "verify_asan_link_order=0:alloc_dealloc_mismatch=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": os.pathsep.join([str(BUILD / "lib"), str(ROOT)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "2",
    }


def run_tests(everything: bool, cases: int) -> None:
    variables = under_asan()

    def python(*arguments: str | Path) -> None:
        # From another folder: Python looks for modules where it is started, and there the package is not sanitized.
        run([sys.executable, *arguments], BUILD, **variables)

    # Captures sys's output alone: what a sanitizer writes to the descriptor as it ends the process has to be seen.
    pytest = ("-m", "pytest", "-c", ROOT / "pyproject.toml", "-x", "-q", "--capture=sys", "-p", "no:cacheprovider",
              "-k", WITHOUT)  # fmt: skip
    python("-c", f"from mine_fast import _engine; assert _engine.__file__.startswith({str(BUILD)!r}), _engine")
    python(*pytest, *(ROOT / test for test in (*QUICK, *(ALL if everything else ()))))
    python(*pytest, *(ROOT / test for test in ENGINE))
    python("-m", "tests.fuzz", "--cases", str(cases))


def compile_exercise(target: Path, flags: Sequence[str], objects: Sequence[Path]) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    usual = ["-std=c++17", "-g1", "-O1", "-fno-omit-frame-pointer", "-pthread"]
    run([CXX, *usual, *flags, EXERCISE, *objects, "-o", target])
    return target


def with_leaks() -> Path:
    """Of the objects of the package's own build."""
    objects = [path for path in (BUILD / "temp").rglob("engine/*.o") if "bindings" not in path.name]
    return compile_exercise(BUILD / "leaks", ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"], objects)


def with_threads() -> Path:
    folder = BUILD / "threads"
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["-fsanitize=thread", "-DPORTABLE_ONLY"]
    usual = ["-std=c++17", "-g1", "-O1", "-fno-omit-frame-pointer", "-fno-math-errno", "-fno-trapping-math"]
    sources = [path for path in sorted((ROOT / "csrc" / "engine").glob("*.cpp"))
               if "bindings" not in path.name and not path.stem.startswith("kernels_avx")]  # fmt: skip
    objects = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = [
            pool.submit(run, [CXX, *usual, *flags, "-c", source, "-o", made])
            for source, made in zip(sources, objects, strict=True)
        ]
        for one in made:
            one.result()
    return compile_exercise(folder / "exercise", flags, objects)


def exercise(program: Path, faults: dict[str, str], **variables: str) -> None:
    """Run a program clean, and see that each planted fault is found by its name in the report."""

    def output(*arguments: str) -> tuple[int, str]:
        # Without address space randomisation, which ThreadSanitizer of older compilers cannot cope with.
        command = [*(["setarch", "-R"] if shutil.which("setarch") else []), str(program), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
        return result.returncode, result.stdout + result.stderr

    for fault, report in faults.items():
        status, text = output(fault)
        if status == 0 or report not in text:
            raise SystemExit(f"the planted {fault} was not found by {program.name}:\n{text}")
    status, text = output()
    if status != 0 or "checksum" not in text:
        raise SystemExit(f"{program.name}, status {status}:\n{text}")
    print(text.strip(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.sanitize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="also the tests that estimate: a quarter of an hour more")
    parser.add_argument("--cases", type=int, default=2000, help="fuzz cases")
    parser.add_argument("--only", choices=("address", "leaks", "threads"), help="one of the three")
    options = parser.parse_args()
    started = time.monotonic()
    if options.only in (None, "threads"):
        exercise(with_threads(), {"race": "data race"})
        say("ThreadSanitizer", started)
    if options.only in (None, "address", "leaks"):
        build_package()
        say("built with AddressSanitizer", started)
        exercise(
            with_leaks(), {"overrun": "heap-buffer-overflow", "leak": "LeakSanitizer"}, ASAN_OPTIONS="detect_leaks=1"
        )
        say("AddressSanitizer, LeakSanitizer", started)
    if options.only in (None, "address"):
        run_tests(options.all, options.cases)
        say("the suite under AddressSanitizer", started)


if __name__ == "__main__":
    main()
