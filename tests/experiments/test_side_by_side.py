"""Seeds beside each other: the same files as one after the other, and what happens when one of them fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from mine_fast.experiments.experiment import Experiment
from mine_fast.experiments.runner import run_seed, run_seeds
from mine_fast.experiments.side_by_side import run_side_by_side


@dataclass(frozen=True)
class Settings:
    steps: int = 3
    failing: int = -1
    how: str = "raises"


def _run(run):
    """Numbers of the seed, after the time that the seed before takes to fail."""
    if run.seed == run.settings.failing:
        if run.settings.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("no data") if run.settings.how == "refuses" else ArithmeticError("no number")
    (run.folder / f"began-{os.getpid()}").touch()
    drawn = []
    for _ in run.loop(run.settings.steps, drawn=drawn):
        if run.settings.failing >= 0:
            time.sleep(60)
        drawn.append(float(torch.rand(())))
    return {"drawn": drawn, "process": os.getpid(), "threads": torch.get_num_threads()}


EXPERIMENT = Experiment("beside", {"quick": Settings()}, _run)


def _results(folder, seeds):
    return [json.loads((folder / f"seed-{seed}" / "metrics.json").read_text())["metrics"] for seed in seeds]


def test_the_same_numbers_as_one_after_the_other(tmp_path):
    beside = run_seeds(EXPERIMENT, "quick", tmp_path / "beside", [0, 1, 2], jobs=2)
    after = run_seeds(EXPERIMENT, "quick", tmp_path / "after", [0, 1, 2])
    assert beside["drawn"] == after["drawn"]
    assert len(set(beside["process"]["values"]) | {os.getpid()}) == 4
    assert set(after["process"]["values"]) == {os.getpid()}


def test_finished_seeds_are_left_one_named_twice_runs_once_and_threads_are_shared_out(tmp_path, monkeypatch):
    run_seed(EXPERIMENT, "quick", tmp_path / "seed-1", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    run_side_by_side(partial(run_seed, EXPERIMENT, "quick", progress=False), tmp_path, [1, 2, 2, 3], 8)
    first, *others = _results(tmp_path, [1, 2, 3])
    assert first["process"] == os.getpid()
    assert len({os.getpid(), *(result["process"] for result in others)}) == 3
    assert [result["threads"] for result in others] == [2, 2]


@pytest.mark.parametrize(("how", "status"), [("raises", 1), ("killed", -9), ("refuses", 1)])
def test_a_seed_that_fails_stops_the_others(how, status, tmp_path, capfd):
    overrides = ["failing=1", f"how={how}"]
    began = time.monotonic()
    with pytest.raises(ChildProcessError, match=rf"seed 1 failed \(exit status {status}\); its error is above"):
        run_seeds(EXPERIMENT, "quick", tmp_path, [0, 1, 2], jobs=2, overrides=overrides)
    assert time.monotonic() - began < 50  # seed 0 would take three minutes
    told = capfd.readouterr().err
    assert ("ArithmeticError: no number" in told) == (how == "raises")
    assert ("seed 1: no data" in told) == (how == "refuses")
    assert ("Traceback" in told) == (how == "raises")
    assert not list(tmp_path.rglob("metrics.json"))
    assert not (tmp_path / "seed-2").exists()


PARENT = """
import signal
import sys
from pathlib import Path
from test_side_by_side import EXPERIMENT
from mine_fast.experiments.runner import run_seeds
if __name__ == "__main__":
    signal.signal(int(sys.argv[2]), signal.SIG_DFL)  # nohup, under which this may run, has it ignored
    run_seeds(EXPERIMENT, "quick", Path(sys.argv[1]), [0, 1], jobs=2, overrides=["failing=9"])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_first_process_alone_ends_the_others(number, tmp_path):
    """They would go on writing beside the command that is given again."""
    (tmp_path / "parent.py").write_text(PARENT)
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "runs"), str(int(number))]
    parent = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": paths}, start_new_session=True, stderr=subprocess.PIPE
    )
    began = time.monotonic()
    while len(list(tmp_path.rglob("began-*"))) < 2:
        assert time.monotonic() - began < 100, parent.poll()
        time.sleep(0.1)
    parent.send_signal(number)
    told = parent.communicate(timeout=40)[1].decode()
    assert parent.returncode == 128 + number
    assert "Traceback" not in told
    for path in tmp_path.rglob("began-*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name.split("-")[1]), 0)
