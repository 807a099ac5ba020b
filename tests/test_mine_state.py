"""What `MINE` keeps between calls: modes, weights to start from, the moving average, seeds, and what is saved."""

from __future__ import annotations

import copy
import math
import pickle
import threading

import pytest
import torch
from torch import nn

import mine_fast

QUICK = {"steps": 40, "folds": 2, "evaluate_every": 20}


def stack(x_width=1, z_width=1, hidden=16):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(x_width + z_width, hidden), nn.ReLU(), nn.Linear(hidden, 1))


def pairs(rows=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 1, generator=generator)
    return x, x + torch.randn(rows, 1, generator=generator)


class OwnCritic(nn.Module):
    """T(x, z) with dropout and a batch normalisation, which differ between the modes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1))

    def forward(self, x, z):
        return self.layers(torch.cat([x, z], 1))


# Modes ----------------------------------------------------------------------------------------------------------------


def test_evaluation_mode_repeats_its_number_and_moves_nothing():
    mine = mine_fast.MINE(stack(), method="concat", seed=0)
    x, z = pairs()
    mine(x, z)
    state = copy.deepcopy(mine.state_dict())
    mine.eval()
    assert mine(x, z) == mine(x, z)
    for name, value in mine.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_mi_evaluates_without_dropout_and_gives_every_part_its_mode_back():
    mine = mine_fast.MINE(OwnCritic(), seed=0)
    mine.T.layers[1].eval()  # a caller's own choice
    before = copy.deepcopy(mine.state_dict())
    x, z = pairs()
    assert mine.mi(x, z) == mine.mi(x, z)
    assert [part.training for part in mine.T.layers] == [True, False, True, True, True]
    for name, value in mine.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_optimize_trains_whatever_the_mode(engine):
    trained = []
    for evaluating in (False, True):
        mine = mine_fast.MINE(stack(), method="concat", seed=0).train(not evaluating)
        mine.optimize(*pairs(), iters=5, batch_size=64, engine=engine)
        assert mine.training is not evaluating
        trained.append(mine)
    assert math.isfinite(trained[1].log_ema)
    for a, b in zip(*(mine.parameters() for mine in trained), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_second_optimize_visits_the_rows_in_another_order(engine):
    """One batch a pass, no pair drawn twice: a repeated order would repeat the batch of the first call."""
    x, z = pairs(8)
    seen = []

    def note(_, arguments):
        seen.append(arguments[0].detach().clone())

    mine = mine_fast.MINE(stack(), method="concat", seed=0)
    if engine == "torch":
        mine.T.register_forward_pre_hook(note)
        for _ in range(2):
            mine.optimize(x, z, iters=1, batch_size=4, engine=engine)
        first, second = seen[0], seen[len(seen) // 2]
        assert not torch.equal(first, second)
    mines = [mine_fast.MINE(stack(), method="concat", seed=0) for _ in range(2)]
    for mine, chosen in zip(mines, (engine, "torch"), strict=True):
        mine.log_ema.fill_(0.3)  # where the first batch sets it, the output bias has a gradient of rounding alone
        for _ in range(2):
            mine.optimize(x, z, iters=3, batch_size=4, engine=chosen)
    for a, b in zip(*(mine.parameters() for mine in mines), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


class Frozen(nn.Module):
    """A stack whose normalisation, or another part, the caller has frozen."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.normalise, self.drop = nn.BatchNorm1d(2), nn.Dropout(0.5)
        self.rest = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x, z):
        return self.rest(self.drop(self.normalise(torch.cat([x, z], 1))))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_fit_leaves_parts_in_evaluation_mode_so_where_the_critic_is_not(frozen):
    mine = mine_fast.MINE(Frozen(), seed=0)
    if frozen:
        mine.T.normalise.eval()
    else:
        mine.T.eval()  # a critic that was loaded to be used, say
    fitted(mine)
    assert (int(mine.T.normalise.num_batches_tracked) == 0) is frozen
    assert mine.T.normalise.training is False
    assert mine.T.drop.training is frozen


# Where a fit starts ---------------------------------------------------------------------------------------------------


def fitted(mine):
    return mine.fit(*pairs(), **QUICK).mi


def test_every_fit_starts_from_the_weights_before_the_first():
    mine = mine_fast.MINE(stack(), method="concat", seed=0)
    first = fitted(mine)
    mine.optimize(*pairs(), iters=5)
    assert fitted(mine) == first
    assert fitted(copy.deepcopy(mine)) == first


def test_loaded_weights_are_where_a_fit_starts():
    mine = mine_fast.MINE(stack(), method="concat", seed=0)
    first = fitted(mine)
    mine.load_state_dict(copy.deepcopy(mine.state_dict()))
    assert fitted(mine) != first


