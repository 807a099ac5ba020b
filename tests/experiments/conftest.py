"""What the tests of experiments share: an interruption in the middle of training, and MNIST where it is."""

from __future__ import annotations

import contextlib
import os

import pytest
import torch
from torch import nn

import mine_fast
from mine_fast.experiments.data import Digits
from mine_fast.experiments.runner import run_seed


@pytest.fixture
def interrupted(monkeypatch):
    """A context within which the n-th training call of a `MINE` loss stops the run, as Ctrl-C would."""

    @contextlib.contextmanager
    def at(call: int):
        forward, calls = mine_fast.MINE.forward, 0

        def counting(self, *arguments):
            nonlocal calls
            calls += self.training
            if calls == call:
                raise KeyboardInterrupt
            return forward(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(mine_fast.MINE, "forward", counting)
            with pytest.raises(KeyboardInterrupt):
                yield

    return at


@pytest.fixture
def real_mnist():
    """Skip where MNIST is not on this machine: tests download nothing."""
    if not os.environ.get("MINE_FAST_DATA"):
        pytest.skip("MINE_FAST_DATA names no folder with MNIST's IDX files")


@pytest.fixture
def bars():
    """Digits as bars, which a classifier learns at once, of the training split; all of the test split are grey."""

    def of_split(split):
        labels = torch.arange(200) % 10
        images = torch.full((200, 28, 28), 127, dtype=torch.uint8)
        if split == "train":
            rows = torch.eye(10, dtype=torch.uint8)[labels].repeat_interleave(2, 1)
            images = nn.functional.pad(255 * rows[:, :, None].expand(-1, -1, 28), (0, 0, 4, 4))
        return Digits(images, labels)

    return of_split


@pytest.fixture
def run_on_bars(bars, tmp_path, monkeypatch):
    """Runs one step of an experiment's arm without the term on them; what its training loop is given, the metrics."""

    def run(module, loop):
        def training(run, networks, beta, real, look):
            seen.append(real(100))
            return train(run, networks, beta, real, look)

        seen, train = [], getattr(module, loop)
        monkeypatch.setattr(module, loop, training)
        monkeypatch.setattr("mine_fast.experiments.digits.mnist", bars)
        # Writing down what is drawn takes longer than all else.
        monkeypatch.setattr(module, "mosaic", lambda images, columns: torch.zeros(28, 28, 1))
        few = ["betas=(0.0,)", "steps=1", "looks=1", "classifier_epochs=6"]
        metrics = run_seed(module.EXPERIMENT, "smoke", tmp_path, overrides=few)
        return seen[0], metrics

    return run
