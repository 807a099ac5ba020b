"""The information plane: what each layer of a small network holds of its input X and of its label Y, through training.

The task is that of Shwartz-Ziv & Tishby (2017, arXiv 1703.00810): X is one of the 4096 subsets of 12 points spread
evenly over a sphere (here the corners of an icosahedron); a feature of it that no rotation changes, through a steep
sigmoid with its threshold in the middle, is the probability of Y = 1. Networks of 12-10-7-5-4-3 units, tanh or ReLU
(Saxe et al. 2018), learn it.

The activations are a function of X: I(X;T) of a deterministic network is infinite or, of X with 4096 values, always
12 bits. Noise of standard deviation `noise`, added to a layer where it is read and nowhere else, makes it a question.
With it, T is a mixture of 4096 known normal distributions, so that both informations can be computed: those values
stand beside the estimates.

Noise that is not passed on makes T of one layer no function of T of the layer before: data processing orders I(Y;T)
below I(X;T) and both below 12 bits for certain, and layers only as far as their scales are alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import LogNorm
from torch import Tensor, nn
from torch.nn import functional as F

import mine_fast
from mine_fast.experiments.experiment import Experiment, Metrics, check_among
from mine_fast.experiments.figures import panels
from mine_fast.experiments.layer_critic import (
    BITS,
    Channel,
    CriticSettings,
    estimated_information,
    make_critic,
    train_critic,
)
from mine_fast.experiments.run import Run, seeded
from mine_fast.files import save_figure

__all__ = ["EXPERIMENT", "Settings", "Task", "exact_information", "sphere_task"]

#: Between the seeds of two readings, so that no noise comes twice.
READING_SEEDS = 1_000_003
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


@dataclass(frozen=True)
class Settings(CriticSettings):
    """Of the experiment, `CriticSettings` and these.

    Attributes:
        widths: units of the input and the hidden layers.
        epochs: at which the layers are read; training ends with the last.
        noise: standard deviation of what is added to a layer that is read.
        training_share: of the 4096 inputs.
    """

    activations: tuple[str, ...] = ("tanh", "relu")
    widths: tuple[int, ...] = (12, 10, 7, 5, 4, 3)
    epochs: tuple[int, ...] = (0, 10, 100, 300, 1000)
    rate: float = 1e-3
    batch: int = 256
    noise: float = 0.1
    training_share: float = 0.85

    def __post_init__(self) -> None:
        check_among("activations", self.activations, ACTIVATIONS)


class Task(NamedTuple):
    """Inputs of -1 and 1 [4096, 12], and the probability [4096] of Y = 1 for each."""

    x: Tensor
    p: Tensor


def sphere_task(gain: float = 20.0) -> Task:
    """Every subset of an icosahedron's corners, labelled by its dipole.

    The power of a pattern in the spherical harmonics of a degree is unchanged by rotations (Kazhdan et al. 2003). That
    of degree 1, the squared length of the sum of the chosen corners, takes 20 values here; the threshold lies between
    those two of them that leave half the patterns on either side. With a gain of 20, I(X;Y) is 0.998 bits.
    """
    golden = (1 + math.sqrt(5)) / 2
    corners = [
        corner
        for one in (-1.0, 1.0)
        for other in (-golden, golden)
        for corner in ((0.0, one, other), (one, other, 0.0), (other, 0.0, one))
    ]
    points = np.array(corners) / math.hypot(1.0, golden)
    chosen = (np.arange(4096)[:, None] >> np.arange(12)) & 1
    power = ((chosen @ points) ** 2).sum(1)
    levels = np.unique(power.round(6))
    middles = (levels[1:] + levels[:-1]) / 2
    threshold = middles[np.argmin([abs((power > middle).mean() - 0.5) for middle in middles])]
    p = 1 / (1 + np.exp(-gain * (power - threshold)))
    return Task(torch.from_numpy(2.0 * chosen - 1).float(), torch.from_numpy(p))


class Network(nn.Module):
    """Hidden layers that can be read, and two logits."""

    def __init__(self, widths: Sequence[int], activation: type[nn.Module]) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Sequential(nn.Linear(a, b), activation()) for a, b in pairwise(widths))
        self.output = nn.Linear(widths[-1], 2)

    def layers(self, x: Tensor) -> list[Tensor]:
        """The activations of every hidden layer."""
        found = []
        for layer in self.hidden:
            x = layer(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 2] of inputs [B, 12]."""
        return self.output(self.layers(x)[-1])


