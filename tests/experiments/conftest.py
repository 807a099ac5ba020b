"""What the tests of experiments share: an interruption in the middle of training, and MNIST where it is."""

from __future__ import annotations

import contextlib
import os

import pytest

import mine_fast


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
