"""The separable critic's steps against fp64 torch, for every kernel set that this processor runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import relative_error
from torch import Tensor, nn

from mine_fast import reference

ACTIVATIONS = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, lambda: nn.GELU("tanh"), nn.SiLU, nn.Tanh)
SLOPES = (0.0, 0.0, 0.01, 1.0, 0.0, 0.0, 0.0, 0.0)


class Towers:
    """An engine, the same towers in fp64, and rows for both."""

    def __init__(self, module, widths=(2, 3), hidden=((20, 9), (7, 30)), outputs=6, codes=(6, 6), loss=0, alpha=0.01,
                 seed=3, rows=97, outer=1.0):  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        specs, self.towers = [], []
        for width, layers, code in zip(widths, hidden, codes, strict=True):
            sizes = [*layers, outputs]
            specs.append((sizes, [code] * len(layers) + [0], [SLOPES[code]] * len(layers) + [0.0]))
            modules, fan_in = [], width
            for size in sizes:
                linear = nn.Linear(fan_in, size, dtype=torch.float64)
                bound = (outer if size is sizes[-1] else 1.0) / fan_in**0.5
                for p in linear.parameters():
                    p.data = ((torch.rand(p.shape, generator=generator) * 2 - 1) * bound).double()
                modules += [linear, ACTIVATIONS[code]()]
                fan_in = size
            self.towers.append(nn.Sequential(*modules[:-1]))
        self.parameters = [p for tower in self.towers for p in tower.parameters()]
        self.engine = module.Engine.separable(*widths, *specs, loss, alpha, seed)
        self.engine.parameters = self.flat(self.parameters).astype(np.float32)
        self.loss, self.alpha, self.seed = loss, alpha, seed
        self.log_ema = torch.tensor(0.3, dtype=torch.float64)  # else the first gradient of the biases is rounding
        self.x = torch.randn(rows, widths[0], generator=generator)
        self.y = torch.randn(rows, widths[1], generator=generator)
        self.y[:, 0] = 0.8 * self.x[:, 0] + 0.6 * self.y[:, 0]

    @staticmethod
    def flat(tensors) -> np.ndarray:
        return torch.cat([t.detach().flatten() for t in tensors]).numpy()

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self.x.numpy(), self.y.numpy()

    def scores(self, x: Tensor, y: Tensor) -> Tensor:
        """Of all pairs, [B, B]."""
        f, g = self.towers[0](x.double()), self.towers[1](y.double())
        return f[:, :-1] @ g[:, :-1].T + f[:, -1:] + g[:, -1]

    def next_loss(self, size: int, epoch: int = 0, position: int = 0) -> tuple[Tensor, Tensor]:
        """The loss as the oracle of the ops has it, the off-diagonal pairs being the marginal ones; new log_ema."""
        key = torch.tensor([self.seed, epoch])
        batch = reference.bijection(key, reference.PASS_STREAM, len(self.x))[position : position + size]
        scores = self.scores(self.x[batch], self.y[batch])
        marginal = scores[~torch.eye(size, dtype=torch.bool)]
        name = ("mine", "mine_biased", "fdiv")[self.loss]
        both = torch.cat([scores.diagonal(), marginal])
        return reference.dv_term(both, size, self.log_ema, self.alpha, name)[:2]


@pytest.fixture
def towers(engine_module):
    return lambda **settings: Towers(engine_module, **settings)


@pytest.fixture(params=["avx512", "avx2", "portable"])
def kernel(request, engine_module):
    if request.param not in engine_module.available_kernels():
        pytest.skip(f"this processor does not run {request.param}")
    return request.param


def check_gradient(made: Towers, kernel: str, size: int) -> None:
    made.engine.set_kernel(kernel)
    made.engine.log_ema = float(made.log_ema)
    loss, gradient, log_ema = made.engine.gradient(*made.arrays, size)
    wanted, wanted_ema = made.next_loss(size)
    wanted.backward()
    assert loss == pytest.approx(float(wanted.detach()), rel=1e-5, abs=1e-5)
    if made.loss == 0:
        assert log_ema == pytest.approx(float(wanted_ema), rel=1e-5, abs=1e-5)
    assert relative_error(gradient, made.flat(p.grad for p in made.parameters)) < 1e-5


@pytest.mark.parametrize("size", [2, 3, 41, 97])
@pytest.mark.parametrize(
    "shape",
    [
        dict(widths=(1, 1), hidden=((), ()), outputs=2),
        dict(widths=(1, 1), hidden=((64, 64, 64), (64, 64, 64)), outputs=33),
        dict(widths=(5, 130), hidden=((8, 1, 16), (129,)), outputs=7),
        dict(widths=(33, 2), hidden=((), (31, 2)), outputs=40),
    ],
    ids=str,
)
def test_shapes(towers, kernel, shape, size):
    check_gradient(towers(**shape), kernel, size)


@pytest.mark.parametrize("loss", [0, 1, 2])
@pytest.mark.parametrize("code", range(8))
def test_activations_and_losses(towers, kernel, code, loss):
    check_gradient(towers(codes=(code, (code + 1) % 8), loss=loss), kernel, 60)


@pytest.mark.parametrize("rows", [256, 257, 700])
def test_more_pairs_than_a_tile(towers, kernel, rows):
    check_gradient(towers(rows=rows), kernel, rows)


@pytest.mark.parametrize("loss", [0, 1])
@pytest.mark.parametrize("log_ema", [-math.inf, 0.0, -80.0, 250.0])
def test_scores_far_beyond_the_range_of_exp(towers, kernel, loss, log_ema):
    made = towers(loss=loss, rows=600, outer=60.0)
    made.log_ema = torch.tensor(log_ema, dtype=torch.float64)
    with torch.no_grad():
        assert float(made.scores(made.x, made.y).abs().max()) > 120
    check_gradient(made, kernel, 600)


def test_the_largest_scores_come_last(towers, kernel):
    """So that the reference of the weights moves between tiles."""
    made = towers(rows=500, widths=(1, 1), hidden=((), ()), outputs=2, loss=1)
    order = reference.bijection(torch.tensor([made.seed, 0]), reference.PASS_STREAM, 500)
    made.x[order] = torch.linspace(0, 60, 500)[:, None]
    with torch.no_grad():
        made.towers[0][0].weight.fill_(1.0)
        made.towers[1][0].weight.fill_(1.0)
    made.engine.parameters = made.flat(made.parameters).astype(np.float32)
    check_gradient(made, kernel, 500)


def test_training_follows_torch(towers, kernel):
    made = towers(rows=200, alpha=0.1)
    made.engine.set_kernel(kernel)
    made.engine.log_ema = float(made.log_ema)
    optimizer = torch.optim.AdamW(made.parameters, lr=3e-3, weight_decay=0.01)
    losses = made.engine.train(*made.arrays, steps=7, batch_size=64, learning_rates=3e-3, decoupled=True,
                               weight_decay=0.01, max_grad_norm=1.0)  # fmt: skip
    for step in range(7):
        loss, made.log_ema = made.next_loss(64, epoch=step // 3, position=step % 3 * 64)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(made.parameters, 1.0)
        optimizer.step()
        assert losses[step] == pytest.approx(float(loss.detach()), rel=1e-4, abs=1e-5)
    assert made.engine.log_ema == pytest.approx(float(made.log_ema), rel=1e-4)
    assert relative_error(made.engine.parameters, made.flat(made.parameters)) < 1e-4


@pytest.mark.parametrize("rows", [1, 127, 128, 300])
def test_scores(towers, kernel, rows):
    made = towers(rows=rows)
    made.engine.set_kernel(kernel)
    wanted = made.scores(made.x, made.y).diagonal().detach().numpy()
    np.testing.assert_allclose(made.engine.score(*made.arrays), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [2, 128, 300])
def test_scores_of_partners(towers, kernel, rows):
    made = towers(rows=rows)
    made.engine.set_kernel(kernel)
    partner = torch.randint(rows, (3, rows), generator=torch.Generator().manual_seed(0))
    wanted = made.scores(made.x, made.y).detach().gather(1, partner.T).T.numpy()
    found = made.engine.score(*made.arrays, partner=partner.numpy())
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_run_is_determined_by_its_state(towers):
    whole, parts = towers(), towers()
    kept = dict(batch_size=32, learning_rates=1e-2, averaging=0.9)
    whole.engine.train(*whole.arrays, steps=9, **kept)
    parts.engine.train(*parts.arrays, steps=4, **kept)
    parts.engine.train(*parts.arrays, steps=5, **kept)
    assert np.array_equal(whole.engine.parameters, parts.engine.parameters)
    assert np.array_equal(whole.engine.average, parts.engine.average)


def test_a_batch_that_is_not_finite_stops_the_run(towers, engine_module):
    made = towers()
    made.x[5] = math.nan
    before = made.engine.parameters
    with pytest.raises(engine_module.DivergenceError):
        made.engine.train(*made.arrays, steps=1, batch_size=97)
    assert np.array_equal(made.engine.parameters, before)


@pytest.mark.parametrize(
    ("x_tower", "y_tower", "message"),
    [
        (([4, 3], [1, 0], [0.0, 0.0]), ([4, 2], [1, 0], [0.0, 0.0]), "as many outputs"),
        (([1], [0], [0.0]), ([1], [0], [0.0]), "at least 2"),
        (([4, 3], [1, 1], [0.0, 0.0]), ([4, 3], [1, 0], [0.0, 0.0]), "linear"),
        (([], [], []), ([3], [0], [0.0]), "linear"),
        (([4, 0], [1, 0], [0.0, 0.0]), ([4, 3], [1, 0], [0.0, 0.0]), "at least 1"),
        (([4, 3], [99, 0], [0.0, 0.0]), ([4, 3], [1, 0], [0.0, 0.0]), "activation code 99"),
    ],
)
def test_towers_that_do_not_fit(engine_module, x_tower, y_tower, message):
    with pytest.raises(ValueError, match=message):
        engine_module.Engine.separable(2, 2, x_tower, y_tower, 0, 0.01, 0)
