"""Critics trained as one stack against each alone, on the CPU: capture replaced by the steps themselves."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from test_graphed_steps import Recorder
from torch import nn

import mine_fast
from mine_fast import estimate_request, ops, reference, stacked_training
from mine_fast.cross_fitting import plan_cross_fit, training_settings
from mine_fast.data import ArraySource, pair_source
from mine_fast.fitting_together import fit_together
from mine_fast.fold_fitting import Fold, ToTrain, fit_alone
from mine_fast.stacked_training import StackedSteps, shape_of, train_together
from mine_fast.steps import TorchSteps

K = 3


def perceptron():
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))


def separable():
    return mine_fast.SeparableCritic(2, 1, (16,), 4)


def wanted(
    critic, method="concat", loss="mine", count=K, rows=300, marginals="shuffle", ragged=0, dtype=torch.float64, **given
):
    """Trainings on data of their own, of which every other one has `ragged` rows fewer to train on.

    In float64: the output's bias has no gradient but rounding, which Adam makes a step of the full size in float32.
    """
    settings = mine_fast.TrainingSettings(**{"steps": 47, "batch_size": 32, "evaluate_every": 20, **given})
    result = []
    for k in range(count):
        generator = torch.Generator().manual_seed(k)
        x = torch.randn(rows, 2, generator=generator, dtype=dtype)
        y = x[:, :1] + (0.5 + k) * torch.randn(rows, 1, generator=generator, dtype=dtype)
        torch.manual_seed(10 + k)
        mine = mine_fast.MINE(critic(), loss, 0.05, method, seed=k, marginals=marginals).to(dtype)
        mine.shuffles = settings.shuffles
        train = torch.arange(rows - 60 - ragged * (k % 2))
        validation, held_out = torch.arange(rows - 60, rows - 30), torch.arange(rows - 30, rows)
        fold = Fold(ArraySource(x, y), train, validation, held_out, k, settings, None, lambda *report: None)
        result.append(ToTrain(mine, fold.source, fold, fold.report))
    return result


CRITICS = [
    (perceptron, "concat", "mine", "shuffle"),
    (perceptron, "concat", "fdiv", "shuffle"),
    (separable, None, "mine", "shuffle"),
    (separable, None, "mine_biased", "all"),
]


@pytest.mark.parametrize(("critic", "method", "loss", "marginals"), CRITICS)
@pytest.mark.parametrize("ragged", [0, 9])
def test_steps_of_a_stack_are_those_of_each(critic, method, loss, marginals, ragged):
    given = dict(critic=critic, method=method, loss=loss, marginals=marginals, ragged=ragged)
    recorder = Recorder()
    stack = StackedSteps(wanted(**given), recorder.first, recorder.record)
    alone = [TorchSteps(o.loss, o.rows, o.fold.train, o.fold.settings, o.fold.seed) for o in wanted(**given)]
    for count in (4, 23, 20):  # a run of steps need not be whole graphs
        expected = [steps.advance(count) for steps in alone]
        np.testing.assert_allclose(stack.advance_all(count), expected, rtol=1e-5, atol=1e-6)
    assert recorder.records == 1
    with stack.averaged():
        for k, steps in enumerate(alone):
            with steps.averaged():
                for ours, theirs in zip(stack.losses_of[k].parameters(), steps.mine.parameters(), strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(stack.losses_of[k].log_ema, steps.mine.log_ema, rtol=1e-5, atol=1e-6)
            assert torch.equal(stack.losses_of[k].shuffle_key, steps.mine.shuffle_key)


def test_gradients_are_clipped_to_the_norm_of_each():
    """Of two critics one of which has a gradient a thousand times the other's."""
    both = wanted(perceptron, count=2, max_grad_norm=1e-3)
    with torch.no_grad():
        both[0].loss.T[-1].weight.mul_(1000)
    stack = StackedSteps(both)
    stack._write_inputs(1)
    stack._recorded_step(0)
    norms = torch.stack([p.grad.flatten(1).norm(dim=1) for p in stack.parameters]).norm(dim=0)
    torch.testing.assert_close(norms, torch.full((2,), 1e-3, dtype=torch.float64), rtol=1e-2, atol=0)


def test_a_training_that_diverges_leaves_the_others_alone():
    trainings = wanted(perceptron)
    expected = train_together([trainings[0], trainings[2]])
    trainings = wanted(perceptron)
    trainings[1].rows.x[5] = math.nan
    found = train_together(trainings)
    assert isinstance(found[1], mine_fast.DivergenceError)
    for one, other in zip((found[0], found[2]), expected, strict=True):
        np.testing.assert_allclose(one.validation, other.validation, rtol=1e-4, atol=1e-5)


def single(*given, count=1, **settings):
    return wanted(*given, count=count, dtype=torch.float32, **settings)


