"""The native engine behind `MINE`: the same numbers as the torch path, and a way back to torch."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import os
import signal
import threading

import numpy as np
import pytest
import torch
from torch import nn

import mine_fast
from mine_fast.native import critic_obstacle, use_engine

LOSSES = ("mine", "mine_biased", "fdiv")


def data(rows=301, x_width=2, y_width=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, x_width, generator=generator)
    return x, x[:, :1] + 0.5 * torch.randn(rows, y_width, generator=generator)


def stack(activation=None, x_width=2, y_width=1, hidden=(17, 8)):
    torch.manual_seed(1)
    widths = [x_width + y_width, *hidden]
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), activation or nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


def both(critic, loss="mine", shuffles=1, seed=3):
    """Two MINE modules of equal state, one for each engine.

    Their average starts somewhere: where the first batch starts it, the output bias has a gradient of zero but for
    rounding, of which Adam makes a full step of either sign. That constant in the scores does not change the loss, but
    meets the average in the next step, and both paths (as any two that round differently) part by the learning rate.
    """
    made = [mine_fast.MINE(copy.deepcopy(critic), loss, 0.05, "concat", shuffles=shuffles, seed=seed) for _ in range(2)]
    for mine in made:
        mine.log_ema.fill_(0.3)
    return made


def relative_difference(a, b):
    """Of all parameters but the output bias, whose gradient is zero but for rounding with mine_biased."""
    a, b = (torch.cat([p.detach().flatten() for p in list(m.parameters())[:-1]]) for m in (a, b))
    return float((a - b).norm() / b.norm())


ACTIVATIONS = [
    nn.ReLU(),
    nn.LeakyReLU(0.2),
    nn.ELU(0.7),
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.SiLU(),
    nn.Tanh(),
]


DECOUPLED = functools.partial(torch.optim.Adam, decoupled_weight_decay=True)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, DECOUPLED])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_optimize_gives_the_parameters_of_the_torch_path(activation, optimizer):
    x, y = data()
    native, plain = both(stack(activation), shuffles=2)
    values = []
    for mine, engine in ((native, "native"), (plain, "torch")):
        opt = optimizer(mine.parameters(), lr=1e-3, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.5)
        values.append(mine.optimize(x, y, iters=25, batch_size=64, opt=opt, engine=engine))  # 100 steps
    assert relative_difference(native, plain) < 1e-4
    torch.testing.assert_close(*values, rtol=1e-3, atol=1e-4)
    assert torch.equal(native.shuffle_key, plain.shuffle_key)
    torch.testing.assert_close(native.log_ema, plain.log_ema, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_training_goes_on_in_torch_where_the_engine_stopped_and_back(loss):
    """The optimiser's moments, the average and the shuffles are handed over, both ways."""
    x, y = data()
    native, plain = both(stack(nn.Tanh()), loss)
    optimizers = [torch.optim.Adam(m.parameters(), lr=2e-3) for m in (native, plain)]
    for engine in ("native", "torch", "native"):
        native.optimize(x, y, iters=5, batch_size=50, opt=optimizers[0], engine=engine)
        plain.optimize(x, y, iters=5, batch_size=50, opt=optimizers[1], engine="torch")
        assert relative_difference(native, plain) < 1e-4, engine
    for a, b in list(zip(native.parameters(), plain.parameters(), strict=True))[:-1]:
        for key in ("step", "exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(optimizers[0].state[a][key], optimizers[1].state[b][key], rtol=1e-2, atol=1e-6)
    native(x, y).backward()
    optimizers[0].step()


@pytest.mark.parametrize("loss", LOSSES)
def test_fit_gives_the_result_of_the_torch_path(loss):
    x, y = data(400)
    results = [
        mine_fast.MINE(stack(nn.SiLU()), loss, method="concat").fit(
            x, y, steps=60, folds=2, evaluate_every=25, batch_size=64, engine=engine
        )
        for engine in ("native", "torch")
    ]
    assert results[0].mi == pytest.approx(results[1].mi, abs=1e-3)
    assert results[0].stderr == pytest.approx(results[1].stderr, abs=1e-3)
    for a, b in zip(results[0].history.train, results[1].history.train, strict=True):
        assert a == pytest.approx(b, abs=1e-3, nan_ok=True)


def test_estimate_uses_the_engine_by_itself(monkeypatch):
    from mine_fast import training

    def refuse(*_):
        raise AssertionError("the torch path was taken")

    monkeypatch.setattr(training, "TorchSteps", refuse)
    x, y = data(200)
    mine_fast.estimate(x, y, steps=20, folds=2)
    with pytest.raises(AssertionError, match="torch path"):
        mine_fast.estimate(x, y, steps=20, folds=2, engine="torch")
    with pytest.raises(AssertionError, match="torch path"):
        mine_fast.estimate(torch.utils.data.TensorDataset(x, y), steps=20, folds=2)


class Subclass(nn.Linear):
    pass


def changed(change):
    critic = stack()
    change(critic)
    return critic


OBSTACLES = [
    (lambda x, z: x.sum(1), None, "not a torch.nn.Sequential"),
    (stack(), None, "method='concat'"),
    (nn.Sequential(Subclass(3, 1)), "concat", "not a torch.nn.Sequential of Linear"),
    (nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1)), "concat", "not a torch.nn.Sequential of Linear"),
    (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)), "concat", "LayerNorm where the engine knows"),
    (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 1)), "concat", "Tanh where"),
    (nn.Sequential(nn.ReLU(), nn.Linear(3, 1)), "concat", "ReLU where"),
    (
        nn.Sequential(nn.Linear(3, 4), mine_fast.GaussianNoise(1), nn.ReLU(), nn.Linear(4, 1)),
        "concat",
        "ReLU where",
    ),
    (
        nn.Sequential(mine_fast.GaussianNoise(1), mine_fast.GaussianNoise(1), *stack()),
        "concat",
        "GaussianNoise where",
    ),
    (nn.Sequential(*stack(), mine_fast.GaussianNoise(1)), "concat", "does not end in a Linear"),
    (nn.Sequential(mine_fast.GaussianNoise(1).eval(), *stack()), "concat", "in evaluation mode"),
    (nn.Sequential(nn.Linear(3, 1), nn.Tanh()), "concat", "does not end in a Linear"),
    (nn.Sequential(nn.Linear(3, 1)), "concat", "no hidden layer"),
    (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), "concat", "with one output"),
    (nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 1)), "concat", "no bias"),
    (stack().double(), "concat", "torch.float64 on cpu"),
    (nn.Sequential(tied := nn.Linear(3, 3), nn.ReLU(), tied, nn.ReLU(), nn.Linear(3, 1)), "concat", "share parameters"),
    (changed(lambda T: T[0].weight.register_hook(lambda g: 2 * g)), "concat", "parameter of T has hooks"),
    (
        changed(lambda T: T[0].weight.register_post_accumulate_grad_hook(lambda p: None)),
        "concat",
        "parameter of T has hooks",
    ),
    (changed(lambda T: T[0].register_full_backward_hook(lambda *_: None)), "concat", "free of hooks"),
    (changed(lambda T: T[0].register_full_backward_pre_hook(lambda *_: None)), "concat", "free of hooks"),
    (changed(lambda T: setattr(T[1], "forward", torch.sigmoid)), "concat", "free of hooks"),
]


