"""`MINE(marginals="all")`, any critic and loss on all pairs of a batch, against dense fp64 torch."""

from __future__ import annotations

import copy
import math
import os
import signal
import threading

import pytest
import torch
from helpers import assert_compiles_alike, assert_gradients_close, sample
from torch import nn

import mine_fast
from mine_fast import all_pairs, bounds, reference
from mine_fast.native import critic_obstacle
from mine_fast.ops import LOSSES

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
DTYPES = tuple(TOLERANCE)
UPSTREAM = 3.7


def test_a_bilinear_critic_by_its_scores():
    """T = x . y as a function: the pairs are those of a matrix product."""
    x, y = (sample(700, 3, seed=s, dtype=torch.float64).requires_grad_() for s in range(2))
    mine = mine_fast.MINE(lambda a, b: (a * b).sum(1), "mine_biased", marginals="all", seed=0)
    loss = mine(x, y)
    scores = x @ y.T
    others = scores.masked_fill(torch.eye(700, dtype=torch.bool), -math.inf)
    wanted = torch.logsumexp(others.flatten(), 0) - math.log(700 * 699) - scores.diagonal().mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-10)
    assert_gradients_close(torch.autograd.grad(loss, [x, y]), torch.autograd.grad(wanted, [x, y]), 1e-10)


def test_the_exact_critic_of_gaussians_attains_the_information():
    """With less noise than one shuffle: its standard error here is 0.03, that of all pairs a third."""
    rho, rows = 0.8, 2000
    x, noise = sample(2, rows, 1, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * noise
    information = -0.5 * math.log(1 - rho**2)

    def log_ratio(x, y):
        return (information - 0.5 * ((x**2 + y**2 - 2 * rho * x * y) / (1 - rho**2) - x**2 - y**2))[:, 0]

    bound = mine_fast.MINE(log_ratio, marginals="all").mi(x, y)
    assert bound.item() == pytest.approx(information, abs=0.05)


# MINE. ----------------------------------------------------------------------------------------------------------------


def rows_of(rows=61, dtype=torch.float32):
    x = sample(rows, 2, dtype=dtype)
    return x, x[:, :1] + 0.5 * sample(rows, 1, seed=1, dtype=dtype)


def stack(dtype=torch.float32, middle=None):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 16), nn.SiLU(), *([] if middle is None else [middle]), nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 1)
    ).to(dtype)


class TwoSides(nn.Module):
    """A critic on (x, z), of no kind that the engine knows."""

    def __init__(self):
        super().__init__()
        self.of_x, self.of_z = nn.Linear(2, 6), nn.Linear(1, 6)

    def forward(self, x, z):
        return (torch.tanh(self.of_x(x)) * self.of_z(z)).sum(1, keepdim=True)


def dense(critic, method, x, z, loss, log_ema, alpha=0.01, clip=5.0):
    """Loss and new log-EMA from the matrix of all scores."""
    rows = len(x)
    i, j = torch.arange(rows).repeat_interleave(rows), torch.arange(rows).repeat(rows)
    scores = critic(x[i], z[j]) if method is None else critic(torch.cat([x[i], z[j]], 1))
    scores = scores.view(rows, rows)
    if loss == "infonce":
        return (torch.logsumexp(scores, 1) - math.log(rows) - scores.diagonal()).mean(), log_ema
    flat = torch.cat([scores.diagonal(), scores[~torch.eye(rows, dtype=torch.bool)]])
    fused = bounds.fused_name(loss)
    if fused is None:
        return bounds.loss_of_scores(flat, rows, loss, clip), log_ema
    return reference.dv_term(flat, rows, log_ema, alpha, fused)[:2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", bounds.LOSSES)
@pytest.mark.parametrize("critic", ["perceptron", "layer norm", "two sides"])
def test_every_loss_and_critic_equals_the_dense_one(critic, loss, dtype, monkeypatch):
    monkeypatch.setattr(all_pairs, "TILE_PAIRS", 300)  # 4 rows of 61
    T, method = {
        "perceptron": (stack(dtype), "concat"),
        "layer norm": (stack(dtype, nn.LayerNorm(16)), "concat"),
        "two sides": (TwoSides().to(dtype), None),
    }[critic]
    mine = mine_fast.MINE(T, loss, 0.1, method, marginals="all", seed=0, clip=0.3).to(dtype)
    exact = copy.deepcopy(T).double()
    log_ema = torch.tensor(-math.inf, dtype=torch.float64)
    for step in range(3):
        x, z = ((1 + step) * t.detach() for t in rows_of(dtype=dtype))
        leaves = [t.requires_grad_() for t in (x, z, *T.parameters())]
        exact_leaves = [x.detach().double().requires_grad_(), z.detach().double().requires_grad_(), *exact.parameters()]
        value = mine(x, z)
        wanted, log_ema = dense(exact, method, *exact_leaves[:2], loss, log_ema, 0.1, 0.3)
        assert value.item() == pytest.approx(wanted.item(), rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])
        found = torch.autograd.grad(UPSTREAM * value, leaves)
        gradient = torch.autograd.grad(UPSTREAM * wanted, exact_leaves)
        exact_x, exact_z = exact_leaves[:2]
        joint = exact(exact_x, exact_z) if method is None else exact(torch.cat([exact_x, exact_z], 1))
        parts = torch.autograd.grad(UPSTREAM * joint.mean(), exact_leaves)
        assert_gradients_close(found, gradient, TOLERANCE[dtype], parts)
        if loss == "mine":
            assert mine.log_ema.item() == pytest.approx(log_ema.item(), abs=1e-5)


