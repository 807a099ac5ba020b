"""`python -m pytest benchmarks/` measures: the project's settings leave pytest-benchmark off for the tests."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "benchmark_enable"):
        config.option.benchmark_enable = True
