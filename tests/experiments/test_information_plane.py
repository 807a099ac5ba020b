"""The information plane: the task, the exact values against closed forms, and a run end to end."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest
import torch

from mine_fast.experiments import information_plane
from mine_fast.experiments.information_plane import (
    EXPERIMENT,
    Settings,
    Task,
    exact_information,
    ordered_share,
    sphere_task,
)
from mine_fast.experiments.layer_critic import Channel, estimated_information, make_critic
from mine_fast.experiments.run import Run, seeded
from mine_fast.experiments.runner import run_seed


def test_the_task_is_the_published_one_in_what_is_said_of_it():
    x, p = sphere_task()
    assert x.shape == (4096, 12)
    assert len({tuple(row) for row in x.tolist()}) == 4096
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    assert float(p.mean()) == pytest.approx(0.5, abs=0.03)
    entropy = [
        -(q * np.log2(q) + (1 - q) * np.log2(1 - q)) for q in (p.mean().numpy(), p.numpy().clip(1e-15, 1 - 1e-15))
    ]
    assert entropy[0] - entropy[1].mean() == pytest.approx(0.99, abs=0.01)  # I(X;Y) in bits


def test_no_rotation_changes_the_label():
    """The icosahedron's turn by 72 degrees about a corner permutes the points and leaves every pattern's label."""
    golden = (1 + math.sqrt(5)) / 2
    corners = np.array(
        [c for a in (-1, 1) for b in (-golden, golden) for c in ((0, a, b), (a, b, 0), (b, 0, a))]
    ) / math.hypot(1, golden)
    axis, angle = corners[0], 2 * math.pi / 5
    cross = np.cross(np.eye(3), axis)
    turn = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    nearest = ((corners @ turn)[:, None] - corners).__pow__(2).sum(-1)
    assert nearest.min(1).max() < 1e-20
    permutation = nearest.argmin(1)
    assert sorted(permutation) == list(range(12))
    assert list(permutation) != list(range(12))
    x, p = sphere_task()
    order = ((x > 0).long()[:, torch.from_numpy(permutation)] << torch.arange(12)).sum(1)
    torch.testing.assert_close(p[order], p)


def test_exact_values_of_centres_far_apart_and_together():
    p = torch.tensor([0.0, 1.0]).repeat(32)
    apart = 100.0 * torch.arange(64.0)[:, None]
    assert exact_information(apart, p, 0.1) == pytest.approx((6.0, 1.0), abs=1e-9)
    assert exact_information(torch.zeros(64, 3), p, 0.1) == pytest.approx((0.0, 0.0), abs=1e-9)
    # Two values of X share a centre: half of its bits are lost, and as labels go by pairs, nothing of them.
    paired = 100.0 * (torch.arange(64.0) // 2)[:, None]
    assert exact_information(paired, (torch.arange(64) // 2 % 2).double(), 0.1) == pytest.approx((5.0, 1.0), abs=1e-9)


def test_certain_labels_have_no_entropy():
    """Probabilities that round beyond 1 once gave an infinite information."""
    centres = 0.1 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    of_x, of_y = exact_information(centres, torch.ones(300), 0.1, draws=3)
    assert of_x > 0
    assert of_y == pytest.approx(0, abs=1e-12)


def test_exact_values_of_two_centres_by_integration():
    t = np.linspace(-8, 9, 200_001)
    densities = [np.exp(-0.5 * (t - m) ** 2) / math.sqrt(2 * math.pi) for m in (0, 1)]
    p = [0.9, 0.2]
    mixture = sum(densities) / 2
    of_x = sum(np.trapezoid(d * np.log2(d / mixture), t) for d in densities) / 2
    one = sum(d * q for d, q in zip(densities, p, strict=True)) / 2
    of_y = 0.0
    for joint, share in ((one, sum(p) / 2), (mixture - one, 1 - sum(p) / 2)):
        of_y += np.trapezoid(joint * np.log2(joint / (mixture * share)), t)
    centres, chances = torch.tensor([[0.0], [1.0]]).repeat(500, 1), torch.tensor(p).repeat(500)
    found = exact_information(centres, chances, 1.0, draws=20)
    # 20,000 draws of an entropy that varies by less than half a bit.
    assert found == pytest.approx((of_x, of_y), abs=4 * 0.5 / math.sqrt(20_000))
    assert of_x > of_y > 0.05


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plane")
    return run_seed(EXPERIMENT, "smoke", folder), folder


def test_smoke(smoke):
    metrics, folder = smoke
    assert metrics["I(Y;T) above I(X;T)"] == 0
    moments = metrics["networks"]["tanh"]
    assert [moment["epoch"] for moment in moments] == [0, 20]
    assert moments[1]["training error"] < moments[0]["training error"] - 5
    for moment in moments:
        for layer in moment["layers"]:
            assert 0 < layer["I(X;T)"] < 12
            assert 0 <= layer["I(Y;T)"] < 1
    assert moments[1]["layers"][-1]["I(Y;T)"] > moments[0]["layers"][-1]["I(Y;T)"]
    assert (folder / "plane.png").stat().st_size > 10_000


def test_estimates_are_bounds_that_come_near(smoke):
    """Ten passes of a critic, and what three columns hold of twelve bits is there but for a tenth."""
    metrics, _ = smoke
    for moment in metrics["networks"]["tanh"]:
        for layer in moment["layers"]:
            for of, share in (("I(X;T)", 0.85), ("I(Y;T)", 0.75)):
                estimate = layer[f"{of}, MINE"]
                assert estimate["bits"] < layer[of] + 4 * estimate["stderr"]
                assert estimate["bits"] > share * layer[of] - 4 * estimate["stderr"]
    assert metrics["estimates out of order"] == 0


class KnownCritic:
    """Factors of the right scores of a channel with noise 1: what a critic would learn of known centres."""

    def __init__(self, centres):
        self.centres = centres

    def factors(self, t, x):
        phi = self.centres[x[:, 0].long()]
        return torch.cat([t, torch.ones(len(t), 1)], 1), torch.cat([phi, -phi.square().sum(1, keepdim=True) / 2], 1)


def test_the_reading_of_the_right_critic_is_the_exact_value():
    torch.manual_seed(0)
    centres, p = torch.randn(1024, 2), torch.rand(1024, dtype=torch.double)
    channel = Channel(centres, 0.3)
    mine = types.SimpleNamespace(T=KnownCritic(channel.centres))
    for exact, found in zip(
        exact_information(centres, p, 0.3, draws=8), estimated_information(mine, channel, p), strict=True
    ):
        assert found["bits"] == pytest.approx(exact, abs=4 * found["stderr"])
        assert 0 < found["stderr"] < 0.1  # 1024 values that vary by two bits


def test_the_reading_of_a_critic_that_knows_nothing_is_no_information():
    centres, p = torch.randn(256, 2), torch.rand(256, dtype=torch.double)
    channel = Channel(centres, 0.3)
    mine = types.SimpleNamespace(T=KnownCritic(torch.zeros(256, 2)))
    of_x, of_y = estimated_information(mine, channel, p)
    assert of_x["bits"] == pytest.approx(0, abs=1e-5)
    assert of_y["bits"] == pytest.approx(0, abs=1e-5)


def test_scores_are_squared_distances_at_first():
    """Up to what is learned of every input, and to a function of t."""
    task = sphere_task()
    mine = make_critic(Settings(), task.x, width=5)
    with torch.no_grad():
        tower = mine.T.y_tower
        tower.table.weight[:, -1] = 0
        tower.perceptron[-1].weight[-1] = 0
        tower.perceptron[-1].bias[-1] = 0
        inputs = torch.arange(40.0)[:, None]
        psi, phi = mine.T.factors(torch.randn(7, 5), inputs)
        scores = psi @ phi.T
        distances = torch.cdist(psi[:, : Settings().outputs], phi[:, : Settings().outputs]).square()
        torch.testing.assert_close(scores.log_softmax(1), (-distances / 2).log_softmax(1), rtol=1e-4, atol=1e-4)


def history_of(folder, p, **settings):
    """What is noted of a network that learns 64 of the inputs with labels of probability p."""
    settings = Settings(**{"widths": (12, 32, 3), "critic_batch": 32} | settings)
    run = Run(settings, 0, folder, progress=False)
    with seeded(0):
        return information_plane.train(run, "tanh", Task(sphere_task().x[::64], torch.full((64,), p).double()))


def test_what_was_learnt_by_heart_is_known_of_the_training_rows_only(tmp_path):
    """Of labels by the toss of a coin, nothing is known of the others."""
    start, end = history_of(tmp_path, 0.5, epochs=(0, 300), rate=1e-2, training_share=0.5, widths=(12, 64), passes=1)
    assert start["training error"] > 20
    assert end["training error"] == 0
    assert end["test error"] > 20


def test_a_network_learns_the_same_however_it_is_read(tmp_path):
    """The noise and the critics of a reading draw random numbers that are not those of the network's training."""
    few, many = (
        history_of(tmp_path / str(passes), 0.3, epochs=(0, 1, 3), rate=1e-2, batch=8, passes=passes)
        for passes in (1, 3)
    )
    for one, other in zip(few, many, strict=True):
        for key in ("epoch", "training error", "test error"):
            assert one[key] == other[key]
        for layer, again in zip(one["layers"], other["layers"], strict=True):
            assert layer["spread of activations"] == again["spread of activations"]
        # That of a further layer has noise that is drawn after the critic of the first has trained.
        for of in ("I(X;T)", "I(Y;T)"):
            assert one["layers"][0][of] == other["layers"][0][of]
        assert one["layers"][0]["I(X;T), MINE"] != other["layers"][0]["I(X;T), MINE"]
    # And it does learn.
    assert few[0]["layers"][0]["spread of activations"] != few[-1]["layers"][0]["spread of activations"]


def test_the_share_of_layers_that_hold_less_than_the_one_before():
    moments = [{"layers": [{"I(X;T)": value} for value in values]} for values in ((5, 4, 3, 3.5), (2, 2))]
    # Four pairs, of one moment each; what holds as much is in order.
    assert ordered_share({"tanh": moments}) == 0.75
    assert ordered_share({"tanh": moments[:1], "relu": moments[1:]}) == 0.75
    assert ordered_share({"tanh": [{"layers": [{"I(X;T)": 5}]}]}) is None


def test_resumed(smoke, tmp_path, monkeypatch):
    whole, _ = smoke
    read = information_plane.estimated_information

    def failing(*arguments):
        if len(calls) == 1:  # at the second reading
            raise KeyboardInterrupt
        calls.append(1)
        return read(*arguments)

    calls: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(information_plane, "estimated_information", failing)
        with pytest.raises(KeyboardInterrupt):
            run_seed(EXPERIMENT, "smoke", tmp_path, checkpoint_seconds=0.0)
    assert run_seed(EXPERIMENT, "smoke", tmp_path) == whole
