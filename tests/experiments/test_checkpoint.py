"""The files that an interrupted experiment goes on from: whole or not there, and refused where they do not fit."""

from __future__ import annotations

import errno

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from mine_fast.experiments.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1)


def state(value=0.0):
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, value)
    return {"layer": layer, "seen": [value]}


def changed(path, **changes):
    torch.save({**torch.load(path, weights_only=True), **changes}, path)


def test_what_is_saved_comes_back(fabric, tmp_path):
    path = tmp_path / "deep" / "loop.pt"
    assert load_checkpoint(fabric, path, state()) == 0
    save_checkpoint(fabric, path, 7, state(2.0))
    loaded = state()
    assert load_checkpoint(fabric, path, loaded) == 7
    assert (loaded["layer"].weight.item(), loaded["seen"]) == (2.0, [2.0])
    assert [file.name for file in path.parent.iterdir()] == ["loop.pt"]


def test_a_file_without_a_format_is_older_and_loads(fabric, tmp_path):
    path = tmp_path / "loop.pt"
    save_checkpoint(fabric, path, 7, state())
    content = torch.load(path, weights_only=True)
    del content["format"]
    torch.save(content, path)
    assert load_checkpoint(fabric, path, state()) == 7


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda path: changed(path, format=2),
            "has format 2, of another version of mine_fast, this one reads format 1",
        ),
        (lambda path: changed(path, state={"layer": {}}), "holds the state of layer, this loop has layer, seen"),
        (lambda path: torch.save({"step": 3}, path), "is no checkpoint of a loop"),
        (lambda path: torch.save([3], path), "is no checkpoint of a loop"),
        (lambda path: torch.save(nn.Linear(1, 1), path), "is no checkpoint that can be read; delete it .*Unpickling"),
        (lambda path: path.write_bytes(b""), "is no checkpoint that can be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is no checkpoint that can be read"),
        (lambda path: path.write_text("{}"), "is no checkpoint that can be read"),
    ],
)
def test_files_that_do_not_fit_are_refused_and_change_nothing(spoil, message, fabric, tmp_path):
    path = tmp_path / "loop.pt"
    save_checkpoint(fabric, path, 7, state(2.0))
    spoil(path)
    loop = state(1.0)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(fabric, path, loop)
    assert (loop["layer"].weight.item(), loop["seen"]) == (1.0, [1.0])


def test_a_full_disk_leaves_the_old_file_and_nothing_else(fabric, tmp_path, monkeypatch):
    path = tmp_path / "loop.pt"
    save_checkpoint(fabric, path, 7, state(2.0))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(fabric, path, 8, state(3.0))
    assert load_checkpoint(fabric, path, state()) == 7
    assert [file.name for file in tmp_path.iterdir()] == ["loop.pt"]
