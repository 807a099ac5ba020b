"""Loss and gradient of one step against fp64 torch, for every kernel set that this processor runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import relative_error

from mine_fast import reference

ACTIVATIONS = range(len(reference.ACTIVATIONS))

SHAPES = [
    dict(x_width=1, y_width=1, hidden=(1,)),
    dict(x_width=1, y_width=1, hidden=(100, 100)),
    dict(x_width=2, y_width=7, hidden=(2, 1, 2), activation=2, scale=3.0, outer=3.0),
    dict(x_width=7, y_width=129, hidden=(129, 7)),
    dict(x_width=100, y_width=2, hidden=(64, 16, 129)),
    dict(x_width=3, y_width=2, hidden=(128,)),
    dict(x_width=2, y_width=25, hidden=(8, 200, 72, 31)),
]


@pytest.fixture(params=["avx512", "avx2", "portable"])
def kernel(request, engine_module):
    if request.param not in engine_module.available_kernels():
        pytest.skip(f"this processor does not run {request.param}")
    return request.param


def check_gradient(case, size, shuffles, threads=1, tolerance=1e-5):
    loss, gradient, log_ema = case.engine.gradient(*case.arrays, size, shuffles, threads)
    wanted, wanted_ema = case.torch.loss_of_next_step(case.x, case.y, size, shuffles)
    value = float(wanted.detach())
    wanted.backward()
    flat = torch.cat([p.grad.flatten() for p in case.torch.leaves]).numpy()
    assert loss == pytest.approx(value, rel=1e-5, abs=1e-5)
    if case.torch.loss == 0:
        assert log_ema == pytest.approx(float(wanted_ema), rel=1e-5, abs=1e-5)
    assert relative_error(gradient, flat) < tolerance


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("size", "shuffles"), [(97, 1), (2, 1), (41, 3)])
def test_shapes(case, kernel, shape, size, shuffles):
    made = case(**shape)
    made.engine.set_kernel(kernel)
    check_gradient(made, size, shuffles)


@pytest.mark.parametrize("rows", [255, 256, 257, 1000])
@pytest.mark.parametrize("activation", [1, 6])
def test_more_rows_than_a_tile(case, kernel, rows, activation):
    made = case(rows=rows, hidden=(100, 52), activation=activation)
    made.engine.set_kernel(kernel)
    check_gradient(made, rows, 2)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", [0, 1, 2])
def test_activations_and_losses(case, kernel, activation, loss):
    made = case(activation=activation, loss=loss, hidden=(20, 33, 9))
    made.engine.set_kernel(kernel)
    check_gradient(made, 60, 2)


def test_mixed_activations(case, kernel):
    made = case(activation=(1, 6, 1, 7), hidden=(20, 33, 9, 40))
    made.engine.set_kernel(kernel)
    check_gradient(made, 60, 2)


@pytest.mark.parametrize("loss", [0, 1])
@pytest.mark.parametrize("log_ema", [-np.inf, 0.0, -300.0, 250.0])
def test_scores_far_beyond_the_range_of_exp(case, kernel, loss, log_ema):
    made = case(loss=loss, rows=600, hidden=(30, 20), outer=900.0)
    made.engine.set_kernel(kernel)
    made.engine.log_ema = log_ema
    made.torch.log_ema = torch.tensor(log_ema, dtype=torch.float64)
    scores = made.engine.score(*made.arrays)
    assert np.abs(scores).max() > 150
    # The exponent amplifies the rounding of scores of some hundreds.
    check_gradient(made, 600, 3, tolerance=3e-4)


def test_a_score_that_rises_in_a_later_tile(case, kernel):
    made = case(loss=1, rows=1500, hidden=(30, 20), outer=1.0, activation=1)
    made.engine.set_kernel(kernel)
    made.x[700] *= 400
    check_gradient(made, 1500, 4, tolerance=1e-4)


def test_the_moving_average_corrects_the_gradient(case, kernel):
    made = case(alpha=0.3)
    made.engine.set_kernel(kernel)
    made.engine.log_ema = 0.7
    made.torch.log_ema = torch.tensor(0.7, dtype=torch.float64)
    check_gradient(made, 50, 1)


@pytest.mark.parametrize("activation", [1, 3])
@pytest.mark.parametrize("input_noise", [0.0, 0.5])
def test_noise(case, kernel, activation, input_noise):
    made = case(noise=0.3, input_noise=input_noise, activation=activation, hidden=(7, 41), x_width=19)
    made.engine.set_kernel(kernel)
    check_gradient(made, 31, 2)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("widths", [(70, 1), (3, 129), (100, 64)], ids=str)
def test_inputs_of_mostly_zeros(case, kernel, widths, threads):
    made = case(x_width=widths[0], y_width=widths[1], rows=150, hidden=(33, 20))
    made.engine.set_kernel(kernel)
    for rows in (made.x, made.y):
        rows[torch.rand(rows.shape, generator=torch.Generator().manual_seed(1)) < 0.8] = 0.0
    check_gradient(made, 150, 2, threads)


def test_sums_over_many_pairs_stay_accurate(case, kernel):
    made = case(rows=400, hidden=(20, 16))
    made.engine.set_kernel(kernel)
    check_gradient(made, 400, 150, tolerance=3e-6)


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("loss", [0, 1])
def test_threads(case, threads, loss):
    made = case(rows=300, hidden=(30, 20), loss=loss, outer=200.0)
    check_gradient(made, 300, 3, threads, tolerance=2e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores(case, kernel, shape):
    made = case(**shape, rows=300)
    made.engine.set_kernel(kernel)
    with torch.no_grad():
        wanted = made.torch.scores(made.x.double(), made.y.double()).numpy()
    np.testing.assert_allclose(made.engine.score(*made.arrays), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_of_partners(case, kernel, shape):
    made = case(**shape, rows=150)
    made.engine.set_kernel(kernel)
    partner = torch.randint(150, (3, 150), generator=torch.Generator().manual_seed(0))
    x, y = made.x.double(), made.y.double()
    with torch.no_grad():
        wanted = np.stack([made.torch.scores(x, y[row]).numpy() for row in partner])
    found = made.engine.score(*made.arrays, partner=partner.numpy())
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("partner", "message"),
    [
        (np.zeros((2, 40)), "int64"),
        (np.zeros(50, np.int64), r"partner must be \[shuffles, 50\]"),
        (np.zeros((2, 49), np.int64), r"partner must be \[shuffles, 50\]"),
        (np.full((2, 50), 50), "rows from 0 to 49"),
        (np.full((2, 50), -1), "rows from 0 to 49"),
    ],
)
def test_partners_that_are_none(case, engine_module, partner, message):
    made = case(rows=50)
    with pytest.raises(ValueError, match=message):
        made.engine.score(*made.arrays, partner=partner)
    with pytest.raises(ValueError, match=message):
        engine_module.factor_scores(made.x.numpy(), made.x.numpy(), partner)


@pytest.mark.parametrize("width", [1, 7, 8, 34])
def test_scores_by_factors(engine_module, width):
    f, g = torch.randn(2, 60, width, generator=torch.Generator().manual_seed(width))
    partner = torch.randint(60, (4, 60), generator=torch.Generator().manual_seed(1))
    found = engine_module.factor_scores(f.numpy(), g.numpy(), partner.numpy())
    wanted = (f.double() @ g.double().T).gather(1, partner.T).T
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert engine_module.factor_scores(f.numpy(), g.numpy(), partner[:0].numpy()).shape == (0, 60)
    with pytest.raises(ValueError, match=r"f and g must be \[n, k\] both"):
        engine_module.factor_scores(f.numpy(), g[1:].numpy(), partner.numpy())


def test_partners_that_no_memory_holds(engine_module):
    """An array may repeat its rows in no memory; the engine's copy of it may not be had."""
    rows = np.ones((4, 2), np.float32)
    with pytest.raises(MemoryError):
        engine_module.factor_scores(rows, rows, np.broadcast_to(np.zeros(1, np.int64), (2**44, 4)))
