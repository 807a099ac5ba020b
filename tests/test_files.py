"""What is written is whole or not there: errors, Ctrl-C, a full disk; links, permissions and devices stay."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mine_fast.experiments.checkpoint import load_checkpoint, save_checkpoint
from mine_fast.experiments.figures import panels
from mine_fast.files import atomic_path, save_figure, write_text


class Stopped(Exception):
    pass


class Fabric:
    """Writes half of a checkpoint and fails, if told to."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def save(self, path: Path, state: dict) -> None:
        torch.save(state, path)
        if self.fails:
            path.write_bytes(path.read_bytes()[:100])
            raise Stopped

    def load(self, path: Path, weights_only: bool) -> dict:
        return torch.load(path, weights_only=weights_only)


def write_and_stop(path: Path, error: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half of the new")
        raise error


@pytest.mark.parametrize("before", [None, "the old"])
@pytest.mark.parametrize("error", [Stopped(), KeyboardInterrupt(), OSError(28, "No space left on device")], ids=repr)
def test_what_stops_the_writing_leaves_what_was_there(tmp_path, before, error):
    path = tmp_path / "table.csv"
    if before is not None:
        path.write_text(before)
    with pytest.raises(type(error)):
        write_and_stop(path, error)
    assert [p.name for p in tmp_path.iterdir()] == ([] if before is None else ["table.csv"])
    assert before is None or path.read_text() == before


def test_a_link_stays_a_link_and_permissions_stay(tmp_path):
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    write_text(tmp_path / "ours", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_device_is_written_to_and_not_replaced():
    write_text("/dev/null", "nothing to keep")
    assert not Path("/dev/null").is_file()
    with pytest.raises(OSError, match="No space left"):
        write_text("/dev/full", "x" * 10_000)
    assert not Path("/dev/full").is_file()


def test_a_checkpoint_that_fails_leaves_the_one_before(tmp_path):
    path, state = tmp_path / "folder" / "checkpoint.pt", {"numbers": [1, 2]}
    save_checkpoint(Fabric(), path, 3, state)
    with pytest.raises(Stopped):
        save_checkpoint(Fabric(fails=True), path, 4, {"numbers": [5]})
    state["numbers"].clear()
    assert load_checkpoint(Fabric(), path, state) == 3
    assert state == {"numbers": [1, 2]}
    assert list(path.parent.iterdir()) == [path]


def test_a_checkpoint_that_could_run_code_is_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "made"),))

    torch.save({"step": 1, "state": {"x": Code()}}, tmp_path / "checkpoint.pt")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        load_checkpoint(Fabric(), tmp_path / "checkpoint.pt", {})
    assert not (tmp_path / "made").exists()


def test_a_figure_keeps_the_format_of_its_suffix(tmp_path):
    figure, _ = panels()
    for name, magic in (("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")):
        save_figure(tmp_path / name, figure, dpi=30)
        assert (tmp_path / name).read_bytes().startswith(magic)
    with pytest.raises(ValueError, match="not supported"):
        save_figure(tmp_path / "a.xyz", figure, dpi=30)
    assert not (tmp_path / "a.xyz").exists()


# --- in processes of their own ----------------------------------------------------------------------------------------

WRITER = """
import json, sys
from mine_fast.files import write_text
print("ready", flush=True)
for k in range(10**9):
    write_text(sys.argv[1], json.dumps({"k": k, "values": [k] * 5000}))
"""


def test_ctrl_c_at_any_moment_leaves_a_whole_file(tmp_path):
    path, moments = tmp_path / "metrics.json", random.Random(0)
    write_text(path, json.dumps({"k": -1, "values": [-1] * 5000}))
    for _ in range(20):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(moments.uniform(0, 0.05))
        child.send_signal(signal.SIGINT)
        assert child.wait(30) != 0
        found = json.loads(path.read_text())
        assert found["values"] == [found["k"]] * 5000
    assert list(tmp_path.iterdir()) == [path]


# RLIMIT_FSIZE stands for a full disk: a write beyond it fails in the middle of the file.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from mine_fast.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


def table(folder: Path, rows: int = 60) -> Path:
    generator = torch.Generator().manual_seed(0)
    path = folder / "data.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["first", "second"])
        writer.writerows(torch.randn(rows, 2, generator=generator).tolist())
    return path


def command_line(code: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], text=True, stderr=subprocess.PIPE, timeout=300, **options
    )


QUICK = ("--steps", 4, "--folds", 2, "--no-progress")


@pytest.mark.parametrize(
    ("command", "option", "output"),
    [
        (("estimate", "--x", "first", "--y", "second"), "--plot", "picture.png"),
        (("pairwise",), "--out", "matrix.csv"),
    ],
    ids=str,
)
def test_a_full_disk_is_one_line_and_no_file(tmp_path, command, option, output):
    source, path = table(tmp_path), tmp_path / output
    path.write_text("from before")
    arguments = (command[0], source, *command[1:], *QUICK, option, path)
    result = command_line(FULL_DISK, 30, *arguments, stdout=subprocess.DEVNULL)
    assert (result.returncode, "File too large" in result.stderr) == (2, True), result.stderr
    assert result.stderr.count("\n") == 1
    assert path.read_text() == "from before"
    assert {p.name for p in tmp_path.iterdir()} == {"data.csv", output}


def test_nobody_takes_the_output(tmp_path):
    with open("/dev/full", "w") as full:
        result = command_line("from mine_fast.cli import main; raise SystemExit(main())", "info", stdout=full)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert "No space left" in result.stderr


INTERRUPTED = """
import sys
from mine_fast.cli import main
print("ready", flush=True)
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_while_estimating_leaves_nothing(tmp_path):
    source, moments = table(tmp_path, 400), random.Random(1)
    outputs = ("--out", tmp_path / "matrix.csv", "--plot", tmp_path / "matrix.png")
    arguments = [sys.executable, "-c", INTERRUPTED, "pairwise", source, "--steps", 10**6, "--no-progress", *outputs]
    for delay in (moments.uniform(0, 1), moments.uniform(1, 3), moments.uniform(3, 6)):
        child = subprocess.Popen(list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
        # Before the command has begun, the interruption is Python's own.
        assert child.returncode in (130, -signal.SIGINT)
        assert errors.endswith("interrupted\n") or "KeyboardInterrupt" in errors
        assert [p.name for p in tmp_path.iterdir()] == ["data.csv"]
