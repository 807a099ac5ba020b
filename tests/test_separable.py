"""The separable critic: its scores, all pairs of a batch as a loss, and both engines."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import mine_fast
from mine_fast.native import critic_obstacle

LOSSES = ("mine", "mine_biased", "fdiv", "js", "smile", "infonce")


def data(rows=301, x_width=2, y_width=1, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, x_width, generator=generator, dtype=dtype)
    return x, x[:, :1] + 0.5 * torch.randn(rows, y_width, generator=generator, dtype=dtype)


def critic(x_width=2, y_width=1, **given):
    return mine_fast.SeparableCritic(
        x_width, y_width, **{"hidden": (17, 8), "outputs": 5, "generator": seeded(), **given}
    )


def seeded():
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_all_pairs_are_every_other_row_once(rows):
    made = critic().double()
    x, y = data(rows, dtype=torch.float64)
    scores = made.all_pairs(x, y).view(rows, rows)
    each = torch.stack([made(x, y.roll(-s, 0)) for s in range(rows)])  # row s: the pairs (x_i, y_(i + s))
    torch.testing.assert_close(scores, each)
    torch.testing.assert_close(scores[0], made(x, y))


@pytest.mark.parametrize("loss", LOSSES)
def test_training_uses_all_other_pairs(loss):
    x, y = data(9, dtype=torch.float64)
    made = critic().double()
    mine = mine_fast.MINE(copy.deepcopy(made), loss, seed=0).double()
    mine.log_ema.fill_(0.2)
    value = mine(x, y)
    value.backward()
    # The same pairs, given one after the other to a critic that nothing is known of.
    f, g = made.factors(x, y)
    matrix = f @ g.T
    joint, other = matrix.diagonal(), matrix[~torch.eye(9, dtype=torch.bool)]
    if loss == "infonce":
        wanted = (torch.logsumexp(matrix, 1) - math.log(9) - joint).mean()
    elif loss in ("js", "smile"):
        wanted = getattr(mine_fast.bounds, f"{loss}_loss")(torch.cat([joint, other]), 9)
    else:
        log_ema = torch.tensor(0.2, dtype=torch.float64)
        wanted = mine_fast.reference.dv_term(torch.cat([joint, other]), 9, log_ema, 0.01, loss)[0]
    torch.testing.assert_close(value, wanted.detach())
    wanted.backward()
    for ours, theirs in zip(mine.T.parameters(), made.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_evaluation_draws_shuffles():
    """All pairs of a hundred thousand rows would not fit any memory."""
    x, y = data(100_000)
    mine = mine_fast.MINE(critic())
    assert math.isfinite(mine.mi(x, y))


def test_a_subclass_with_a_forward_of_its_own_is_a_critic_like_any_other():
    class Scaled(mine_fast.SeparableCritic):
        def forward(self, x, y):
            return 2 * super().forward(x, y)

    x, y = data(50)
    made = Scaled(2, 1)
    mine = mine_fast.MINE(made, seed=0)
    shuffled = mine_fast.ops.marginal_shuffle(y, mine.shuffle_key, 1)[0]
    with torch.no_grad():
        wanted = torch.logsumexp(made(x, shuffled), 0) - math.log(50) - made(x, y).mean()
    torch.testing.assert_close(mine(x, y).detach(), wanted)
    assert "nor a SeparableCritic" in (critic_obstacle(mine) or "")


@pytest.mark.parametrize("loss", LOSSES[:3])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_optimize_gives_the_parameters_of_the_torch_path(loss, optimizer):
    x, y = data()
    made = [mine_fast.MINE(critic(), loss, 0.05, seed=3) for _ in range(2)]
    for mine, engine in zip(made, ("native", "torch"), strict=True):
        mine.log_ema.fill_(0.3)
        opt = optimizer(mine.parameters(), lr=1e-3, weight_decay=0.01)
        mine.optimize(x, y, iters=25, batch_size=64, opt=opt, engine=engine)  # 100 steps
        opt.zero_grad()
        mine(x[:64], y[:64]).backward()
        opt.step()  # goes on from the moments that came back
    native, plain = made
    # But the biases of the last layers: a constant in T has a gradient of zero but for rounding.
    for (name, a), b in zip(native.T.named_parameters(), plain.T.parameters(), strict=True):
        if name not in ("x_tower.4.bias", "y_tower.4.bias"):
            assert float((a - b).detach().norm() / b.detach().norm()) < 1e-4, name
    torch.testing.assert_close(native.log_ema, plain.log_ema, rtol=1e-3, atol=1e-3)
    assert torch.equal(native.shuffle_key, plain.shuffle_key)


def test_fit_estimates_and_both_engines_agree():
    rows, rho = 1500, 0.9
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(rows, 1, generator=generator)
    y = rho * x + math.sqrt(1 - rho**2) * torch.randn(rows, 1, generator=generator)
    found = [
        mine_fast.MINE(mine_fast.SeparableCritic(1, 1, generator=seeded())).fit(x, y, steps=150, folds=2, engine=engine)
        for engine in ("native", "torch")
    ]
    assert abs(found[0].mi - 0.830) < max(0.08, 3 * found[0].stderr)
    assert found[0].mi == pytest.approx(found[1].mi, abs=0.01)


def test_state_and_copies():
    x, y = data(40)
    made = critic()
    other = critic(generator=torch.Generator().manual_seed(2))
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(x, y), made(x, y))
    assert torch.equal(copy.deepcopy(made)(x, y), made(x, y))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.T.x_tower.insert(1, mine_fast.GaussianNoise(0.1)), "GaussianNoise|noise"),
        (lambda m: m.T.x_tower.__setitem__(1, nn.Softplus()), "Softplus"),
        (lambda m: m.T.double(), "float64"),
        (lambda m: m.T.y_tower[0].weight.requires_grad_(False), "frozen"),
        (lambda m: m.T.y_tower.register_forward_hook(lambda *a: None), "hooks"),
        (lambda m: m.T.y_tower.eval(), "evaluation mode"),
        (lambda m: setattr(m.T.y_tower[2], "weight", m.T.x_tower[2].weight), "share"),
    ],
)
def test_what_the_engine_cannot_train_is_said(change, reason):
    mine = mine_fast.MINE(critic())
    assert critic_obstacle(mine) is None
    change(mine)
    obstacle = critic_obstacle(mine)
    assert obstacle is not None
    assert any(part in obstacle for part in reason.split("|"))


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_rows_that_do_not_fit(engine):
    x, y = data()
    with pytest.raises(ValueError, match="does not fit"):
        mine_fast.MINE(critic(3, 1)).optimize(x, y, iters=1, engine=engine)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"x_width": 0}, ValueError),
        ({"hidden": ()}, ValueError),
        ({"hidden": (4.5,)}, TypeError),
        ({"outputs": 0}, ValueError),
        ({"activation": "relu"}, TypeError),
    ],
)
def test_bad_arguments(given, error):
    with pytest.raises(error):
        mine_fast.SeparableCritic(**{"x_width": 2, "y_width": 1, **given})


def test_default_dtype_and_device_do_not_matter():
    with torch.device("meta"):
        made = mine_fast.SeparableCritic(2, 1)
    assert next(made.parameters()).device.type == "cpu"
    assert np.isfinite(made(*data(3)).detach().numpy()).all()


class Turned(nn.Module):
    """A tower that is no perceptron: phi is y turned by a learned angle, its offset minus half its square."""

    def __init__(self):
        super().__init__()
        self.angle = nn.Parameter(torch.tensor(0.3))

    def forward(self, y):
        phi = torch.stack([self.angle.cos() * y[:, 0], self.angle.sin() * y[:, 0]], 1)
        return torch.cat([phi, -phi.square().sum(1, keepdim=True) / 2], 1)


def test_a_tower_of_ones_own_is_trained_in_torch_on_all_pairs():
    x, y = data(20)
    made = critic(outputs=2)
    made.y_tower = Turned()
    mine = mine_fast.MINE(made, "infonce", marginals="all", seed=0)
    assert critic_obstacle(mine_fast.MINE(made)) is not None
    loss = mine(x, y)
    loss.backward()
    matrix = torch.stack([made(x, row.expand(20, 1)) for row in y], 1)
    torch.testing.assert_close(loss, (torch.logsumexp(matrix, 1) - math.log(20) - matrix.diagonal()).mean())
    assert made.y_tower.angle.grad.abs() > 1e-6
    before = made.y_tower.angle.item()
    mine_fast.MINE(made).optimize(x, y, iters=1, batch_size=20)
    assert made.y_tower.angle.item() != before