def test_evaluation_repeats_and_leaves_average_and_key():
    mine = mine_fast.MINE(stack(), method="concat", marginals="all", seed=0)
    x, z = rows_of()
    mine(x, z)
    state = copy.deepcopy(mine.state_dict())
    first, second = mine.mi(x, z), mine.mi(x, z)
    assert torch.equal(first, second)
    assert all(torch.equal(state[name], value) for name, value in mine.state_dict().items())
    assert first.item() == pytest.approx(-dense(mine.T, "concat", x, z, "mine", mine.log_ema)[0].item(), abs=1e-5)


@pytest.mark.parametrize("frozen", ["first", "last"])
def test_frozen_layers_of_a_critic(frozen):
    mine = mine_fast.MINE(stack(), method="concat", marginals="all", seed=0)
    mine.T[0 if frozen == "first" else -1].requires_grad_(False)
    mine(*rows_of()).backward()
    assert all((p.grad is not None) == p.requires_grad for p in mine.parameters())


def test_dropout_is_repeated_when_a_tile_is_made_again():
    """One tile: the numbers drawn are those of one call on all pairs, and the gradient is that of the same mask."""
    T = stack(middle=nn.Dropout(0.5))
    x, z = rows_of(20)
    mine = mine_fast.MINE(T, "mine_biased", method="concat", marginals="all", seed=0)
    torch.manual_seed(5)
    loss = mine(x, z)
    found = torch.autograd.grad(loss, list(T.parameters()))
    torch.manual_seed(5)
    joint = T(torch.cat([x, z], 1))[:, 0]
    i, j = torch.arange(20).repeat_interleave(20), torch.arange(20).repeat(20)
    others = T(torch.cat([x[i], z[j]], 1)).view(20, 20)[~torch.eye(20, dtype=torch.bool)]
    wanted = reference.dv_term(torch.cat([joint, others]), 20, mine.log_ema, 0.01, "mine_biased")[0]
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-6)
    assert_gradients_close(found, [g.double() for g in torch.autograd.grad(wanted, list(T.parameters()))], 1e-5)


class RunningScale(nn.Module):
    """Divides by an average that its calls in training mode move, as a normalised critic may."""

    def __init__(self, replaces):
        super().__init__()
        self.replaces = replaces
        self.register_buffer("scale", torch.ones(()))

    def forward(self, h):
        if self.training:
            new = 0.5 * self.scale + 0.5 * h.detach().std()
            if self.replaces:
                self.scale = new
            else:
                self.scale.copy_(new)
        return h / self.scale.clone()


def normalised(kind):
    if kind == "spectral norm":
        torch.manual_seed(0)
        middle = nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16))
        return nn.Sequential(stack()[0], nn.ReLU(), middle, nn.ReLU(), nn.Linear(16, 1))
    return stack(middle=RunningScale(replaces=kind == "replaced"))


