"""Fixtures of every test: the devices to run on, and a hypothesis profile that draws the same examples on each run."""

from __future__ import annotations

import os

# Threads that spin while they wait make a suite many times slower on a machine that is busy with anything else. Read
# when the OpenMP runtime loads, so it comes before torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import signal
from collections.abc import Iterator

import hypothesis
import pytest
import torch

# A deadline would fail a test for a busy machine; derandomize gives every run the same examples.
hypothesis.settings.register_profile("mine_fast", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("mine_fast")

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def pytest_report_header() -> str:
    """Say where the ops are tested: a machine without a GPU has no CUDA tests to skip."""
    return f"op tests on: {', '.join(DEVICES)}; torch {torch.__version__}, {torch.get_num_threads()} threads"


@pytest.fixture(autouse=True, scope="session")
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C interrupt Python, also where the suite runs in the background of a shell that makes it ignore that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """The device of a test's tensors: every op test runs on each device that is here."""
    return request.param


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Give torch its number of threads back after a test that changes it."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    """Compile from nothing: neither an earlier test's guards nor graphs cached on disk decide what this one sees.

    The cache on disk knows a graph by the ops that it calls forward, not by their autograd.
    """
    torch._dynamo.reset()
    with torch._functorch.config.patch(enable_autograd_cache=False):
        yield
    torch._dynamo.reset()
