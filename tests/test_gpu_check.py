"""What benchmarks/gpu_check.py does around the GPU's own work."""

import json

import gpu_check
import pytest
import torch


def test_what_the_sanitizer_watches_runs_by_the_cpu_kernels_too():
    gpu_check.exercise("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu_check.main() == 1
    assert "no CUDA GPU" in capsys.readouterr().out


def test_rows_are_kept_as_they_come(monkeypatch, tmp_path):
    def two_and_an_error():
        yield from ({"figure": str(i), "rows": {"a": {"median": 1.0 + i}}} for i in range(2))
        raise RuntimeError("the third")

    monkeypatch.setitem(gpu_check.MEASURED, "stage", (9, two_and_an_error))
    with pytest.raises(RuntimeError, match="third"):
        gpu_check.measure("stage", tmp_path / "rows")
    assert [json.loads(row)["figure"] for row in (tmp_path / "rows").read_text().splitlines()] == ["0", "1"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_stage_that_fails_leaves_its_reason():
    record = gpu_check.measured_apart("bandwidth", 60)
    assert (record["ok"], record["rows"]) == (False, [])
    assert "CUDA" in record["output"] or "cuda" in record["output"]


def test_a_stage_that_takes_too_long_is_stopped():
    record = gpu_check.measured_apart("bandwidth", 0.05)
    assert record == {"ok": False, "error": "stopped after its 0 s", "rows": []}
