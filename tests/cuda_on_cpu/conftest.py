"""Builds of the kernels for the CPU, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .shim_build import Builds, compiler
from .shim_kernels import ShimKernels


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builds]:
    compiler()
    builds = Builds(tmp_path_factory.mktemp("cuda_on_cpu"))
    yield builds
    builds.close()


@pytest.fixture(scope="session")
def kernels(builds: Builds) -> ShimKernels:
    """Every kernel, in every dtype and activation."""
    return ShimKernels(builds.path("library"))


@pytest.fixture(scope="session")
def small_grid_kernels(builds: Builds) -> ShimKernels:
    """The fp32 and ReLU kernels with grids so small that blocks loop over tiles, planes and tables."""
    return ShimKernels(builds.path("small grid library"))
