"""Compiles the extensions: `mine_fast._C` (the ops) and `mine_fast._engine` (the native training engine) always,
`mine_fast._C_cuda` where nvcc and a CUDA torch are there.

Environment variables:
    MINE_FAST_CUDA=auto|0|1   build the CUDA part when possible (default), never, or fail if it cannot be built
    MINE_FAST_SANITIZE=address,undefined   build the CPU part with these sanitizers, for the tests
    TORCH_CUDA_ARCH_LIST      GPU architectures, by default "8.0;9.0+PTX"
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from glob import glob
from pathlib import Path

from setuptools import Extension, setup

# Metadata commands (egg_info, dist_info, sdist) run where there may be no torch, and need no compiler.
try:
    import torch
except ImportError:
    torch = None

ROOT = Path(__file__).parent
TORCH_MINIMUM = (2, 10)  # as in pyproject.toml
TORCH_TARGET = "0x020a000000000000"  # LibTorch stable ABI of 2.10: one binary for every later torch
PYTHON_TARGET = "0x030A0000"  # CPython's limited API of 3.10: one binary for every later Python


def check_torch(version: str) -> None:
    """Refuse a torch that lacks the stable ABI we build against, before the compiler says so in a hundred lines."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if numbers < TORCH_MINIMUM:
        raise SystemExit(f"error: mine_fast needs torch >= {'.'.join(map(str, TORCH_MINIMUM))}, found {version}")


def find_cuda_home() -> str | None:
    """Find the toolkit, following an nvcc on PATH that is a wrapper script to the directory it really runs from."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            return os.environ[variable]
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return "/usr/local/cuda" if Path("/usr/local/cuda/bin/nvcc").exists() else None
    dry_run = subprocess.run([nvcc, "-dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", dry_run.stderr, re.MULTILINE)
    return os.path.realpath(top.group(1).strip()) if top else str(Path(nvcc).resolve().parent.parent)


def cuda_decision() -> tuple[bool, str]:
    """Whether to build the CUDA part, and why, in words for `mine-fast info`."""
    wanted = os.environ.get("MINE_FAST_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"MINE_FAST_CUDA must be auto, 0 or 1, got {wanted!r}")
    if wanted == "0":
        return False, "not built: MINE_FAST_CUDA=0"
    missing = []
    if not torch.version.cuda:
        missing.append(f"torch {torch.__version__} is a CPU build")
    if os.environ.get("CUDA_HOME") is None:
        missing.append("no nvcc was found")
    if missing and wanted == "1":
        raise SystemExit("MINE_FAST_CUDA=1, but " + " and ".join(missing))
    if missing:
        return False, "not built: " + " and ".join(missing)
    return True, f"built with the toolkit of torch's CUDA {torch.version.cuda}"


def cuda_architectures() -> list[str]:
    """What the kernels are built for: what is common, what comes later, and what is there."""
    built = ["8.0", "9.0+PTX"]
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(device)
            if (major, minor) < (9, 0) and f"{major}.{minor}" not in built:
                built.insert(0, f"{major}.{minor}")
    return built


def extensions_and_commands() -> tuple[list, dict]:
    check_torch(torch.__version__)
    cuda_home = find_cuda_home()
    if cuda_home:
        os.environ["CUDA_HOME"] = cuda_home  # read by torch.utils.cpp_extension at import
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ";".join(cuda_architectures()))
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    # -fno-trapping-math and -fno-math-errno change no value; without them gcc does not vectorise comparisons.
    cxx = ["-O3", "-g0", "-std=c++17", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wall"]
    link = []
    sanitize = os.environ.get("MINE_FAST_SANITIZE")
    if sanitize:
        flags = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1"]
        cxx += [*flags, "-DMINE_FAST_SANITIZE"]
        link += flags[:1]
    defines = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", f"-DPy_LIMITED_API={PYTHON_TARGET}"]
    build_cuda, cuda_status = cuda_decision()
    cpu = CppExtension(
        "mine_fast._C",
        sorted(["csrc/library.cpp", *glob("csrc/cpu/*.cpp")]),
        extra_compile_args={"cxx": cxx + defines},
        extra_link_args=link,
        py_limited_api=True,
        depends=sorted(glob("csrc/**/*.h", recursive=True)),
    )
    # Without torch and without the limited API, which pybind11 does not know: one per Python, any torch.
    engine = Extension(
        "mine_fast._engine",
        sorted(glob("csrc/engine/*.cpp")),
        include_dirs=[pybind11_include()],
        extra_compile_args={"cxx": cxx},
        extra_link_args=[*link, "-pthread"],
        depends=sorted(glob("csrc/*.h") + glob("csrc/engine/*.h")),
        language="c++",
    )
    extensions = [cpu, engine]
    if build_cuda:
        extensions.append(
            CUDAExtension(
                "mine_fast._C_cuda",
                sorted([*glob("csrc/cuda/*.cpp"), *glob("csrc/cuda/*.cu")]),
                extra_compile_args={
                    "cxx": cxx + defines + ["-DUSE_CUDA"],
                    "nvcc": ["-O3", "-std=c++17", "-DUSE_CUDA", *defines],
                },
                py_limited_api=True,
                depends=sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/cuda/*.cuh")),
            )
        )

    class Build(BuildExtension):
        """Builds the CPU parts, then the CUDA part, whose failure is reported and not fatal unless it was demanded."""

        def build_extensions(self) -> None:
            every = list(self.extensions)
            status = cuda_status
            self.extensions = every[:2]
            super().build_extensions()
            for extension in every[2:]:
                try:
                    self.extensions = [extension]
                    super().build_extensions()
                except Exception as error:
                    if os.environ.get("MINE_FAST_CUDA") == "1":
                        raise
                    status = f"not built: {str(error).strip().splitlines()[-1]}"
                    extension.optional = True
                    print(f"warning: the CUDA part was {status}; installing the CPU part only")
            self.extensions = every
            info = {
                "torch": torch.__version__,
                "python": platform.python_version(),
                "compiler": compiler_version(),
                "flags": " ".join(cxx),
                "cuda": status,
                "cuda_arch_list": os.environ["TORCH_CUDA_ARCH_LIST"] if build_cuda else None,
            }
            homes = [Path(self.get_ext_fullpath("mine_fast._C")).parent]
            if self.editable_mode:
                homes.append(ROOT / "mine_fast")
            for home in homes:
                (home / "_build_info.json").write_text(json.dumps(info, indent=2) + "\n")

    return extensions, {"build_ext": Build}


def pybind11_include() -> str:
    """Where pybind11's headers are: of the package, else the copy that torch ships for its extensions."""
    try:
        import pybind11
    except ImportError:
        return str(Path(torch.__file__).parent / "include")
    return pybind11.get_include()


def compiler_version() -> str:
    compiler = os.environ.get("CXX", "c++")
    result = subprocess.run([compiler, "--version"], capture_output=True, text=True)
    return result.stdout.splitlines()[0] if result.stdout else compiler


if __name__ == "__main__":  # also where a build frontend runs this file; a test imports it
    extensions, commands = extensions_and_commands() if torch is not None else ([], {})
    setup(ext_modules=extensions, cmdclass=commands)