def exact_information(centres: Tensor, p: Tensor, noise: float, draws: int = 1) -> tuple[float, float]:
    """I(X;T) and I(Y;T) in bits, of T = centre of X + noise, with X one of N, each as likely.

    What is left is the mean over T of the entropy of X (or Y) given T, from `draws` T for each X.

    Args:
        centres: [N, d].
        p: [N], probability of Y = 1.
        noise: standard deviation.
        draws: for each X.
    """
    centres, p = centres.double(), p.double()
    of_x = of_y = 0.0
    for _ in range(draws):
        t = centres + noise * torch.randn_like(centres)
        scores = (t @ centres.T - 0.5 * centres.square().sum(1)) / noise**2
        posterior = scores.softmax(1)  # [T, X]
        of_x += float(torch.special.entr(posterior).sum(1).mean()) / draws
        of_y += float(binary_entropy(posterior @ p).mean()) / draws
    return (math.log(len(centres)) - of_x) * BITS, (float(binary_entropy(p.mean())) - of_y) * BITS


def binary_entropy(p: Tensor) -> Tensor:
    """In nats."""
    p = p.clamp(0, 1)  # a sum of probabilities can round beyond 1, where entr(1 - p) is -inf
    return torch.special.entr(p) + torch.special.entr(1 - p)


