"""Steps replayed from a graph, with the capture replaced by the steps themselves: all but the CUDA graph is tested."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mine_fast
from mine_fast.data import ArraySource
from mine_fast.graphed_steps import STEPS_PER_GRAPH, GraphedSteps, graph_obstacle, loss_obstacle
from mine_fast.steps import TorchSteps


class NoValues(TorchDispatchMode):
    """Makes an op an error whose result the host would have to wait for."""

    WAITS = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "equal", "masked_select", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(f"::{name}" in func.name() for name in self.WAITS), func.name()
        return func(*args, **(kwargs or {}))


class Recorder:
    """In the place of CUDA: a first run and replays are the steps themselves; none of them may ask for a value."""

    def __init__(self):
        self.first_runs = self.records = self.replays = 0

    def first(self, body, device):
        assert device == torch.device("cpu")
        self.first_runs += 1
        with NoValues():
            body()

    def record(self, body, device):
        assert device == torch.device("cpu")
        self.records += 1

        def replay():
            self.replays += 1
            with NoValues():
                body()

        return replay


def pieces(critic, loss="mine", method="concat", rows=300, **given):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 2, generator=generator)
    y = x[:, :1] + 0.5 * torch.randn(rows, 1, generator=generator)
    torch.manual_seed(1)
    mine = mine_fast.MINE(critic(), loss, 0.05, method, seed=3)
    settings = mine_fast.TrainingSettings(steps=47, batch_size=32, **given)
    return mine, ArraySource(x, y), torch.arange(rows), settings, 5


def perceptron():
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))


@pytest.mark.parametrize(
    ("critic", "method", "loss"),
    [
        (perceptron, "concat", "mine"),
        (perceptron, "concat", "fdiv"),
        (lambda: mine_fast.SeparableCritic(2, 1, (16, 16), 4), None, "mine"),
        (lambda: nn.Bilinear(2, 1, 1), None, "js"),
    ],
)
def test_replayed_steps_are_those_of_torch(critic, method, loss):
    recorder = Recorder()
    plain = TorchSteps(*pieces(critic, loss, method))
    graphed = GraphedSteps(*pieces(critic, loss, method), recorder.first, recorder.record)
    for count in (4, 23, 20):  # a run of steps need not be whole graphs
        torch.testing.assert_close(graphed.advance(count), plain.advance(count), rtol=1e-4, atol=1e-5)
    assert graphed.done == plain.done == 47
    for ours, theirs in zip(graphed.parameters, plain.parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(graphed.average, plain.average, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(graphed.mine.log_ema, plain.mine.log_ema, rtol=1e-4, atol=1e-5)
    assert torch.equal(graphed.mine.shuffle_key, plain.mine.shuffle_key)
    assert (recorder.first_runs, recorder.records, recorder.replays) == (1, 1, 3)


def test_the_capture_sees_no_new_storage():
    """What a graph reads and writes stays where it was when it was captured: parameters, moments, averages, inputs."""
    recorder = Recorder()
    graphed = GraphedSteps(*pieces(perceptron), recorder.first, recorder.record)
    graphed.advance(STEPS_PER_GRAPH)

    def places():
        moments = [value for state in graphed.optimizer.state.values() for value in state.values()]
        kept = [*graphed.parameters, *graphed.average, *moments, graphed.index, graphed.rate, graphed.losses,
                graphed.mine.log_ema, graphed.mine.shuffle_key]  # fmt: skip
        return [tensor.data_ptr() for tensor in kept]

    before = places()
    with graphed.averaged():
        graphed.mine.eval()
        graphed.mine.train()
    graphed.advance(2 * STEPS_PER_GRAPH)
    assert places() == before


def test_a_value_asked_for_is_found():
    with NoValues(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        float(torch.ones(1).sum())


@pytest.mark.parametrize(
    ("critic", "method", "loss", "marginals", "captured"),
    [
        (perceptron, "concat", "mine", "all", True),
        (perceptron, "concat", "js", "all", False),
        (perceptron, "concat", "js", "shuffle", True),
        (lambda: nn.Bilinear(2, 1, 1), None, "mine", "all", False),
        (lambda: mine_fast.SeparableCritic(2, 1, (16, 16), 4), None, "infonce", "all", True),
        (lambda: nn.Sequential(mine_fast.GaussianNoise(0.1), *perceptron()), "concat", "mine", "all", False),
    ],
)
def test_losses_that_keep_the_state_of_random_numbers_are_not_captured(critic, method, loss, marginals, captured):
    mine = mine_fast.MINE(critic(), loss, method=method, marginals=marginals)
    assert (loss_obstacle(mine) is None) is captured


def test_what_a_graph_cannot_train_is_said():
    mine, source, *_ = pieces(perceptron)
    assert "cpu, not on one CUDA device" in graph_obstacle(mine, source)
    x, y = source.rows(torch.arange(100))
    with pytest.raises(ValueError, match="engine='graph' cannot train this"):
        mine.fit(x, y, engine="graph", steps=2)
    with pytest.raises(ValueError, match="fit and estimate"):
        mine.optimize(x, y, iters=1, engine="graph")