@pytest.mark.parametrize(("critic", "method", "reason"), OBSTACLES)
def test_what_the_engine_cannot_train_is_said(critic, method, reason):
    mine = mine_fast.MINE(critic, method=method)
    assert reason in critic_obstacle(mine)
    with pytest.raises(ValueError, match="engine='native' cannot train this"):
        mine.optimize(*data(40), iters=1, engine="native", opt=torch.optim.Adam(stack().parameters()))


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), "SGD, not Adam"),
        (lambda p: torch.optim.Adam(p, amsgrad=True), "amsgrad"),
        (lambda p: torch.optim.Adam(p[1:]), "exactly the parameters"),
        (lambda p: torch.optim.Adam([{"params": p[:1]}, {"params": p[1:]}]), "several parameter groups"),
        (lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-3)), "learning rate in a tensor"),
        (lambda p: torch.optim.lr_scheduler.StepLR(torch.optim.Adam(p), 1).optimizer, "opt.step is wrapped"),
    ],
)
def test_optimisers_that_the_engine_cannot_stand_in_for(optimizer, reason):
    mine = mine_fast.MINE(stack(), method="concat")
    opt = optimizer(list(mine.parameters()))
    with pytest.raises(ValueError, match=reason):
        mine.optimize(*data(40), iters=1, opt=opt, engine="native")
    assert torch.isfinite(mine.optimize(*data(40), iters=1, opt=opt))  # by torch


