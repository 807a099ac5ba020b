"""All pairs of a batch in the engine against the same pairs as shuffles in fp64 torch, for every kernel set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import relative_error
from torch_path import normal_noise

from mine_fast import reference

SHAPES = [
    dict(x_width=1, y_width=1, hidden=(1,)),
    dict(hidden=(64, 64)),
    dict(hidden=(64, 64), activation=6),
    dict(x_width=2, y_width=7, hidden=(2, 1, 2), activation=2, scale=3.0, outer=3.0),
    dict(x_width=100, y_width=2, hidden=(65, 16, 129), activation=(7, 1, 4), scale=2.0),
    dict(x_width=3, y_width=2, hidden=(128,), activation=3),
]


@pytest.fixture(params=["avx512", "avx2", "portable"])
def kernel(request, engine_module):
    if request.param not in engine_module.available_kernels():
        pytest.skip(f"this processor does not run {request.param}")
    return request.param


def check(made, size, threads=1, tolerance=1e-5):
    """B - 1 shuffles are every pair but the joint ones, each once (csrc/shuffle.h)."""
    loss, gradient, log_ema = made.engine.gradient(*made.arrays, size, 0, threads)
    wanted, wanted_ema = made.torch.loss_of_next_step(made.x, made.y, size, size - 1)
    wanted.backward()
    flat = torch.cat([p.grad.flatten() for p in made.torch.leaves]).numpy()
    assert loss == pytest.approx(float(wanted.detach()), rel=tolerance, abs=tolerance)
    if made.torch.loss == 0:
        assert log_ema == pytest.approx(float(wanted_ema), rel=tolerance, abs=tolerance)
    assert relative_error(gradient, flat) < tolerance


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [2, 3, 9, 41, 97])
def test_shapes(case, kernel, shape, size):
    made = case(**shape)
    made.engine.set_kernel(kernel)
    check(made, size)


@pytest.mark.parametrize("loss", [0, 1, 2])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_losses_and_threads(case, loss, threads):
    made = case(loss=loss, rows=120, hidden=(30, 20), alpha=0.2)
    made.engine.log_ema = 0.4
    made.torch.log_ema = torch.tensor(0.4, dtype=torch.float64)
    check(made, 120, threads)


def test_more_threads_than_rows(case):
    check(case(rows=3), 3, threads=8)


def test_many_pairs_stay_accurate(case):
    """A fp32 sum of as many terms without a second level would be off by 1e-5."""
    check(case(rows=700, hidden=(20, 16), activation=6), 700, tolerance=1e-6)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("log_ema", [-np.inf, 250.0])
def test_scores_far_beyond_the_range_of_exp(case, kernel, log_ema, threads):
    made = case(rows=200, hidden=(30, 20), outer=900.0)
    made.engine.set_kernel(kernel)
    made.engine.log_ema = log_ema
    made.torch.log_ema = torch.tensor(log_ema, dtype=torch.float64)
    assert np.abs(made.engine.score(*made.arrays)).max() > 150
    # The exponent amplifies the rounding of scores of some hundreds.
    check(made, 200, threads, tolerance=3e-4)


def test_a_score_that_rises_by_more_than_exp_can_tell_in_fp64(case):
    """Every sum made before the row is met must be brought down to nothing, and not become 0 * inf."""
    made = case(loss=1, rows=300, hidden=(30, 20), outer=3.0)
    far = made.engine.score((60_000 * made.x).numpy(), made.y.numpy())
    made.x[100 + int(far[100:].argmax())] *= 60_000
    scores = made.engine.score(*made.arrays)
    assert scores.max() - np.median(scores) > 745
    check(made, 300, tolerance=1e-3)


@pytest.mark.parametrize("activation", [1, 6])
def test_noise(case, kernel, activation):
    """Of the inputs once for each row, of hidden layers for each pair by its number B (j - i mod B) + i."""
    made = case(noise=0.3, input_noise=0.5, activation=activation, hidden=(7, 41), x_width=19)
    made.engine.set_kernel(kernel)
    rows = 31
    loss, gradient, _ = made.engine.gradient(*made.arrays, rows, 0, 1)
    run = made.torch
    x, y = (
        v + 0.5 * normal_noise(run.seed, run.offset, side, torch.arange(rows), v.shape[1])
        for side, v in zip((-1, -2), run.batch(made.x, made.y, rows), strict=True)
    )
    i = torch.arange(rows).repeat(rows)
    j = (i + torch.arange(rows).repeat_interleave(rows)) % rows
    scores = run.scores(x[i], y[j], torch.arange(rows * rows))
    wanted = reference.dv_term(scores, rows, run.log_ema, 0.01)[0]
    wanted.backward()
    assert loss == pytest.approx(float(wanted.detach()), abs=1e-5)
    assert relative_error(gradient, torch.cat([p.grad.flatten() for p in run.leaves]).numpy()) < 1e-5


@pytest.mark.parametrize("activation", [1, 6])
def test_training_is_that_of_torch(case, activation):
    made = case(rows=90, hidden=(12, 8), activation=activation)
    losses = made.engine.train(*made.arrays, 20, 30, 0, 3e-3)
    optimizer = torch.optim.Adam(made.torch.leaves, lr=3e-3)
    wanted = made.torch.train(made.x, made.y, 20, 30, 29, optimizer)
    np.testing.assert_allclose(losses, wanted, rtol=1e-4, atol=1e-4)
    # But the output bias, whose gradient is rounding at first and a full step of Adam's all the same.
    assert relative_error(made.engine.parameters[:-1], made.torch.flat()[:-1]) < 1e-3


def test_the_same_bits_again(case):
    results = [case(rows=200, hidden=(30, 20)).engine.gradient(*case(rows=200).arrays, 200, 0, 2) for _ in range(2)]
    np.testing.assert_array_equal(results[0][1], results[1][1])


BAD = [
    (dict(x_part=np.zeros((5, 4))), TypeError, "x_part must be float32"),
    (dict(x_part=np.zeros((5, 3), np.float32)), ValueError, r"x_part must be \[n, 4\]"),
    (dict(y_part=np.zeros((6, 4), np.float32)), ValueError, "as many rows, got 5 and 6"),
    (dict(x_part=np.zeros((1, 4), np.float32), y_part=np.zeros((1, 4), np.float32)), ValueError, "at least 2 rows"),
    (dict(later=np.zeros(4, np.float32)), ValueError, r"later must be \[5\]"),
    (dict(threads=-1), ValueError, "threads must be at least 1 and at most 1024, or 0"),
    (dict(loss=3), ValueError, "loss must be"),
    (dict(kernel="sse"), ValueError, "kernel must be one of"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=lambda v: str(v)[:40])
def test_bad_arguments_are_named(engine_module, change, error, message):
    rows = np.zeros((5, 4), np.float32)
    arguments = dict(
        x_part=rows, y_part=rows, later=np.zeros(5, np.float32), hidden=[4], activations=[1], slopes=[0.0],
        log_ema=0.0, alpha=0.1, loss=0, with_gradient=True,
    )  # fmt: skip
    assert engine_module.all_pairs(**arguments)[0] == 0
    with pytest.raises(error, match=message):
        engine_module.all_pairs(**(arguments | change))
