"""That the shim finds bugs: sanitizers run clean on the kernels, and planted bugs do not go unnoticed."""

from __future__ import annotations

import re

import pytest
import torch

from .shim_build import PLANTED_BUGS, Builds, run_exercise
from .shim_kernels import ShimKernels


def _checksum(builds: Builds, name: str, seed: int) -> str | None:
    result = run_exercise(builds.path(name), str(seed))
    found = re.search(r"checksum (\w+)", result.stdout)
    return found.group(1) if found and result.returncode == 0 else None


@pytest.fixture(scope="module")
def clean_checksum(builds: Builds) -> str:
    checksum = _checksum(builds, "clean", 0)
    assert checksum is not None
    return checksum


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_results_do_not_depend_on_the_order_of_threads(builds: Builds, clean_checksum: str, seed: int) -> None:
    assert _checksum(builds, "clean", seed) == clean_checksum


def test_portable_context_switch_agrees(builds: Builds, clean_checksum: str) -> None:
    assert _checksum(builds, "ucontext", 3) == clean_checksum


@pytest.mark.parametrize("bug", list(PLANTED_BUGS))
def test_planted_bug_is_caught(builds: Builds, clean_checksum: str, bug: str) -> None:
    assert any(_checksum(builds, bug, seed) != clean_checksum for seed in (1, 2, 3))


def test_address_and_undefined_behaviour_sanitizers(builds: Builds) -> None:
    result = run_exercise(builds.path("address"), "1")
    assert result.returncode == 0, result.stderr


def test_address_sanitizer_sees_a_planted_overrun(builds: Builds) -> None:
    result = run_exercise(builds.path("address planted"), "1")
    assert result.returncode != 0
    assert "AddressSanitizer" in result.stderr or "runtime error" in result.stderr


def _run_under_thread_sanitizer(builds: Builds, name: str) -> str:
    result = run_exercise(builds.path(name), "0", "brief", timeout=120)
    if "unexpected memory mapping" in result.stderr:
        pytest.skip("ThreadSanitizer of this compiler does not run on this kernel (address space randomisation)")
    return result.stdout + result.stderr


def test_thread_sanitizer(builds: Builds) -> None:
    output = _run_under_thread_sanitizer(builds, "thread")
    assert "checksum" in output
    assert "data race" not in output


def test_thread_sanitizer_sees_a_planted_race(builds: Builds) -> None:
    assert "data race" in _run_under_thread_sanitizer(builds, "thread planted")


def test_divergent_barrier_is_an_error_and_not_a_hang(kernels: ShimKernels) -> None:
    kernels.set_order(1)
    with pytest.raises(RuntimeError, match="deadlock: of 64 threads 32 wait at a barrier"):
        kernels.divergent_barrier()
    kernels.set_order(1)  # the next launch starts afresh
    assert kernels.shuffle_index(torch.tensor([1, 2]), 5, 1, False).shape == (1, 5)