def test_what_cannot_be_stacked():
    [one] = single(perceptron)
    assert shape_of(one) is not None
    assert shape_of(one) == shape_of(single(perceptron, count=2)[1])
    others = [
        single(lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))),
        single(lambda: nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 1))),
        single(perceptron, rows=301),
        single(perceptron, learning_rate=0.1),
        single(perceptron, "concat", "fdiv"),
    ]
    shapes = [shape_of(one), *(shape_of(other) for [other] in others)]
    assert len(set(shapes)) == len(shapes)
    noisy = nn.Sequential(mine_fast.GaussianNoise(0.1), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    for [other] in (
        single(lambda: noisy),
        single(lambda: nn.Bilinear(2, 1, 1), None),
        single(perceptron, loss="js"),
        single(perceptron, marginals="all"),
        wanted(perceptron, count=1),  # in float64
    ):
        assert shape_of(other) is None


@pytest.mark.parametrize("rows", [2, 3, 64, 100])
def test_many_keys_at_once_are_each_by_itself(rows):
    keys = torch.stack([torch.stack([ops.shuffle_key(seed, step) for step in range(2)]) for seed in (0, 5, 2**61)])
    found = reference.shuffle_index(keys, rows, 3), reference.shuffle_index(keys, rows, 3, inverse=True)
    for i in range(3):
        for j in range(2):
            assert torch.equal(found[0][i, j], ops.shuffle_index(rows, keys[i, j], 3))
            assert torch.equal(found[1][i, j], ops.shuffle_index(rows, keys[i, j], 3, inverse=True))


def plans(pairs, **settings):
    made = training_settings(settings, 100)
    return [plan_cross_fit(mine_fast.MINE(seed=0), pair_source(*pair), None, 0, None, made) for pair in pairs]


def test_whole_fits_together_are_those_alone():
    """Two pairs of one shape and one of another."""
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 200, 1))
    pairs = [(x, x + noise), (x, x - 0.3 * noise), (rng.standard_normal((90, 3)), rng.standard_normal((90, 2)))]
    settings = dict(steps=20, folds=2, evaluate_every=10, batch_size=64)

    def quiet(step, bound):
        pass

    made = plans(pairs, **settings)
    together = fit_together([part(quiet) for plan in made for part in plan.parts])
    for i, plan in enumerate(plans(pairs, **settings)):
        alone = plan.finish([fit_alone(part(quiet)) for part in plan.parts]).result
        joint = made[i].finish(together[2 * i : 2 * i + 2]).result
        # As far as the engine's training and torch's are from each other: a step rounds differently.
        assert joint.mi == pytest.approx(alone.mi, abs=0.1 * alone.stderr)
        assert joint.stderr == pytest.approx(alone.stderr, rel=0.05)
        assert [flag.code for flag in joint.flags] == [flag.code for flag in alone.flags]
        assert dataclasses.asdict(joint)["settings"] == dataclasses.asdict(alone)["settings"]


def test_a_fit_that_raises_leaves_the_others_alone():
    x = np.random.default_rng(0).standard_normal((60, 1))
    [plan] = plans([(x, x**2 + 0.1)], steps=5, folds=2, batch_size=16)

    def broken():
        raise ValueError("broken")
        yield

    found = fit_together([broken(), plan.parts[0](lambda *report: None)])
    assert isinstance(found[0], ValueError)
    assert not isinstance(found[1], Exception)


def test_seeds_of_an_estimate_are_stacked(monkeypatch):
    x, noise = np.random.default_rng(1).standard_normal((2, 120))
    settings = dict(steps=10, folds=2, evaluate_every=5, batch_size=32, n_seeds=2)
    alone = mine_fast.estimate(x, x + noise, **settings)
    monkeypatch.setattr(estimate_request, "STACKING_DEVICE", "cpu")
    together = mine_fast.estimate(x, x + noise, device="cpu", **settings)
    assert together.mi == pytest.approx(alone.mi, abs=0.1 * alone.stderr)
    with pytest.raises(ValueError, match="same number of rows"):
        mine_fast.estimate(x, x[:50], device="cpu", **settings)


def test_estimate_many_stacks_what_is_on_its_device(monkeypatch):
    """With the CPU in the place of the GPU: results, errors, seeds and progress as without stacking."""
    rng = np.random.default_rng(1)
    x, noise = rng.standard_normal((2, 120))
    bad = x.copy()
    bad[3] = np.nan
    pairs = [(x, x + noise), (bad, x), (x, noise), (x, x[:50]), (x, np.ones(120)), (x, x - noise)]
    settings = dict(steps=10, folds=2, evaluate_every=5, batch_size=32, n_seeds=2, device="cpu")
    alone = mine_fast.estimate_many(pairs, **settings)
    monkeypatch.setattr(estimate_request, "STACKING_DEVICE", "cpu")
    monkeypatch.setattr(estimate_request, "MOST_TOGETHER", 5)
    sizes = []
    real = stacked_training.StackedSteps

    class Counted(real):
        def __init__(self, wanted, *rest):
            sizes.append(len(wanted))
            super().__init__(wanted, *rest)

    monkeypatch.setattr(stacked_training, "StackedSteps", Counted)
    calls = []
    together = mine_fast.estimate_many(pairs, progress=lambda *call: calls.append(call), **settings)
    assert sizes == [8, 8, 4, 4]  # two pairs, then one, of two seeds and two folds, each of two networks
    assert [type(one) for one in together] == [type(one) for one in alone]
    for one, other in zip(together, alone, strict=True):
        if other.error is None:
            assert one.mi == pytest.approx(other.mi, abs=0.1 * other.stderr)
        else:
            assert str(one) == str(other)
    assert calls[-1][0] == calls[-1][1]
    assert [done for done, *_ in calls] == sorted(done for done, *_ in calls)
