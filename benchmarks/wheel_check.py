"""One wheel, several torches: build it once, then run wheel_smoke.py beside each -> benchmarks/results/wheel.json.

    python benchmarks/wheel_check.py --torch 2.11.0 2.13.0 2.14.1    makes an environment for each, GBs for CUDA builds
    python benchmarks/wheel_check.py --env DIR ...                     environments that have a torch already
    python benchmarks/wheel_check.py --wheel FILE ...                  a wheel that was built elsewhere

The wheel is built against the torch that is installed here. A torch that cannot be installed is recorded with the
reason.
Rows of versions that are not asked for stay in the file if they are of the same wheel.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import record

#: What a wheel for any torch may need of it: these are left to the torch that is there.
TORCH_LIBRARIES = ("libtorch.so", "libtorch_cpu.so", "libc10.so", "libtorch_cuda.so", "libc10_cuda.so", "libcudart.so")
SYSTEM_LIBRARIES = ("libstdc++.so", "libm.so", "libgcc_s.so", "libc.so", "libpthread.so", "ld-linux")


def build_wheel(folder: Path) -> Path:
    """Build the wheel with this Python and its torch."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", str(folder)]
    subprocess.run([*command, str(record.ROOT)], check=True, stdout=sys.stderr)
    [wheel] = folder.glob("mine_fast-*.whl")
    return wheel


def needed_libraries(wheel: Path, folder: Path) -> dict[str, list[str]]:
    """The shared libraries that each compiled module of the wheel asks for."""
    with zipfile.ZipFile(wheel) as archive:
        modules = [name for name in archive.namelist() if name.endswith(".so")]
        archive.extractall(folder, modules)
    needed = {}
    for module in modules:
        told = subprocess.run(
            ["readelf", "-d", str(folder / module)], capture_output=True, text=True, check=True
        ).stdout
        needed[module] = [line.split("[")[1].rstrip("]") for line in told.splitlines() if "(NEEDED)" in line]
    return needed


def unexpected(needed: dict[str, list[str]]) -> list[str]:
    """Libraries beyond torch's public ones and the system's: libtorch_python would tie the wheel to a Python."""
    known = (*TORCH_LIBRARIES, *SYSTEM_LIBRARIES)
    return sorted({name for names in needed.values() for name in names if not name.startswith(known)})


def smoke(python: Path, wheel: Path) -> dict[str, Any]:
    """Install the wheel into an environment that has a torch, and run the smoke suite away from the sources."""
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", str(wheel)]
    subprocess.run(install, check=True, stdout=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        script = shutil.copy(record.ROOT / "benchmarks" / "wheel_smoke.py", folder)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run([str(python), script], cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode:
        return {"passed": False, "error": done.stderr.strip()[-2000:]}
    return {"passed": True, **json.loads(done.stdout.strip().splitlines()[-1])}


def in_new_environment(version: str, wheel: Path) -> dict[str, Any]:
    """The smoke suite in a new environment with this torch, which is removed afterwards."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-cache-dir", f"torch=={version}", "numpy"]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            return {"passed": None, "torch": version, "error": f"not installed: {done.stderr.strip()[-500:]}"}
        return smoke(python, wheel)


def main() -> None:
    """Build, look into, install and try the wheel, and write down what happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", nargs="*", default=[], metavar="VERSION")
    parser.add_argument("--env", nargs="*", default=[], type=Path, metavar="DIR")
    parser.add_argument("--wheel", type=Path)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        wheel = arguments.wheel or build_wheel(Path(folder))
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]
        needed = needed_libraries(wheel, Path(folder) / "modules")
        assert not unexpected(needed), f"the wheel needs {unexpected(needed)}"
        about = {"wheel": wheel.name, "sha256": digest, "bytes": wheel.stat().st_size}
        found = [smoke(path / "bin" / "python", wheel) for path in arguments.env]
        found += [in_new_environment(version, wheel) for version in arguments.torch]

    path = record.RESULTS / "wheel.json"
    if path.exists():
        before = json.loads(path.read_text())
        if before["sha256"] == digest:
            found = [row for row in before["rows"] if row["torch"] not in {new.get("torch") for new in found}] + found
    # The command that makes these rows, wherever the environments were this time.
    sys.argv[:] = ["benchmarks/wheel_check.py", "--torch", *(row["torch"].partition("+")[0] for row in found)]
    record.write("wheel", found, **about, needed=needed, same_values=same_values(found))
    for row in found:
        print(
            {True: "passed", False: "FAILED", None: "not tried"}[row["passed"]], row.get("torch"), row.get("error", "")
        )
    sys.exit(any(row["passed"] is False for row in found))


def same_values(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """Whether all torches gave the same bits of the shuffle, and the same estimates to 1e-4 nats."""
    passed = [row for row in rows if row["passed"]]
    estimates = [row["estimates"] for row in passed]
    return {
        "shuffle": len({row["shuffle"] for row in passed}) <= 1,
        "estimates": all(abs(one[name] - estimates[0][name]) < 1e-4 for one in estimates for name in one),
    }


if __name__ == "__main__":
    main()
