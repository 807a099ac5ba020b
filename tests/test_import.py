"""Importing does no work, and the build backend asks for torch only where there is none."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mine_fast

ROOT = Path(__file__).resolve().parents[1]


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return result.stdout + result.stderr


def test_the_name_alone_does_not_wait_for_torch():
    assert run("import mine_fast, sys; assert 'torch' not in sys.modules; mine_fast.__version__") == ""


def test_importing_everything_changes_nothing():
    code = """
import torch
before = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_anomaly_enabled(), torch.get_rng_state().sum())
import mine_fast, mine_fast.ops
mine_fast.MINE, mine_fast.estimate
after = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_anomaly_enabled(), torch.get_rng_state().sum())
assert before == after
assert not torch.cuda.is_initialized()
"""
    assert run(code) == ""


def test_public_names():
    for name in mine_fast.__all__:
        assert getattr(mine_fast, name) is not None
    assert set(mine_fast.__all__) <= set(dir(mine_fast))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mine_fast.nonsense


@pytest.fixture
def backend():
    spec = importlib.util.spec_from_file_location("mine_fast_build", ROOT / "build_backend" / "mine_fast_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_backend_asks_for_torch_only_where_there_is_none(backend, monkeypatch, tmp_path):
    monkeypatch.setattr(backend.build_meta, "get_requires_for_build_wheel", lambda settings: ["setuptools"])
    assert backend.get_requires_for_build_wheel() == ["setuptools"]
    monkeypatch.setattr(backend, "_target_site_packages", lambda: [str(tmp_path)])
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert backend.get_requires_for_build_wheel() == ["setuptools", "torch>=2.10"]


def test_backend_lets_the_build_see_the_target_last(backend, monkeypatch, tmp_path):
    monkeypatch.setattr(backend, "_target_site_packages", lambda: [str(tmp_path), "first"])
    monkeypatch.setattr(sys, "path", ["first", "second"])
    backend._see_target_environment()
    assert sys.path == ["first", "second", str(tmp_path)]


def test_the_cuda_part_loads_where_it_was_built_and_has_every_op():
    import torch

    from mine_fast import _library, info

    built = (info.build_info() or {}).get("cuda", "")
    if not built.startswith("built"):
        assert _library.CUDA_MISSING
        pytest.skip(f"CUDA part {built}")
    assert _library.CUDA_MISSING is None
    schemas = (ROOT / "csrc" / "library.cpp").read_text()
    names = re.findall(r'm\.def\(\s*"(\w+)\(', schemas)
    assert len(names) == 10
    for name in names:
        for backend in ("CPU", "CUDA"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mine_fast::{name}", backend), (name, backend)
