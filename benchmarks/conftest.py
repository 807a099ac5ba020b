"""`python -m pytest benchmarks/` measures, on one thread; the settings of the project leave it off for tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "benchmark_enable"):
        config.option.benchmark_enable = True


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
