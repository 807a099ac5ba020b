"""What a bug report needs: versions, machine, build and devices."""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mine_fast._version import __version__

__all__ = ["collect"]

#: Instruction sets that decide how fast the kernels can be.
_INSTRUCTION_SETS = r"avx2|fma|f16c|avx512\w*|avx_vnni|amx_\w+|asimd|asimdhp|bf16|sve2?"


def collect() -> dict[str, Any]:
    """Facts by name, as plain values that `json.dumps` takes.

    >>> collect()["torch"] == torch.__version__
    True
    """
    build = build_info()
    return {
        "mine_fast": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": f"{platform.python_version()} ({sys.implementation.name})",
        "platform": platform.platform(),
        "cpu": cpu(),
        "threads": {"torch": torch.get_num_threads(), "available": _available_cpus(), "machine": os.cpu_count()},
        "build": build if build is not None else "unknown: no _build_info.json beside the package",
        "library": _library_state(),
        "cuda": cuda(build),
    }


def build_info() -> dict[str, Any] | None:
    """What the build wrote down about itself, or None where the file is missing or damaged."""
    try:
        info = json.loads(Path(__file__).with_name("_build_info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return info if isinstance(info, dict) else None


def cpu() -> dict[str, Any]:
    """The processor's name and instruction sets, as far as the system tells, and the level torch uses."""
    name, found = platform.processor() or platform.machine(), set[str]()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    if flags:
        found = {flag for flag in flags.group(1).split() if re.fullmatch(_INSTRUCTION_SETS, flag)}
    return {
        "name": model.group(1) if model else name,
        "features": " ".join(sorted(found)) or None,
        "torch_uses": torch.backends.cpu.get_cpu_capability(),
    }


def cuda(build: dict[str, Any] | None) -> str:
    """One line: whether the CUDA kernels were built and load, or why not, and which devices there are."""
    try:
        missing = importlib.import_module("mine_fast._library").CUDA_MISSING
    except ImportError:
        missing = "the compiled library could not be loaded"
    state = str((build or {}).get("cuda", "built" if missing is None else f"not loaded: {missing}"))
    if state.startswith("built") and missing:
        state = f"built, but not loaded: {missing}"
    count = torch.cuda.device_count()
    names = ", ".join(_device_name(i) for i in range(count))
    return f"{state}; {count} device(s): {names}" if count else f"{state}; no device"


def _device_name(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    return f"{properties.name} (sm_{properties.major}{properties.minor}, {properties.total_memory >> 30} GiB)"


def _available_cpus() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _library_state() -> str:
    try:
        importlib.import_module("mine_fast._library")
    except ImportError as error:
        return str(error)
    return "loaded"
