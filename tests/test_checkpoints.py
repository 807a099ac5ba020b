"""Training that is saved at any step, and goes on elsewhere with the same bits; states that do not fit."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

import mine_fast
from mine_fast.bounds import LOSSES
from mine_fast.native import EngineCritic

STEPS = 5


def critic(kind="stack", seed=0):
    torch.manual_seed(seed)
    if kind == "separable":
        return mine_fast.SeparableCritic(2, 1, hidden=(8,), outputs=4)
    layers = [nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 1)]
    return nn.Sequential(*layers[:2], nn.Dropout(0.5), *layers[2:]) if kind == "dropout" else nn.Sequential(*layers)


def module(kind="stack", weights=0, **settings):
    return mine_fast.MINE(
        critic(kind, weights), method=None if kind == "separable" else "concat", alpha=0.1, **settings
    )


def rows(step=0, n=24):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(n, 2, generator=generator)
    return x, x[:, :1] + 0.5 * torch.randn(n, 1, generator=generator)


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# A loop of one's own --------------------------------------------------------------------------------------------------


def train(mine, optimizer, first=0):
    """The loop's losses, and what was saved before each step and at the end."""
    losses, saved = [], []
    for step in range(first, STEPS):
        saved.append(
            through_a_file(
                {"mine": mine.state_dict(), "optimizer": optimizer.state_dict(), "torch": torch.get_rng_state()}
            )
        )
        optimizer.zero_grad()
        loss = mine(*rows(step))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, saved


@pytest.mark.parametrize(
    ("kind", "marginals"), [("stack", "shuffle"), ("stack", "all"), ("separable", "shuffle"), ("dropout", "shuffle")]
)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loop_goes_on_from_any_step(loss, kind, marginals):
    mine = module(kind, loss=loss, marginals=marginals, seed=4)
    whole, saved = train(mine, torch.optim.Adam(mine.parameters(), lr=1e-2))
    for step, state in enumerate(saved):
        resumed = module(kind, weights=1, loss=loss, marginals=marginals, seed=5)
        optimizer = torch.optim.Adam(resumed.parameters(), lr=1e-2)
        resumed.load_state_dict(state["mine"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch"])
        assert train(resumed, optimizer, step)[0] == whole[step:]
        for name, value in mine.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("marginals", ["shuffle", "all"])
def test_optimize_goes_on_from_one_call_to_the_next(engine, marginals):
    x, z = rows(n=100)

    def optimize(mine, optimizer):
        return mine.optimize(x, z, iters=3, batch_size=32, opt=optimizer, engine=engine)

    mine = module(marginals=marginals, seed=4)
    optimizer = torch.optim.Adam(mine.parameters(), lr=1e-2)
    optimize(mine, optimizer)
    state = through_a_file({"mine": mine.state_dict(), "optimizer": optimizer.state_dict()})
    expected = optimize(mine, optimizer)
    resumed = module(weights=1, marginals=marginals, seed=5)
    resumed_optimizer = torch.optim.Adam(resumed.parameters(), lr=1e-2)
    resumed.load_state_dict(state["mine"])
    resumed_optimizer.load_state_dict(state["optimizer"])
    assert torch.equal(optimize(resumed, resumed_optimizer), expected)
    for name, value in mine.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


# The engine -----------------------------------------------------------------------------------------------------------

X, Y = (side.numpy() for side in rows(n=70))


def engine_train(engine, shuffles, steps):
    return engine.engine.train(
        X, Y, steps=steps, batch_size=16, shuffles=shuffles, learning_rates=1e-2, threads=1, averaging=0.9
    )


@pytest.mark.parametrize(("kind", "shuffles"), [("stack", 2), ("stack", 0), ("separable", 1)])
def test_the_engine_goes_on_from_any_step(kind, shuffles):
    """Over the ends of passes of four batches, with both of its averages."""
    engine = EngineCritic(module(kind, seed=4), 2, 1)
    saved, losses = [], []
    for _ in range(9):
        saved.append(through_a_file(engine.state_dict()))
        losses.append(float(engine_train(engine, shuffles, 1)[0]))
    for step, state in enumerate(saved):
        resumed = EngineCritic(module(kind, weights=1, seed=4), 2, 1)
        resumed.load_state_dict(state)
        assert engine_train(resumed, shuffles, 9 - step).tolist() == losses[step:]
        for name, value in engine.state_dict().items():
            other = resumed.state_dict()[name]
            assert torch.equal(other, value) if isinstance(value, torch.Tensor) else other == value, name


ENGINE_MISFITS = [
    ({"format": 2}, "must have format 1, got 2: it is of another version"),
    ({"format": None}, "got None"),
    ({"seed": 5}, "the engine was made for seed 4, the state is of one for 5"),
    ({"alpha": 0.5}, "made for alpha 0.1"),
    ({"loss": "fdiv"}, "made for loss 'mine'"),
    ({"widths": [1, 2]}, "made for widths"),
    ({"layers": []}, "made for layers"),
    (
        {"adam_v": torch.zeros(3)},
        r"adam_v in the state of an engine must be float32 \[113\], got a torch.float32 tensor",
    ),
    ({"adam_m": torch.zeros(113, dtype=torch.float64)}, "adam_m .* got a torch.float64"),
    ({"average": [0.0] * 113}, "average .* got a list of 113"),
    ({"adam_step": 1.5}, r"adam_step .* must be a int, got 1\.5"),
    ({"offset": -1}, "offset .* got -1"),
    ({"log_ema": "0"}, "log_ema .* must be a float, got '0'"),
]


@pytest.mark.parametrize(("change", "message"), ENGINE_MISFITS)
def test_an_engine_refuses_a_state_that_does_not_fit_and_keeps_its_own(change, message):
    engine = EngineCritic(module(seed=4), 2, 1)
    engine_train(engine, 1, 2)
    before = engine.state_dict()
    other = EngineCritic(module(weights=1, seed=4), 2, 1).state_dict()
    with pytest.raises(ValueError, match=message):
        engine.load_state_dict({**other, **change})
    with pytest.raises(ValueError, match="lacks adam_m"):
        engine.load_state_dict({name: value for name, value in other.items() if name != "adam_m"})
    for name, value in engine.state_dict().items():
        assert np.array_equal(value, before[name]), name


# States that do not fit a MINE ----------------------------------------------------------------------------------------


class Parent(nn.Module):
    def __init__(self):
        super().__init__()
        self.mine = module(seed=0)


@pytest.mark.parametrize("nested", [False, True])
def test_a_state_of_another_format_is_refused_and_changes_nothing(nested):
    mine = Parent() if nested else module(seed=0)
    prefix = "mine." if nested else ""
    before = copy.deepcopy(mine.state_dict())
    other = {name: value if "format_version" in name else value + 1 for name, value in before.items()}
    for change, message in [
        (
            {"format_version": torch.tensor(2)},
            r"has format 2, of another version .* reads format 1: T's own state, log",
        ),
        ({"shuffle_key": torch.zeros(2)}, r"shuffle_key .* must be int64 \[2\].* got a torch.float32"),
        ({"shuffle_key": torch.zeros(3, dtype=torch.int64)}, r"shape \[3\]"),
        ({"shuffle_key": 3}, "got 3"),
    ]:
        state = {**other, **{prefix + name: value for name, value in change.items()}}
        with pytest.raises(ValueError, match=message):
            mine.load_state_dict(state)
        assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())


def test_a_state_from_before_formats_were_numbered_loads():
    saved = module(seed=3)
    saved(*rows())
    state = {name: value for name, value in saved.state_dict().items() if name != "format_version"}
    mine = module(weights=1, seed=0)
    mine.load_state_dict(state)
    assert "format_version" not in state  # the caller's is left alone
    assert all(torch.equal(value, mine.state_dict()[name]) for name, value in saved.state_dict().items())


class MinePytorchs(nn.Module):
    """As `Mine` of mine-pytorch keeps its critic: behind a module that concatenates, in one stack."""

    def __init__(self, T):
        super().__init__()
        layers = T if isinstance(T, nn.Sequential) else [T]
        self.T = nn.Sequential(nn.Identity(), *layers)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 1)

    def forward(self, xz):
        return self.last(torch.relu(self.first(xz)))