@pytest.mark.parametrize("before", ["fit", "optimize"])
def test_weights_loaded_into_the_critic_are_where_a_fit_starts(before):
    mine = mine_fast.MINE(stack(), method="concat", seed=0)
    other = stack()
    nn.init.normal_(other[0].weight)
    fitted(mine) if before == "fit" else mine.optimize(*pairs(), iters=5)
    mine.T.load_state_dict(other.state_dict())
    assert fitted(mine) == fitted(mine_fast.MINE(other, method="concat", seed=0))


def test_a_loop_of_the_callers_own_is_where_a_fit_starts_and_optimize_after_it_is_not():
    mine = mine_fast.MINE(stack(), method="concat", seed=0)
    mine.optimize(*pairs(), iters=5)
    opt = torch.optim.SGD(mine.parameters(), lr=0.1)
    for _ in range(20):
        opt.zero_grad()
        mine(*pairs()).backward()
        opt.step()
    trained = copy.deepcopy(mine.T)
    mine.optimize(*pairs(), iters=5)
    assert fitted(mine) == fitted(mine_fast.MINE(copy.deepcopy(trained), method="concat", seed=0))
    wide = fitted(mine_fast.MINE(trained.double(), method="concat", seed=0))
    assert fitted(mine.double()) == pytest.approx(wide, rel=1e-6)


def test_another_critic_starts_from_itself():
    mine = mine_fast.MINE(stack(), method="concat", seed=0)
    fitted(mine)
    mine.T = stack(hidden=8)
    fresh = mine_fast.MINE(stack(hidden=8), method="concat", seed=0)
    assert fitted(mine) == fitted(fresh)


def test_layers_frozen_after_construction_stay():
    mine = mine_fast.MINE(stack(), method="concat", seed=0)
    mine.T[0].requires_grad_(False)
    before = mine.T[0].weight.clone()
    last = mine.T[-1].weight.clone()
    fitted(mine)
    assert torch.equal(mine.T[0].weight, before)
    assert not torch.equal(mine.T[-1].weight, last)


class Uncopyable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.lock = threading.Lock()

    def forward(self, x, z):
        return self.layer(torch.cat([x, z], 1))


def test_a_critic_that_cannot_be_copied_is_a_loss_all_the_same():
    mine = mine_fast.MINE(Uncopyable())
    mine(*pairs()).backward()
    mine.optimize(*pairs(), iters=1)
    with pytest.raises(TypeError, match=r"T must be copyable by copy\.deepcopy"):
        fitted(mine)


class Penalised(mine_fast.MINE):
    """A subclass with arguments and a loss of its own."""

    def __init__(self, critic, strength):
        super().__init__(critic, method="concat", seed=0)
        self.strength = strength

    def forward(self, x, z, z_marg=None):
        weights = sum((p**2).sum() for p in self.T.parameters())
        return super().forward(x, z, z_marg) + self.strength * weights


def test_a_subclass_trains_by_its_own_forward():
    free, penalised = Penalised(stack(), 0.0), Penalised(stack(), 10.0)
    plain = mine_fast.MINE(stack(), method="concat", seed=0)
    assert fitted(free) == plain.fit(*pairs(), engine="torch", **QUICK).mi
    fitted(penalised)
    assert penalised.T[0].weight.norm() < 0.8 * free.T[0].weight.norm()
    with pytest.raises(ValueError, match="forward of its own"):
        penalised.fit(*pairs(), engine="native", **QUICK)


def test_a_fit_leaves_the_average_of_the_critic_that_it_leaves():
    x, z = pairs(2000)
    mine = mine_fast.MINE(stack(), method="concat", seed=0)
    mine.log_ema.fill_(50.0)
    assert mine.fit(x, z, steps=200, folds=2).mi > 0.2
    assert abs(mine.log_ema) < 2
    assert mine.training
    default = mine_fast.MINE()
    fitted(default)
    assert default.T.training


def test_shuffles_and_seed_of_the_module_count_in_a_fit():
    x, z = pairs()
    given = mine_fast.MINE(stack(), method="concat", shuffles=2, seed=5)
    result = given.fit(x, z, **QUICK)
    assert (result.seed, result.settings["shuffles"]) == (5, 2)
    same = mine_fast.MINE(stack(), method="concat").fit(x, z, seed=5, shuffles=2, **QUICK)
    assert same.mi == result.mi
    assert given.fit(x, z, seed=1, shuffles=3, **QUICK).settings["shuffles"] == 3


# What is saved --------------------------------------------------------------------------------------------------------