@pytest.mark.parametrize("kind", ["spectral norm", "replaced", "in place"])
def test_a_tile_made_again_finds_the_buffers_of_its_first_time(kind, monkeypatch):
    """The gradient is that of the calls as they were made, and the buffers end where these left them."""
    monkeypatch.setattr(all_pairs, "TILE_PAIRS", 61 * 7)
    x, z = rows_of()
    found, losses, ends = [], [], []
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr(all_pairs, "checkpoint", lambda tile, *rest, use_reentrant: tile(*rest))
        mine = mine_fast.MINE(normalised(kind), "mine_biased", method="concat", marginals="all", seed=0)
        loss = mine(x, z)
        found.append(torch.autograd.grad(loss, list(mine.T.parameters())))
        losses.append(loss.item())
        ends.append({name: buffer.clone() for name, buffer in mine.named_buffers()})
    assert losses[0] == losses[1]
    assert_gradients_close(found[0], [g.double() for g in found[1]], 1e-5)
    for name, buffer in ends[0].items():
        assert torch.equal(buffer, ends[1][name]), name


def test_a_scripted_critic_with_buffers_is_refused_in_training():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
    mine = mine_fast.MINE(scripted, method="concat", marginals="all")
    with pytest.raises(ValueError, match="T is a scripted module with buffers"):
        mine(*rows_of())


def test_batch_normalisation_is_refused_in_training_and_fine_in_evaluation():
    mine = mine_fast.MINE(stack(middle=nn.BatchNorm1d(16)), method="concat", marginals="all")
    with pytest.raises(ValueError, match="T has BatchNorm1d, which normalises over the rows of a call"):
        mine(*rows_of())
    assert torch.isfinite(mine.eval()(*rows_of()))


def test_noise_layers_draw_in_training_only():
    noisy = stack(middle=mine_fast.GaussianNoise(0.5))
    mine = mine_fast.MINE(noisy, method="concat", marginals="all", seed=0)
    assert not torch.equal(mine(*rows_of()), mine(*rows_of()))
    plain = mine_fast.MINE(stack(), method="concat", marginals="all", seed=0).eval()
    torch.testing.assert_close(mine.eval()(*rows_of()), plain(*rows_of()))


