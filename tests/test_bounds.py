"""The bounds beside the fused ones: closed forms, gradients, ordering, and as losses of `MINE`."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from helpers import assert_compiles_alike, sample, with_outliers
from hypothesis import given
from torch import nn
from torch.nn import functional as F

import mine_fast
from mine_fast import ops
from mine_fast.bounds import infonce_loss, js_loss, smile_loss
from mine_fast.native import critic_obstacle

TORCH_LOSSES = ("js", "infonce", "smile")
BY_NAME = {"js": js_loss, "infonce": infonce_loss, "smile": smile_loss}


def gaussian(rows, rho, seed=0):
    x, noise = sample(2, rows, seed=seed, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def information(rho):
    return -0.5 * math.log(1 - rho**2)


def exact_scores(rows, rho, shuffles, seed=0):
    """The log density ratio of Gaussian pairs, of joint pairs and of `shuffles` independent ones a row."""

    def log_ratio(x, y):
        return information(rho) - 0.5 * ((x**2 + y**2 - 2 * rho * x * y) / (1 - rho**2) - x**2 - y**2)

    x, y = gaussian(rows, rho, seed)
    others = sample(shuffles, rows, seed=seed + 1000, dtype=torch.float64)
    return torch.cat([log_ratio(x, y), log_ratio(x, others).flatten()])


def stack(x_width=2, z_width=1, hidden=16, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(x_width + z_width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, 1)
    ).to(dtype)


def batch(rows=32, dtype=torch.float32):
    x = sample(rows, 2, dtype=torch.float64)
    return x.to(dtype), (x[:, :1] + sample(rows, 1, seed=1, dtype=torch.float64)).to(dtype)


# Values. --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [-7.0, 0.0, 1.5, 9.0])
def test_a_constant_critic(c):
    """Every bound of T = c by hand; only InfoNCE takes no notice of c."""
    scores = torch.full((12,), c, dtype=torch.float64)
    assert js_loss(scores, 4).item() == pytest.approx(math.exp(c) - 1 - c)
    assert smile_loss(scores, 4).item() == pytest.approx(max(-5, min(5, c)) - c)
    assert smile_loss(scores, 4, clip=math.inf).item() == pytest.approx(0)
    assert infonce_loss(scores, 4).item() == pytest.approx(0)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_the_exact_critic_attains_the_information(rho):
    """In expectation, of the bounds without a cap; 0.8 is where exp T still has a fourth of its variance in reach."""
    rows = 200_000
    scores = exact_scores(rows, rho, 1)
    joint, weight = scores[:rows], torch.exp(scores[rows:])
    # Joint and marginal pairs share x: their influence is taken row by row.
    stderr = float((joint - weight).std()) / math.sqrt(rows)
    values = {
        "js": -js_loss(scores, rows),
        "smile": -smile_loss(scores, rows, clip=math.inf),
        "nwj": -ops.dv_loss_of_scores(scores + 1, rows, loss="fdiv").loss,
    }
    for name, value in values.items():
        assert abs(float(value) - information(rho)) <= 4 * stderr + 1e-12, name


@pytest.mark.parametrize(("rho", "bias"), [(0.8, -0.028), (0.99, 0.318)])
def test_clipped_smile_of_the_exact_critic_errs_to_either_side(rho, bias):
    """Against E[exp(clip(T))] by a quadrature over two normal distributions: it is no bound on the information."""
    clip, rows = 1.0, 200_000
    scores = exact_scores(rows, rho, 1)
    grid = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    weight = torch.exp(-0.5 * grid**2) / torch.exp(-0.5 * grid**2).sum()
    x, y = grid[:, None], grid[None]
    ratio = information(rho) - 0.5 * ((x**2 + y**2 - 2 * rho * x * y) / (1 - rho**2) - x**2 - y**2)
    expected = information(rho) - math.log(float(weight @ torch.exp(ratio.clamp(-clip, clip)) @ weight))
    clipped = torch.exp(scores[rows:].clamp(-clip, clip))
    stderr = float((scores[:rows] - clipped / clipped.mean()).std()) / math.sqrt(rows)
    assert abs(-smile_loss(scores, rows, clip).item() - expected) < 4 * stderr
    assert expected - information(rho) == pytest.approx(bias, abs=0.001)


def test_infonce_with_many_candidates_attains_the_information():
    rows, shuffles, rho = 2000, 1000, 0.5
    scores = exact_scores(rows, rho, shuffles)
    candidates = scores.view(-1, rows)
    per_row = scores[:rows] - torch.logsumexp(candidates, 0) + math.log(1 + shuffles)
    # What S candidates cost is about var(exp T) / 2S, here 1/6 of the standard error.
    assert abs(-infonce_loss(scores, rows).item() - information(rho)) < 4 * float(per_row.std()) / math.sqrt(rows)


@pytest.mark.parametrize("shuffles", [1, 4, 40])
def test_infonce_of_equal_symbols_by_counting(shuffles):
    """X = Y uniform on m symbols: with the symbol in k of S candidates, binomial, a row gives log (S+1)/(k+1)."""
    m, rows = 10, 50_000
    generator = torch.Generator().manual_seed(0)
    same = torch.rand(shuffles, rows, generator=generator, dtype=torch.float64) < 1 / m
    scores = torch.cat([torch.full((1, rows), math.log(m)).double(), torch.where(same, math.log(m), -800.0)]).flatten()
    terms = [math.log((shuffles + 1) / (k + 1)) for k in range(shuffles + 1)]
    chances = [math.comb(shuffles, k) * (1 / m) ** k * (1 - 1 / m) ** (shuffles - k) for k in range(shuffles + 1)]
    mean = sum(p * t for p, t in zip(chances, terms, strict=True))
    stderr = math.sqrt(sum(p * (t - mean) ** 2 for p, t in zip(chances, terms, strict=True)) / rows)
    value = -infonce_loss(scores, rows).item()
    assert abs(value - mean) < 4 * stderr
    assert value < min(math.log(1 + shuffles), math.log(m))


def test_infonce_takes_no_notice_of_a_function_of_x_and_ends_at_its_cap():
    scores = sample(8 * 5, seed=3, dtype=torch.float64).view(8, 5)  # 7 shuffles of 5 rows
    shifted = scores + 30 * torch.arange(5.0, dtype=torch.float64)
    torch.testing.assert_close(infonce_loss(shifted.flatten(), 5), infonce_loss(scores.flatten(), 5))
    scores[0] += 1e4
    assert infonce_loss(scores.flatten(), 5).item() == pytest.approx(-math.log(8))


def test_infonce_pairs_candidates_with_their_row():
    scores = torch.tensor([1.0, 2.0, 10.0, 20.0, 100.0, 200.0])  # rows 0 and 1, then two shuffles of them
    rows = [torch.tensor([1.0, 10.0, 100.0]), torch.tensor([2.0, 20.0, 200.0])]
    expected = sum(float(torch.logsumexp(r, 0) - math.log(3) - r[0]) for r in rows) / 2
    assert infonce_loss(scores, 2).item() == pytest.approx(expected)


@given(st.integers(0, 10_000), st.floats(0.0, 8.0), st.floats(-4.0, 4.0))
def test_order_of_the_bounds_on_any_scores(seed, spread, level):
    """NWJ of 1 + T is at most Donsker-Varadhan, equal where E exp T is 1; a lower clip never raises a value."""
    scores = spread * sample(30, seed=seed, dtype=torch.float64) + level
    dv = -ops.dv_loss_of_scores(scores, 10, loss="mine_biased").loss
    assert -js_loss(scores, 10) <= dv + 1e-9
    assert torch.isclose(-smile_loss(scores, 10, math.inf), dv)
    marginal = scores[10:]
    normalised = torch.cat([scores[:10], marginal]) - (torch.logsumexp(marginal, 0) - math.log(20))
    assert torch.isclose(-js_loss(normalised, 10), dv)
    assert -infonce_loss(scores, 10) <= math.log(3) + 1e-12


# Gradients and dtypes. ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [js_loss, smile_loss])
def test_gradient_is_that_of_the_cross_entropy(loss):
    scores = with_outliers(sample(90, seed=2, dtype=torch.float64), 30.0).requires_grad_()
    (grad,) = torch.autograd.grad(loss(scores, 30), scores, torch.tensor(1.7, dtype=torch.float64))
    labels = (torch.arange(90) < 30).double()
    weights = torch.where(labels > 0, 1 / 30, 1 / 60)
    objective = F.binary_cross_entropy_with_logits(scores, labels, weights, reduction="sum")
    (expected,) = torch.autograd.grad(1.7 * objective, scores)
    torch.testing.assert_close(grad, expected)


def test_gradients_to_second_order():
    scores = sample(24, seed=5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: infonce_loss(s, 6), scores)
    assert torch.autograd.gradgradcheck(lambda s: infonce_loss(s, 6), scores)
    for loss in (js_loss, smile_loss):  # whose first derivative is another function's: that derivative's own is right
        assert torch.autograd.gradcheck(
            lambda s, loss=loss: torch.autograd.grad(loss(s, 6), s, create_graph=True)[0], scores
        )


@pytest.mark.parametrize("name", TORCH_LOSSES)
@pytest.mark.parametrize("size", [200.0, 1e4])
def test_scores_beyond_exp(name, size):
    scores = with_outliers(sample(400), size)
    if name == "js":  # whose value is an exp; its gradient is not
        assert js_loss(scores, 100) == math.inf
    else:
        exact = BY_NAME[name](scores.double(), 100)
        torch.testing.assert_close(BY_NAME[name](scores, 100).double(), exact, rtol=1e-5, atol=1e-5)
    a, b = (s.requires_grad_() for s in (scores.clone(), scores.double()))
    (grad,) = torch.autograd.grad(BY_NAME[name](a, 100), a)
    (expected,) = torch.autograd.grad(BY_NAME[name](b, 100), b)
    assert grad.abs().max() > 0
    torch.testing.assert_close(grad.double(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", TORCH_LOSSES)
def test_half_scores_are_summed_in_float32(name, dtype):
    """As many rows as would leave a sum in 8 or 11 bits standing still."""
    scores = sample(40_000, 1).to(dtype).requires_grad_()
    loss = BY_NAME[name](scores, 10_000)
    assert loss.dtype == torch.float32
    exact = BY_NAME[name](scores.detach().double(), 10_000)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(loss, scores)
    assert grad.dtype == dtype
    assert grad.shape == scores.shape


@pytest.mark.parametrize("loss", BY_NAME.values())
def test_scores_that_do_not_fit(loss):
    with pytest.raises(TypeError, match="scores must"):
        loss(torch.arange(4), 2)
    for rows in (0, 4):
        with pytest.raises(ValueError, match="scores must hold joint and marginal scores, got 4 scores"):
            loss(torch.zeros(4), rows)


def test_infonce_needs_as_many_candidates_for_every_row():
    with pytest.raises(ValueError, match="as many marginal scores for every joint row, got 3 for 2"):
        infonce_loss(torch.zeros(5), 2)


# As losses of MINE. ---------------------------------------------------------------------------------------------------


def test_nwj_is_another_name_of_fdiv():
    x, z = batch()
    one, other = (mine_fast.MINE(stack(), loss, method="concat", seed=1) for loss in ("fdiv", "nwj"))
    a, b = one(x, z), other(x, z)
    a.backward()
    b.backward()
    assert torch.equal(a, b)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert critic_obstacle(other) is None
    fits = [mine.fit(x.repeat(4, 1), z.repeat(4, 1), steps=30, folds=2, seed=0) for mine in (one, other)]
    assert fits[0].mi == fits[1].mi


@pytest.mark.parametrize("loss", TORCH_LOSSES)
def test_module_gives_the_bound_of_its_scores_and_keeps_no_average(loss):
    x, z = batch()
    layers = stack()
    mine = mine_fast.MINE(layers, loss, method="concat", shuffles=3, seed=4)
    key = mine.shuffle_key.clone()
    scores = layers(ops.pair(x, z, key, 3))
    torch.testing.assert_close(mine(x, z), BY_NAME[loss](scores, 32))
    assert torch.equal(mine.shuffle_key, key + torch.tensor([0, 1]))
    assert mine.log_ema == -math.inf
    torch.testing.assert_close(mine.mi(x, z), mine.mi(x, z))
    given = -BY_NAME[loss](torch.cat([layers(torch.cat([x, z], 1)), layers(torch.cat([x, z.flip(0)], 1))]), 32)
    torch.testing.assert_close(mine.mi(x, z, z.flip(0)), given.detach())


def test_clip_is_smiles():
    x, z = batch()
    critic = lambda x, z: 20 * z  # noqa: E731
    narrow, wide = (mine_fast.MINE(critic, "smile", clip=clip, seed=0) for clip in (1.0, math.inf))
    assert narrow.mi(x, z) > wide.mi(x, z) + 1
    assert "clip=1" in repr(narrow)


def test_infonce_takes_fifteen_candidates_and_no_more_than_there_are_rows():
    mine = mine_fast.MINE(lambda x, z: 60 * (x == z).double(), "infonce", seed=0)
    rows = torch.arange(64.0)
    assert mine.shuffles == 15
    assert mine.mi(rows, rows).item() == pytest.approx(math.log(16))
    assert mine.mi(rows[:5], rows[:5]).item() == pytest.approx(math.log(5))
    assert mine_fast.MINE(stack(), "js").shuffles == 1


@pytest.mark.parametrize("loss", [*TORCH_LOSSES, "nwj"])
def test_compiles_as_one_graph(loss, fresh_dynamo):
    eager, graph = (mine_fast.MINE(stack(), loss, method="concat", seed=2) for _ in range(2))
    assert_compiles_alike(eager, graph, batch(), steps=2)


@pytest.mark.parametrize("loss", TORCH_LOSSES)
def test_autocast_keeps_the_loss_in_float32(loss):
    x, z = batch(64)
    full, mixed = (mine_fast.MINE(stack(), loss, method="concat", seed=2) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        value = mixed(x, z)
    assert value.dtype == torch.float32
    value.backward()
    expected = full(x, z)
    expected.backward()
    assert abs(value.item() - expected.item()) < 0.02  # bfloat16 has 8 bits
    a, b = (torch.cat([p.grad.flatten() for p in mine.parameters()]) for mine in (full, mixed))
    assert F.cosine_similarity(a, b, dim=0) > 0.99


@pytest.mark.parametrize("loss", TORCH_LOSSES)
def test_the_engine_says_which_losses_are_not_its_own(loss):
    mine = mine_fast.MINE(stack(), loss, method="concat")
    assert critic_obstacle(mine) == f"loss {loss!r} is not the engine's"
    x, z = batch(200)
    with pytest.raises(ValueError, match=f"engine='native' cannot train this: loss '{loss}' is not the engine's"):
        mine.fit(x, z, engine="native")
    assert math.isfinite(mine.optimize(x, z, iters=1))  # "auto" takes torch


# Estimates. -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [*TORCH_LOSSES, "nwj"])
def test_fit_reads_the_same_bound_whatever_the_loss(loss):
    x, y = gaussian(2000, 0.9, seed=1)
    r = mine_fast.estimate(x, y, loss=loss, steps=200, folds=2)
    assert abs(r.mi - information(0.9)) < 0.08
    assert r.settings["loss"] == loss
    assert r.p_value < 1e-4
    assert r.flags == ()


def test_fit_takes_off_the_level_that_infonce_leaves_open():
    """A critic with a function of x on top, which the loss does not see and no training takes away."""

    class Lifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = stack(1, 1, 64)

        def forward(self, x, y):
            return self.layers(torch.cat([x, y], 1)) + 6 * x

    x, y = gaussian(2000, 0.9, seed=1)
    settings = dict(steps=200, folds=2, learning_rate=3e-3)
    r = mine_fast.MINE(Lifted(), "infonce", seed=0).fit(x, y, **settings)
    assert abs(r.mi - information(0.9)) < 0.1
    assert r.p_value < 1e-4