def train(run: Run[Settings], activation: str, task: Task) -> list[Metrics]:
    """One network: at each of `epochs`, its errors and what its layers hold."""
    settings = run.settings
    net = run.on_device(Network(settings.widths, ACTIVATIONS[activation]))
    critics = run.on_device(nn.ModuleList(make_critic(settings, task.x, width) for width in settings.widths[1:]))
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.rate)
    y = (torch.rand(len(task.p), dtype=torch.double) < task.p.cpu()).long().to(run.device)
    order = torch.randperm(len(y))
    training, test = order.split(
        [round(settings.training_share * len(y)), len(y) - round(settings.training_share * len(y))]
    )
    history: list[Metrics] = []
    for epoch in run.loop(settings.epochs[-1] + 1, net=net, critics=critics, optimizer=optimizer, history=history):
        if epoch:
            for rows in training[torch.randperm(len(training))].split(settings.batch):
                loss = F.cross_entropy(net(task.x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if epoch in settings.epochs:
            with seeded(READING_SEEDS * (1 + epoch) + run.seed):  # the network learns the same however it is read
                layers = read_layers(settings, net, critics, task)
            with torch.no_grad():
                wrong = 100 * (net(task.x).argmax(1) != y).double()
            errors = {"training error": float(wrong[training].mean()), "test error": float(wrong[test].mean())}
            history.append({"epoch": epoch, **errors, "layers": layers})
            run.log(epoch, training_error=errors["training error"], test_error=errors["test error"])
    return history


def read_layers(settings: Settings, net: Network, critics: nn.ModuleList, task: Task) -> list[Metrics]:
    """Both informations of every layer, exact and estimated; a layer's critic goes on from the reading before."""
    with torch.no_grad():
        layers = net.layers(task.x)
    readings = []
    for mine, centres in zip(critics, layers, strict=True):
        assert isinstance(mine, mine_fast.MINE)
        of_x, of_y = exact_information(centres, task.p, settings.noise)
        channel = Channel(centres, settings.noise)
        train_critic(settings, mine, channel)
        of_x_estimated, of_y_estimated = estimated_information(mine, channel, task.p)
        readings.append(
            {
                "I(X;T)": of_x,
                "I(Y;T)": of_y,
                "I(X;T), MINE": of_x_estimated,
                "I(Y;T), MINE": of_y_estimated,
                "spread of activations": float(centres.std(0).mean()),
            }
        )
    return readings


def run(run: Run[Settings]) -> Metrics:
    """Both networks; errors of the estimates and the order that data processing asks for over all of their readings."""
    task = Task(*map(run.on_device, sphere_task()))
    networks = {name: run.part(name, partial(train, run, name, task)) for name in run.settings.activations}
    readings = [layer for history in networks.values() for moment in history for layer in moment["layers"]]
    errors = {of: [reading[f"{of}, MINE"]["bits"] - reading[of] for reading in readings] for of in ("I(X;T)", "I(Y;T)")}
    metrics: Metrics = {
        "mean absolute error, bits": {of: float(np.abs(values).mean()) for of, values in errors.items()},
        "worst error, bits": {of: max(values, key=abs) for of, values in errors.items()},
        "I(Y;T) above I(X;T)": sum(reading["I(Y;T)"] > reading["I(X;T)"] + 1e-9 for reading in readings),
        "estimates out of order": sum(
            reading["I(Y;T), MINE"]["bits"] > reading["I(X;T), MINE"]["bits"] + 3 * reading["I(Y;T), MINE"]["stderr"]
            for reading in readings
        ),
        "share of layers that hold less of X than the one before": ordered_share(networks),
        "networks": networks,
    }
    draw(run.folder / "plane.png", networks)
    return metrics


def ordered_share(networks: Metrics) -> float | None:
    """Adjacent layers whose exact I(X;T) is in the order of data processing; None if there is one layer."""
    pairs = [
        (before["I(X;T)"], after["I(X;T)"])
        for history in networks.values()
        for moment in history
        for before, after in pairwise(moment["layers"])
    ]
    return float(np.mean([after <= before for before, after in pairs])) if pairs else None


def draw(path: Path, networks: Metrics) -> None:
    """A panel per network, exact over estimated: a line joins the layers at one moment, its colour is the epoch."""
    figure, axes = panels(2, len(networks), size=(4.6, 3.6), sharex=True, sharey=True)
    for column, (name, history) in enumerate(networks.items()):
        for row, estimated in enumerate((False, True)):
            shown = draw_plane(axes[row, column], history, estimated)
            axes[row, column].set_title(f"{name}, {'MINE' if estimated else 'exact'}")
        axes[1, column].set_xlabel("I(X;T) (bits)")
    for panel in axes[:, 0]:
        panel.set_ylabel("I(Y;T) (bits)")
    figure.colorbar(shown, ax=axes, label="epoch")
    save_figure(path, figure, dpi=120)


def draw_plane(panel: Axes, history: Sequence[Metrics], estimated: bool) -> PathCollection:
    """One network's path through the plane."""
    last = max(2, history[-1]["epoch"])
    norm = LogNorm(1, last)
    for moment in history:
        x, y = (
            [layer[f"{of}, MINE"]["bits"] if estimated else layer[of] for layer in moment["layers"]]
            for of in ("I(X;T)", "I(Y;T)")
        )
        epochs = [max(1, moment["epoch"])] * len(x)
        panel.plot(x, y, color="#bbbbbb", linewidth=0.8, zorder=1)
        shown = panel.scatter(x, y, c=epochs, norm=norm, cmap="viridis", s=22, zorder=2)
    panel.grid(alpha=0.25)
    return shown


EXPERIMENT = Experiment(
    "information-plane",
    {
        "smoke": Settings(activations=("tanh",), widths=(12, 3), epochs=(0, 20), rate=1e-2, passes=10),
        "quick": Settings(),
        "paper": Settings(
            epochs=(0, 1, 2, 4, 7, 12, 20, 35, 60, 100, 180, 320, 560, 1000, 1800, 3200),
            passes=200,
            critic_batch=256,
        ),
    },
    run,
)