@pytest.mark.parametrize("make", [critic, Named, lambda: nn.Linear(2, 1)], ids=["stack", "module", "layer"])
def test_states_of_mine_pytorch_load(make):
    theirs = MinePytorchs(make())
    mine = mine_fast.MINE(make(), method="concat", seed=0)
    outer = nn.ModuleDict({"mine": mine})
    for load in (
        lambda: mine.load_state_dict(theirs.state_dict(), strict=False),
        lambda: outer.load_state_dict({f"mine.{k}": v for k, v in theirs.state_dict().items()}, strict=False),
    ):
        for parameter in mine.parameters():
            nn.init.zeros_(parameter)
        found = load()
        assert found.unexpected_keys == []
        assert not any(".T." in key or key.startswith("T.") for key in found.missing_keys)
        for ours, wanted in zip(mine.T.parameters(), theirs.T.parameters(), strict=True):
            assert torch.equal(ours, wanted)


def test_states_of_something_else_are_told_apart():
    mine = module(seed=0)
    theirs = {f"T.{name}": value for name, value in critic(seed=1).state_dict().items()}
    with pytest.raises(ValueError, match=r"got one of T\.0\.weight, .*mine-pytorch's Mine.* by strict=False"):
        mine.load_state_dict(theirs)
    missing = mine.load_state_dict(theirs, strict=False).missing_keys
    assert {"log_ema", "shuffle_key"} <= set(missing)
    assert torch.equal(mine.T[0].weight, theirs["T.0.weight"])
    with pytest.raises(ValueError, match=r"got one of 0\.weight.* by mine\.T\.load_state_dict"):
        mine.load_state_dict(critic().state_dict())
    with pytest.raises(ValueError, match=r"'module\.' are those of a wrapper"):
        mine.load_state_dict({f"module.{name}": value for name, value in mine.state_dict().items()})
    with pytest.raises(ValueError, match="got one of nothing"):
        mine.load_state_dict({})
    with pytest.raises(RuntimeError, match="size mismatch"):
        mine.load_state_dict(mine_fast.MINE(nn.Sequential(nn.Linear(3, 9)), method="concat").state_dict())