def test_the_state_of_a_fitted_default_critic_loads_into_a_new_module():
    x, z = pairs()
    mine = mine_fast.MINE(seed=0)
    fitted(mine)
    loaded = mine_fast.MINE(seed=1)
    loaded.load_state_dict(mine.state_dict())
    assert loaded.mi(x, z) == mine.mi(x, z)

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.critic = mine_fast.MLPCritic(hidden=(8, 8, 8))

    holder, other = Holder(), Holder()
    holder.critic.prepare(x, z)
    other.critic = mine_fast.MLPCritic()
    other.load_state_dict(holder.state_dict())
    assert torch.equal(other.critic(x, z), holder.critic(x, z))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_module_of_half_precision_keeps_an_average_that_moves(dtype):
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.mine = mine_fast.MINE(stack(), method="concat", alpha=0.01, seed=0)

    parent = Parent()
    mine = parent.mine
    mine.log_ema.fill_(3.0)
    parent.to(dtype)
    assert mine.log_ema.dtype == torch.float32
    x, z = (t.to(dtype) for t in pairs())
    with torch.no_grad():
        before = float(mine.log_ema)
        mine(x, z)
    assert 0.001 < before - float(mine.log_ema) < 0.02  # a hundredth of e^3 forgotten, e^~0 learnt
    assert mine.double().log_ema.dtype == torch.float64


# Global settings of torch ---------------------------------------------------------------------------------------------


def test_estimate_under_another_default_dtype():
    x, y = pairs()
    expected = mine_fast.estimate(x, y, **QUICK).mi
    torch.set_default_dtype(torch.float64)
    try:
        assert mine_fast.estimate(x, y, **QUICK).mi == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_estimate_under_another_default_device():
    x, y = pairs()
    expected = mine_fast.estimate(x, y, **QUICK).mi
    with torch.device("meta"):
        assert mine_fast.estimate(x, y, **QUICK).mi == expected


def test_critics_that_draw_random_numbers_may_be_fitted_in_several_threads():
    x, z = pairs()
    mines = [mine_fast.MINE(OwnCritic(), seed=i) for i in range(3)]
    alone = [fitted(mine) for mine in mines]
    together = [0.0] * 3

    def work(i):
        together[i] = mines[i].fit(x, z, **QUICK).mi

    state = torch.get_rng_state()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert torch.equal(torch.get_rng_state(), state)


# Critics that do not fit ----------------------------------------------------------------------------------------------


def test_a_stack_without_concat_is_told_of_it():
    with pytest.raises(TypeError, match="method='concat'"):
        mine_fast.MINE(stack())(*pairs())


def test_lazy_layers_learn_their_widths():
    lazy = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(1))
    assert math.isfinite(mine_fast.MINE(lazy, method="concat").optimize(*pairs(), iters=2))
    lazy = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(1))
    assert math.isfinite(mine_fast.MINE(lazy, method="concat").fit(*pairs(), **QUICK).mi)


def test_a_function_has_nothing_to_train():
    with pytest.raises(ValueError, match="T has no trainable parameters"):
        mine_fast.MINE(lambda x, z: (x * z).sum(1)).optimize(*pairs())


def test_an_optimiser_with_a_closure_is_refused():
    critic = stack()
    with pytest.raises(TypeError, match="LBFGS"):
        mine_fast.MINE(critic, method="concat").optimize(*pairs(), opt=torch.optim.LBFGS(critic.parameters()))


def test_the_default_critic_takes_two_arguments_whatever_was_asked_for():
    x, z = pairs(100)
    for use in (lambda mine: mine.fit(x, z, **QUICK), lambda mine: mine.optimize(x, z, iters=2)):
        mine = mine_fast.MINE(method="concat", seed=0)
        use(mine)
        assert torch.isfinite(mine.mi(x, z))


@pytest.mark.parametrize("group", [None, "world"])
def test_a_module_is_pickled_whole(group):
    mine = mine_fast.MINE(stack(), method="concat", seed=0, process_group=group)
    x, z = pairs(20)
    again = pickle.loads(pickle.dumps(mine))
    assert again(x, z) == mine(x, z)
    assert again.mi(x, z) == mine.mi(x, z)


def test_a_module_made_without_memory_is_what_its_state_says():
    mine = mine_fast.MINE(stack(), method="concat", seed=0)
    with torch.device("meta"):
        empty = mine_fast.MINE(stack(), method="concat", seed=1)
    for assign in (False, True):
        loaded = copy.deepcopy(empty) if assign else copy.deepcopy(empty).to_empty(device="cpu")
        loaded.load_state_dict(mine.state_dict(), assign=assign)
        assert loaded.mi(*pairs(20)) == mine.mi(*pairs(20))


def test_marginal_samples_of_another_dtype_than_the_critics():
    mine = mine_fast.MINE(stack(), method="concat", seed=0)
    x, z = pairs(20)
    found = mine.mi(x.double(), z.double(), z.flip(0).double())
    assert found == mine.mi(x, z, z.flip(0)) == mine.mi(x.numpy(), z.numpy(), z.flip(0).numpy())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden": ()}, ValueError, "hidden must name at least one width"),
        ({"hidden": (0,)}, ValueError, "hidden must be at least 1"),
        ({"hidden": (2.5,)}, TypeError, "hidden must be an int"),
        ({"activation": nn.ReLU()}, TypeError, "activation must be a class of modules"),
    ],
)
def test_bad_default_critics(arguments, error, message):
    with pytest.raises(error, match=message):
        mine_fast.MLPCritic(**arguments)
