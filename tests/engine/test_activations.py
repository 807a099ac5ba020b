"""The engine's activations and their derivatives against fp64, for every kernel set that this processor runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mine_fast import reference

ACTIVATIONS = list(enumerate(reference.ACTIVATIONS))
SLOPE = 0.3
UNIT = 2.0**-24

# Dense where something happens, every binade down to the subnormals, and the largest numbers.
GRID = np.unique(
    np.concatenate(
        [
            np.linspace(-20, 20, 400_001),
            np.linspace(-110, 110, 50_001),
            *[s * np.geomspace(1e-45, 3.4e38, 40_001) for s in (-1.0, 1.0)],
            [0.0],
        ]
    ).astype(np.float32)
)


def in_fp64(values, name):
    v = torch.from_numpy(values).double().requires_grad_()
    value = reference.activate(v, name, SLOPE)
    (derivative,) = torch.autograd.grad(value.sum(), v)
    return value.detach().numpy(), derivative.numpy()


def largest_error(found, wanted, floor):
    """In units of 2^-24, of the value or of `floor` where the value is smaller."""
    return float((np.abs(found - wanted) / np.maximum(np.abs(wanted), floor)).max() / UNIT)


@pytest.fixture(params=["avx512", "avx2", "portable"])
def kernel(request, engine_module):
    if request.param not in engine_module.available_kernels():
        pytest.skip(f"this processor does not run {request.param}")
    return request.param


# Name: (limit of the value's error, the floor that it is relative to, limit of the derivative's with floor 1). Tails
# with a small floor are those that the formula keeps: GELU's follows the rounding of v^2, which is v^2 units.
LIMITS = {
    "identity": (0, 1e-30, 0),
    "relu": (0, 1e-30, 0),
    "leaky_relu": (2, 1e-30, 1),
    "elu": (3, 1e-30, 1),
    "gelu": (3, 1.0, 4),
    "gelu_tanh": (3, 1.0, 4),
    "silu": (4, 1e-6, 4),
    "tanh": (4, 1e-30, 4),
}


def check_value_and_derivative(module, kernel, code, name):
    value, derivative = module.activate(GRID, code, SLOPE, kernel)
    wanted, wanted_derivative = in_fp64(GRID, name)
    value_limit, floor, derivative_limit = LIMITS[name]
    assert largest_error(value, wanted, floor) <= value_limit
    kink = GRID == 0  # where one-sided derivatives differ, either is right
    assert largest_error(derivative[~kink], wanted_derivative[~kink], 1.0) <= derivative_limit


@pytest.mark.parametrize(("code", "name"), ACTIVATIONS)
def test_value_and_derivative(engine_module, kernel, code, name):
    check_value_and_derivative(engine_module, kernel, code, name)


@pytest.mark.parametrize(("code", "name"), ACTIVATIONS)
def test_what_is_not_finite(engine_module, kernel, code, name):
    """NaN reaches the loss, which stops the run; an infinity gives what the formula gives in fp64."""
    special = np.array([np.nan, np.inf, -np.inf] * 3, np.float32)  # in a vector and in what is left of a row
    value, _ = engine_module.activate(special, code, SLOPE, kernel)
    wanted, _ = in_fp64(special, name)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)


@pytest.mark.parametrize("width", range(1, 34))
def test_every_width(engine_module, kernel, width):
    values = np.linspace(-3, 3, 33, dtype=np.float32)
    whole = engine_module.activate(values, 6, SLOPE, kernel)
    for found, wanted in zip(engine_module.activate(values[:width], 6, SLOPE, kernel), whole, strict=True):
        np.testing.assert_array_equal(found, wanted[:width])
