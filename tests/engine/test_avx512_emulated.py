"""The AVX-512 kernels' logic on processors without AVX-512: the same source, its 16-lane vectors made of two of 8.

This shows that tails, panels and masks are right. It says nothing about speed, nor about the instructions themselves:
those are tested by test_gradient.py on a processor that has them.
"""

from __future__ import annotations

import platform

import build_engine
import pytest
from conftest import Case
from test_activations import ACTIVATIONS, check_value_and_derivative
from test_gradient import SHAPES, check_gradient

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 only")


@pytest.fixture(scope="module")
def emulated():
    module = build_engine.build("-DMINE_FAST_EMULATE_AVX512", "-Wno-psabi")
    if "avx2" not in module.available_kernels():
        pytest.skip("the emulation needs AVX2")
    return module


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("size", "shuffles"), [(97, 1), (2, 1), (41, 3)])
def test_shapes(emulated, shape, size, shuffles):
    case = Case(emulated, **shape)
    case.engine.set_kernel("avx512")
    check_gradient(case, size, shuffles)


@pytest.mark.parametrize("activation", range(8))
def test_activations(emulated, activation):
    case = Case(emulated, activation=activation, hidden=(100, 33, 52), rows=257)
    case.engine.set_kernel("avx512")
    check_gradient(case, 257, 2)


@pytest.mark.parametrize(("code", "name"), ACTIVATIONS)
def test_activation_values(emulated, code, name):
    check_value_and_derivative(emulated, "avx512", code, name)
