"""Rows of results with what made them: machine, versions, commit. One JSON file per benchmark in results/."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mine_fast
from mine_fast.files import write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def environment() -> dict[str, Any]:
    """The machine, the versions and the commit that a result belongs to."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "mine_fast": mine_fast.__version__,
    }


def cpu_name() -> str:
    """The processor, with the widest vector instructions that it has: a bare name can stand for several."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return f"{model.group(1) if model else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def commit() -> str:
    """The commit of the working tree, marked if files differ from it."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "csrc", "mine_fast", "setup.py"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except OSError:
        return "unknown"
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "") or "unknown"


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median and the 10% and 90% quantiles of repeated measurements."""
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return {"median": statistics.median(values), "q10": cuts[0], "q90": cuts[-1], "n": len(values)}


def command() -> str:
    """How this process was started, from the root of the repository."""
    script = Path(sys.argv[0]).resolve()
    if script.is_relative_to(ROOT):
        script = script.relative_to(ROOT)
    started = ["-m", ".".join(script.parent.parts)] if script.name == "__main__.py" else [str(script)]
    return " ".join(["python", *started, *sys.argv[1:]])


def write(name: str, rows: list[dict[str, Any]], **about: Any) -> Path:
    """Write results/<name>.json: what it is about, the environment, one row per figure."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    head = {**about, "command": command(), "environment": environment()}
    # A row a line: what a later run changed can then be read off the difference.
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    write_text(path, f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{lines}\n ]\n}}\n')
    return path
