"""Scores of many pairs of the same rows: the engine's against calls of the critic on copies of the rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mine_fast
from mine_fast import _engine, native, pair_scoring
from mine_fast.native import pair_scorer
from mine_fast.pair_scoring import by_rows, factor_scores


def rows(n=70, x_width=3, y_width=2, shuffles=4):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, width, generator=generator) for width in (x_width, y_width))
    return x, y, torch.randint(n, (shuffles, n), generator=generator)


def layers(*middle):
    return nn.Sequential(nn.Linear(5, 16), *middle, nn.Linear(16, 1))


CRITICS = {
    "perceptron": (lambda: layers(nn.ReLU(), nn.Linear(16, 16), nn.SiLU()), "concat"),
    "noisy": (lambda: layers(nn.ReLU(), mine_fast.GaussianNoise(3.0)), "concat"),
    "separable": (lambda: mine_fast.SeparableCritic(3, 2, (16,), 4), None),
    "dropout": (lambda: layers(nn.Dropout(0.5)), "concat"),
    "bilinear": (lambda: nn.Bilinear(3, 2, 1), None),
}


@pytest.mark.parametrize("name", CRITICS)
def test_scores_are_those_of_the_critic(name, monkeypatch):
    make, method = CRITICS[name]
    torch.manual_seed(0)
    mine = mine_fast.MINE(make(), method=method, seed=0).eval()
    calls = []
    monkeypatch.setattr(native, "call_critic", lambda *given: calls.append(1) or mine_fast.critics.call_critic(*given))
    x, y, partner = rows()
    with torch.no_grad():
        wanted = torch.stack([mine_fast.critics.call_critic(mine.T, method, x, y[p]) for p in partner])
        torch.testing.assert_close(pair_scorer(mine)(x, y, partner), wanted, rtol=1e-5, atol=1e-5)
        assert bool(calls) == (name in ("dropout", "bilinear"))
        torch.testing.assert_close(pair_scorer(mine, "torch")(x, y, partner), wanted, rtol=1e-5, atol=1e-5)
        assert calls


def test_images_go_to_the_critic():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x, y):
            return self.weight * (10 * x.flatten(1).sum(1) + y[:, 0])

    x, y, partner = torch.rand(6, 2, 3), torch.rand(6, 1), torch.randint(6, (3, 6))
    with torch.no_grad():
        found = pair_scorer(mine_fast.MINE(Sums(), seed=0))(x, y, partner)
    torch.testing.assert_close(found, 10 * x.sum((1, 2)) + y[:, 0][partner])


@pytest.mark.parametrize("call_rows", [5, 140, 10_000])
def test_copies_of_the_rows_are_made_in_parts(call_rows, monkeypatch):
    monkeypatch.setattr(pair_scoring, "CALL_ROWS", call_rows)
    monkeypatch.setattr(pair_scoring, "CALL_ROWS_ON_CPU", 33)
    x, y, partner = rows()
    sizes = []

    def score(a, b):
        sizes.append(len(a))
        return a[:, 0] - 2 * b[:, 1]

    torch.testing.assert_close(by_rows(score)(x, y, partner), x[:, 0] - 2 * y[:, 1][partner])
    assert max(sizes) <= 33


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_factors(dtype):
    f, g, partner = rows(x_width=7, y_width=7)
    f, g = f.to(dtype), g.to(dtype)
    wanted = (f @ g.T).gather(1, partner.T).T
    with torch.no_grad():
        torch.testing.assert_close(factor_scores(f, g, partner), wanted)
    f.requires_grad_()
    found = factor_scores(f, g, partner)
    torch.testing.assert_close(found.detach(), wanted)
    [gradient] = torch.autograd.grad(found.sum(), [f])
    torch.testing.assert_close(gradient, g[partner].sum(0))


def test_rows_that_do_not_lie_one_after_the_other():
    f, g, partner = rows(x_width=6, y_width=6)
    with torch.no_grad():
        torch.testing.assert_close(
            factor_scores(f[:, ::2], g[:, 1::2], partner[:, torch.arange(70)]),
            (f[:, ::2] @ g[:, 1::2].T).gather(1, partner.T).T,
        )
    assert _engine.factor_scores(f.numpy(), g.numpy(), partner.numpy()[::2]).shape == (2, 70)