def test_images_with_a_critic_of_two_arguments():
    class Images(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.weight = nn.Conv2d(1, 2, 3), nn.Linear(2, 1)

        def forward(self, x, z):
            return self.convolution(x).amax((2, 3)) @ self.weight.weight.T * z

    x, z = sample(9, 1, 5, 5), sample(9, 1, seed=1)
    T = Images()
    mine = mine_fast.MINE(T, marginals="all", seed=0)
    assert mine(x, z).item() == pytest.approx(dense(T, None, x, z, "mine", mine.log_ema)[0].item(), abs=1e-5)


@pytest.mark.parametrize("loss", ["mine", "fdiv"])
def test_the_module_compiles_as_one_graph(loss, fresh_dynamo):
    eager, graph = (mine_fast.MINE(stack(), loss, 0.1, "concat", marginals="all", seed=0) for _ in range(2))
    assert_compiles_alike(eager, graph, rows_of(), steps=2)


@pytest.mark.parametrize("critic", [stack(), stack(middle=nn.LayerNorm(16))], ids=["op", "tiles"])
def test_what_is_kept_for_the_backward_does_not_grow_with_the_pairs(critic, monkeypatch):
    monkeypatch.setattr(all_pairs, "TILE_PAIRS", 1000)
    kept = {}
    for rows in (100, 400):
        sizes = {}

        def pack(t, sizes=sizes):
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        mine = mine_fast.MINE(critic, method="concat", marginals="all", seed=0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = mine(*rows_of(rows))
        kept[rows] = sum(sizes.values())
        loss.backward()
    assert kept[400] < 5 * kept[100]  # pairs grow sixteenfold


def test_interrupt_stops_the_op():
    x, z = rows_of(6000)
    T = nn.Sequential(nn.Linear(3, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 1))
    mine = mine_fast.MINE(T, method="concat", marginals="all", seed=0)  # some ten seconds, if left alone
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        mine(x, z)


# Training. ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_optimize_gives_the_parameters_of_the_torch_path(loss):
    x, z = rows_of(120)
    made = {
        name: mine_fast.MINE(stack(), loss, 0.05, "concat", marginals="all", seed=3) for name in ("native", "torch")
    }
    values = []
    for engine, mine in made.items():
        mine.log_ema.fill_(0.3)  # see `both` of test_native.py
        opt = torch.optim.Adam(mine.parameters(), lr=1e-3)
        values.append(mine.optimize(x, z, iters=10, batch_size=40, opt=opt, engine=engine))
    torch.testing.assert_close(*values, rtol=1e-3, atol=1e-4)
    native, plain = (torch.cat([p.detach().flatten() for p in m.T.parameters()])[:-1] for m in made.values())
    assert (native - plain).norm() < 1e-4 * plain.norm()
    assert torch.equal(made["native"].shuffle_key, made["torch"].shuffle_key)


def test_fit_gives_the_result_of_the_torch_path():
    x, z = rows_of(300)
    results = [
        mine_fast.MINE(stack(), method="concat", marginals="all").fit(
            x, z, steps=40, folds=2, evaluate_every=20, batch_size=32, engine=engine
        )
        for engine in ("native", "torch")
    ]
    assert results[0].mi == pytest.approx(results[1].mi, abs=1e-3)
    assert results[0].settings["marginals"] == "all"
    assert results[0].settings["shuffles"] is None


def test_the_engine_trains_noisy_critics_and_the_default_one():
    x, z = rows_of(300)
    noisy = mine_fast.MINE(stack(middle=mine_fast.GaussianNoise(0.1)), method="concat", marginals="all")
    assert critic_obstacle(noisy) is None
    short = {"steps": 30, "folds": 2, "batch_size": 32, "engine": "native"}
    assert math.isfinite(noisy.fit(x, z, **short).mi)
    assert 0.2 < mine_fast.estimate(x, z, marginals="all", **short).mi < 1.5


def test_losses_that_the_engine_has_not_train_in_torch():
    x, z = rows_of(200)
    mine = mine_fast.MINE(stack(), "infonce", method="concat", marginals="all")
    assert critic_obstacle(mine) == "loss 'infonce' is not the engine's"
    assert torch.isfinite(torch.tensor(mine.fit(x, z, steps=10, folds=2, batch_size=16).mi))


def test_one_batch_of_two_rows():
    x, z = rows_of(2)
    mine = mine_fast.MINE(stack(), "mine_biased", method="concat", marginals="all", seed=0)
    scores = mine.T(torch.cat([x[[0, 1, 0, 1]], z[[0, 1, 1, 0]]], 1))[:, 0]
    wanted = torch.logsumexp(scores[2:], 0) - math.log(2) - scores[:2].mean()
    assert mine(x, z).item() == pytest.approx(wanted.item(), abs=1e-6)


def test_bad_use_is_named():
    x, z = rows_of()
    with pytest.raises(ValueError, match="marginals must be one of shuffle, global, all, got 'every'"):
        mine_fast.MINE(stack(), marginals="every")
    with pytest.raises(ValueError, match="shuffles must be None with marginals='all'"):
        mine_fast.MINE(stack(), marginals="all", shuffles=2)
    mine = mine_fast.MINE(stack(), method="concat", marginals="all")
    with pytest.raises(ValueError, match="z_marg must be None with marginals='all'"):
        mine(x, z, z)
    with pytest.raises(ValueError, match="at least 2 rows: a batch of 1 has no marginal pairs"):
        mine(x[:1], z[:1])
    with pytest.raises(ValueError, match="shuffles must be None with marginals='all'"):
        mine.fit(x, z, shuffles=3)
    with pytest.raises(TypeError, match=r"T does not fit the data: its parameters are torch\.float32"):
        mine(x.double(), z.double())
    with pytest.raises(ValueError, match="T does not fit the data: its first layer reads 3 columns"):
        mine(x, x)
    with pytest.raises(ValueError, match="T must give one score per row"):
        mine_fast.MINE(nn.Linear(3, 2), method="concat", marginals="all")(x, z)
    assert "marginals='all'" in repr(mine)