def test_unknown_engine():
    with pytest.raises(ValueError, match="engine must be one of auto, native, torch, graph, got 'cuda'"):
        mine_fast.estimate(*data(40), engine="cuda")
    with pytest.raises(ValueError, match="engine must be one of"):
        use_engine("fast", None)


def test_divergence_is_the_same_error():
    mine = mine_fast.MINE(stack(x_width=1), method="concat")
    x = torch.randn(64, 1)
    with pytest.raises(mine_fast.DivergenceError, match="diverged"):
        mine.optimize(x, x, iters=50, opt=torch.optim.Adam(mine.parameters(), lr=1e20), engine="native")
    critic = stack(x_width=1)
    with pytest.raises(mine_fast.DivergenceError, match="lower learning_rate"):
        mine_fast.MINE(critic, method="concat").fit(x, x, learning_rate=1e30, max_grad_norm=1e30, engine="native")


def test_interrupt_stops_and_keeps_the_steps_made():
    x, y = data(200)
    mine = mine_fast.MINE(stack(hidden=(16,)), method="concat", seed=0)  # quick steps, under a sanitizer too
    mine.optimize(x, y, iters=1, batch_size=50, engine="native")  # what is done once is done
    begin = int(mine.shuffle_key[1])
    before = copy.deepcopy(mine.T.state_dict())
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        mine.optimize(x, y, iters=500_000, batch_size=50, engine="native")
    assert begin < int(mine.shuffle_key[1]) < 2_000_000
    assert all(torch.isfinite(p).all() for p in mine.parameters())
    assert any(not torch.equal(before[k], v) for k, v in mine.T.state_dict().items())


def test_four_threads_at_once_give_what_one_gives():
    x, y = data(300)
    expected = mine_fast.estimate(x, y, steps=40, folds=2, seed=5).mi
    found = [math.nan] * 4

    def work(slot):
        found[slot] = mine_fast.estimate(x, y, steps=40, folds=2, seed=5).mi

    workers = [threading.Thread(target=work, args=(slot,)) for slot in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("marginals", ["shuffle", "all"])
@pytest.mark.parametrize("bias", [95.0, 110.0])
def test_a_loss_that_no_float_holds_leaves_everything_as_it_was(bias, marginals):
    """As a double the loss of "fdiv" is finite far beyond; its gradient is not."""
    critic = stack()
    with torch.no_grad():
        critic[-1].bias.fill_(bias)
    mine = mine_fast.MINE(critic, "fdiv", method="concat", marginals=marginals, seed=0)
    before = copy.deepcopy(critic.state_dict())
    with pytest.raises(mine_fast.DivergenceError, match="the state before that step is kept"):
        mine.optimize(*data(100), iters=2, batch_size=50, engine="native")
    for name, value in critic.state_dict().items():
        assert torch.equal(value, before[name]), name
