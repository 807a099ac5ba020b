"""Trainings that leave the finite numbers: an error while the bound still rises, a flag once it has arrived."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_estimate import gaussian
from test_stacked_training import perceptron, wanted
from torch import nn

import mine_fast
from mine_fast.conditioning import _curves
from mine_fast.data import ArraySource
from mine_fast.evaluation import HeldOutScores
from mine_fast.experiments.gaussian import mean_curve
from mine_fast.flags import diverged
from mine_fast.result import History
from mine_fast.selection import Selection
from mine_fast.settings import TrainingSettings
from mine_fast.stacked_training import StackedSteps, train_together
from mine_fast.steps import NativeSteps

STEPS = {"steps": 400, "evaluate_every": 20, "batch_size": 128, "learning_rate": 5e-3}


class Breaking(nn.Module):
    """A critic whose scores are no numbers after so many steps, in training and when it is read."""

    def __init__(self, after):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
        self.after = after
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x, z):
        self.calls += self.training  # of the pairs and of the others at every step
        return self.layers(torch.cat([x, z], 1)) * (1.0 if self.calls <= 2 * self.after else math.nan)


def test_one_that_had_arrived_keeps_its_best_weights_and_is_flagged():
    x, y, truth = gaussian(1500, 0.8, 0)
    r = mine_fast.MINE(Breaking(310)).fit(x, y, folds=2, seed=0, **STEPS)
    assert abs(r.mi - truth) < 0.1
    (flag,) = [flag for flag in r.flags if flag.code == "diverged"]
    assert flag.level == "warning"
    assert "in 2 of 2 folds left the finite numbers by step 320 of 400" in flag
    assert "still_rising" not in {flag.code for flag in r.flags}
    assert [steps[-1] for steps in r.history.steps] == [300, 300]
    assert np.isfinite(np.concatenate(r.history.validation)).all()
    r.plot()


@pytest.mark.parametrize("after", [0, 10, 45])
def test_one_that_was_still_rising_is_an_error(after):
    x, y, _ = gaussian(1500, 0.8, 0)
    with pytest.raises(mine_fast.DivergenceError, match="lower learning_rate"):
        mine_fast.MINE(Breaking(after)).fit(x, y, folds=2, seed=0, **STEPS)


def test_a_late_gain_is_one_over_the_best_reading_before():
    """A bound that sank and came back has gained nothing."""
    settings = TrainingSettings(steps=80, evaluate_every=10)
    chosen = Selection(lambda *pairs: torch.zeros(9), ArraySource(*torch.zeros(2, 9, 1)), torch.arange(9), settings, 0)
    noise = torch.randn(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for step, bound in zip(range(0, 81, 10), (0.0, 0.3, 0.5, 0.5, 0.2, 0.1, 0.1, 0.3, 0.52), strict=True):
        joint = bound + (noise if step == 20 else noise.flip(0) * step) - noise.mean() * (1 if step == 20 else step)
        scores = HeldOutScores(joint, torch.zeros(2, 9).double(), torch.zeros(2, 9).double())
        chosen._scores = lambda step, train, scores=scores: (scores, scores.dv_bound())
        chosen.read(step, 0.0, lambda: lambda: None)
    assert chosen.history.late_gain == pytest.approx(0.02)
    best = 0.5 + noise - noise.mean()
    apart = scores.influence() - HeldOutScores(best, scores.marginal, scores.as_y).influence()
    assert chosen.history.late_gain_variance == pytest.approx(float(apart.square().sum()) / 81 * 9 / 8)


@pytest.mark.parametrize(
    ("bounds", "arrived"),
    [
        ([0.0, 0.5, 0.5, 0.5], True),
        ([0.0, 0.5, 0.4, 0.3, -2.0], True),
        ([0.0, 0.40, 0.50, 0.505, 0.51], True),  # 2% more than the best of the first three
        ([0.0, 0.40, 0.49, 0.505, 0.51], False),  # 4% more
        ([0.0, 0.001, 0.001, 0.003], True),
        ([0.0, 0.5], False),
        ([0.0, 0.1, 0.5], False),
        ([0.1, 0.05, -1.0, -2.0], False),  # nothing was learnt
        ([0.0, 0.0, 0.0, 0.0], False),
        ([], False),
    ],
)
@pytest.mark.parametrize("sign", ["training", "scores"])
def test_what_counts_as_arrived(bounds, arrived, sign):
    """Scores of which the bound is the one that is named, then a reading that is no number."""
    rows, kept, bound = torch.zeros(400, 1), [], math.nan

    def score(x, y, partner):
        scores = torch.zeros(partner.shape)
        scores[0] = bound
        return scores

    settings = TrainingSettings(steps=1000)
    chosen = Selection(score, ArraySource(rows, rows), torch.arange(400), settings, 0)
    for i, bound in enumerate(bounds):  # noqa: B007  # `score` reads it
        chosen.read(10 * i, 0.3, lambda at=10 * i: lambda: kept.append(at))
    bound = math.nan if sign == "scores" else 0.7
    last = 10 * len(bounds)
    if not arrived and (last or sign == "scores"):
        with pytest.raises(mine_fast.DivergenceError):
            chosen.read(last, math.nan, lambda: None)
        return
    chosen.read(last, math.nan, lambda: None)
    if last:
        chosen.read(last + 10, 0.3, lambda: None)  # not read any more
        assert chosen.take_best().diverged_at == last
        assert chosen.history.validation == pytest.approx(bounds)
        assert kept == [10 * bounds.index(max(bounds))]


@pytest.fixture
def engine_diverging_at(monkeypatch):
    """Let steps of the native engine say that they diverged, of trainings that are named by their order."""

    def diverging(step, numbers):
        begun, advance, first = [], NativeSteps.advance, NativeSteps.__init__

        def __init__(self, *arguments):
            first(self, *arguments)
            begun.append(self)

        def failing(self, count):
            if begun.index(self) in numbers and self.done + count > step:
                self.critic.engine.parameters = self.critic.engine.parameters * math.nan
                return math.nan
            return advance(self, count)

        monkeypatch.setattr(NativeSteps, "__init__", __init__)
        monkeypatch.setattr(NativeSteps, "advance", failing)

    return diverging


@pytest.mark.parametrize("numbers", [[0], [1], [0, 1, 2, 3]])
def test_networks_of_the_default_critic(engine_diverging_at, numbers):
    x, y, truth = gaussian(2000, 0.8, 0)
    x, y = x**3, np.exp(y)  # no Gaussian pair, so that the networks are needed
    engine_diverging_at(500, numbers)
    torch.set_num_threads(1)
    r = mine_fast.estimate(x, y, folds=2, steps=600)
    assert abs(r.mi - truth) < 0.1
    folds = len({number // 2 for number in numbers})
    (flag,) = [flag for flag in r.flags if flag.code == "diverged"]
    assert f"in {folds} of 2 folds" in flag


def test_one_critic_of_a_stack(monkeypatch):
    undisturbed = train_together(wanted(perceptron, steps=200))
    advance = StackedSteps.advance_all

    def failing(self, count):
        losses = advance(self, count)
        if self.done > 150:
            losses[2] = math.nan
            with torch.no_grad():
                for values in self.parameters:
                    values[2] = math.nan
                for average in self.average:
                    average[2] = math.nan
        return losses

    monkeypatch.setattr(StackedSteps, "advance_all", failing)
    trainings = wanted(perceptron, steps=200)
    found = train_together(trainings)
    assert [history.diverged_at for history in found] == [None, None, 160]
    for k in (0, 1):
        np.testing.assert_allclose(found[k].validation, undisturbed[k].validation, rtol=1e-6, atol=1e-8)
    assert found[2].steps == undisturbed[2].steps[: len(found[2].steps)]
    assert all(parameter.isfinite().all() for parameter in trainings[2].loss.parameters())


def test_flag():
    assert diverged([None, None], 100, 0.1) is None
    assert "the training left the finite numbers by step 50 of 100" in diverged([50], 100, 0.1)
    assert "in 2 of 3 folds left the finite numbers by step 40 of 100" in diverged([50, None, 40], 100, 0.1)


def test_curves_of_unequal_length():
    short = History([[0, 50], [0, 50, 100]], [[math.nan, 1.0], [math.nan, 2.0, 3.0]], [[0.0, 1.0], [0.0, 2.0, 3.0]])
    whole = History([[0, 50, 100]] * 2, [[math.nan, 1.0, 1.0]] * 2, [[1.0, 1.0, 1.0]] * 2)
    for first, second in ((whole, short), (short, whole)):
        assert [len(steps) for steps in _curves(first, second).steps] == [2, 3]
    assert _curves(whole, short).validation == [[1.0, 0.0], [1.0, -1.0, -2.0]]
    assert mean_curve(short) == {"step": [0, 50], "bound": [0.0, 1.5]}
