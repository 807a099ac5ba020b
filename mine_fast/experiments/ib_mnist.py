"""A deep information bottleneck on MNIST, its I(X;Z) by MINE, beside the regularisers that the paper compares it with.

The classifier reads pixels in any order (a perceptron). The stochastic arms encode an image x as z ~ N(mu(x), sd(x)^2)
with K dimensions, decode z by one linear layer, and minimise (Alemi et al. 2017, arXiv 1612.00410)

    cross entropy(y | z) + beta * I(X; Z)

where the arms differ in the second term: nothing, a variational upper bound (VIB), or MINE (Belghazi et al. 2018,
section 5.3), whose critic has noise before every layer.

MINE's loss is *minus* I(X;Z): the critic has to bring it down, and the encoder, which is to hold little, has to bring
it up. `reversed_gradient` on z is that sign: by `cross_entropy + mine(x, z)` the encoder would hold all it can.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import mine_fast
from mine_fast.experiments.data import Digits
from mine_fast.experiments.digits import prepared
from mine_fast.experiments.experiment import Experiment, Metrics, check_among
from mine_fast.experiments.figures import CYCLE, panels
from mine_fast.experiments.run import Run, drawing_from
from mine_fast.files import save_figure
from mine_fast.plotting import BLUE, GREY, ORANGE

__all__ = ["ARMS", "EXPERIMENT", "Settings", "reversed_gradient", "sampled_information"]

#: What is compared, with the error that the MINE paper's table gives for it (percent; none for the control).
ARMS = {
    "baseline": 1.38,
    "dropout": 1.34,
    "confidence penalty": 1.36,
    "label smoothing": 1.40,
    "stochastic, beta 0": None,
    "VIB": 1.13,
    "MINE": 1.01,
}

#: Those whose code has noise.
STOCHASTIC = ("stochastic, beta 0", "VIB", "MINE")


@dataclass(frozen=True)
class Settings:
    """Of the experiment.

    Attributes:
        rows: training images, from the first.
        test_rows: test images, from the first.
        epochs: passes over them.
        hidden: width of the encoder's two hidden layers.
        codes: K, dimensions of z.
        beta: weight of I(X;Z) in nats.
        rate: of Adam, times `decay` every second epoch.
        averaging: decay per step of the averaged weights.
        critic_noise: standard deviation of the noise at the critic's input and behind its two hidden layers.
        draws: codes per test image whose predictions are averaged.
        described: test images on which I(X;Z) is read, at most its logarithm.
    """

    rows: int = 60_000
    test_rows: int = 10_000
    epochs: int = 200
    batch: int = 100
    hidden: int = 1024
    codes: int = 256
    beta: float = 1e-3
    rate: float = 1e-4
    decay: float = 0.97
    averaging: float = 0.999
    critic_width: int = 512
    critic_noise: tuple[float, ...] = (0.3, 0.5, 0.5)
    dropout: float = 0.5
    smoothing: float = 0.1
    penalty: float = 0.1
    draws: int = 12
    described: int = 2500
    arms: tuple[str, ...] = tuple(ARMS)

    def __post_init__(self) -> None:
        check_among("arms", self.arms, ARMS)


class Classifier(nn.Module):
    """784 -> hidden -> hidden -> 10."""

    def __init__(self, settings: Settings, dropout: float = 0.0) -> None:
        super().__init__()
        width = settings.hidden
        self.layers = nn.Sequential(
            *(nn.Linear(784, width), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout)),
            nn.Linear(width, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10] of images [B, 784]."""
        return self.layers(x)


class Bottleneck(nn.Module):
    """784 -> hidden -> hidden -> a normal distribution of K codes -> 10."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width = settings.hidden
        self.encoder = nn.Sequential(
            *(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
            nn.Linear(width, 2 * settings.codes),
        )
        self.decoder = nn.Linear(settings.codes, 10)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B, K] of the code of each image."""
        mean, raw = self.encoder(x).chunk(2, 1)
        return mean, F.softplus(raw)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits [B, 10], a code [B, K] of each image, and its mean and standard deviation."""
        mean, sd = self.encode(x)
        z = mean + sd * torch.randn_like(sd)
        return self.decoder(z), z, mean, sd


class _ReversedGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, z: Tensor, weight: float) -> Tensor:
        context.weight = weight
        return z.view_as(z)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return -context.weight * gradient, None


def reversed_gradient(z: Tensor, weight: float) -> Tensor:
    """Z as it is, whose gradient comes back times -weight: what is minimised behind it is maximised before it.

    >>> z = torch.ones(2, requires_grad=True)
    >>> reversed_gradient(z, 0.5).sum().backward()
    >>> z.grad
    tensor([-0.5000, -0.5000])
    """
    return _ReversedGradient.apply(z, weight)


def make_critic(settings: Settings) -> nn.Sequential:
    """The paper's critic on [x, z], with noise in training."""
    width, (at_input, first, second) = settings.critic_width, settings.critic_noise
    return nn.Sequential(
        *(mine_fast.GaussianNoise(at_input), nn.Linear(784 + settings.codes, width), nn.ELU()),
        *(mine_fast.GaussianNoise(first), nn.Linear(width, width), nn.ELU()),
        *(mine_fast.GaussianNoise(second), nn.Linear(width, 1)),
    )


@dataclass(frozen=True)
class Objective:
    """What an arm minimises, of a batch of images and labels.

    The noise of MINE's critic comes from a generator of its own: the arm gets the batches and codes of the arm without.

    Attributes:
        settings: of the experiment.
        arm: one of `ARMS`.
        net: a `Bottleneck` for the stochastic arms, a `Classifier` for the others.
        mine: of images and codes.
        noise: of the critic.
    """

    settings: Settings
    arm: str
    net: nn.Module
    mine: mine_fast.MINE
    noise: torch.Generator

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss [] of images [B, 784] with labels [B]."""
        settings, arm = self.settings, self.arm
        if arm not in STOCHASTIC:
            logits = self.net(x)
            smoothing = settings.smoothing if arm == "label smoothing" else 0.0
            loss = F.cross_entropy(logits, y, label_smoothing=smoothing)
            return loss - settings.penalty * entropy(logits) if arm == "confidence penalty" else loss
        logits, z, mean, sd = self.net(x)
        loss = F.cross_entropy(logits, y)
        if arm == "VIB":
            return loss + settings.beta * rate_above_normal(mean, sd)
        if arm == "MINE":
            with drawing_from(self.noise):
                return loss + self.mine(x, reversed_gradient(z, settings.beta))
        return loss


def train(run: Run[Settings], arm: str, training: Digits, test: Digits) -> Metrics:
    """One arm: its test errors and, if it is stochastic, what its code holds, epoch by epoch."""
    settings = run.settings
    dropout = settings.dropout if arm == "dropout" else 0.0
    net = run.on_device(Bottleneck(settings) if arm in STOCHASTIC else Classifier(settings, dropout))
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(settings.averaging))
    mine = run.on_device(mine_fast.MINE(make_critic(settings), loss="mine", method="concat"))
    optimizer = torch.optim.Adam(
        [*net.parameters(), *mine.parameters()], lr=settings.rate, betas=(0.5, 0.999), fused=True
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=settings.decay)
    critic_noise = run.stream()
    objective = Objective(settings, arm, net, mine, critic_noise)
    some = test.images[: settings.described]
    history: list[Metrics] = []
    for epoch in run.loop(
        settings.epochs,
        net=net,
        averaged=averaged,
        mine=mine,
        critic_noise=critic_noise,
        optimizer=optimizer,
        schedule=schedule,
        history=history,
    ):
        for rows in torch.randperm(len(training.labels)).split(settings.batch):
            loss = objective(training.images[rows], training.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            averaged.update_parameters(net)
        schedule.step()
        history.append(
            {
                "error": error_percent(net, test, settings.draws),
                "averaged error": error_percent(averaged.module, test, settings.draws),
                **(described(net, mine if arm == "MINE" else None, some) if isinstance(net, Bottleneck) else {}),
            }
        )
        run.log(epoch + 1, **{name.replace(" ", "_"): value for name, value in history[-1].items()})
    return {**history[-1], "curve": history}


def entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions, in nats."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


def rate_above_normal(mean: Tensor, sd: Tensor) -> Tensor:
    """VIB's upper bound on I(X;Z): the mean divergence of the codes from N(0, 1), in nats."""
    return 0.5 * (mean.square() + sd.square() - 1 - 2 * sd.log()).sum(1).mean()


@torch.no_grad()
def error_percent(net: nn.Module, test: Digits, draws: int) -> float:
    """Test images told wrong; of a stochastic classifier by the mean prediction of several codes."""
    net.eval()
    if isinstance(net, Bottleneck):
        mean, sd = net.encode(test.images)
        predicted = sum(net.decoder(mean + sd * torch.randn_like(sd)).softmax(1) for _ in range(draws))
        assert isinstance(predicted, Tensor)
    else:
        predicted = net(test.images)
    net.train()
    return 100 * float((predicted.argmax(1) != test.labels).double().mean())


@torch.no_grad()
def described(net: Bottleneck, mine: mine_fast.MINE | None, images: Tensor) -> Metrics:
    """What the codes of test images hold, and how wide their noise is.

    An encoder whose noise has vanished holds everything, whatever a critic says: the standard deviation is to be read
    beside the information, absolute and as a share of the means' own spread.
    """
    mean, sd = net.encode(images)
    z = mean + sd * torch.randn_like(sd)
    found = {
        "noise sd": float(sd.mean()),
        "noise to signal": float((sd.square().mean() / mean.var(0).mean()).sqrt()),
        "I(X;Z), exact": sampled_information(z, mean, sd),
        "I(X;Z), VIB bound": float(rate_above_normal(mean, sd)),
    }
    return found if mine is None else {**found, "I(X;Z), MINE": float(mine.mi(images, z))}


def sampled_information(z: Tensor, mean: Tensor, sd: Tensor) -> float:
    """I(X;Z) in nats of X that is one of N rows, each as likely, from one code of each: the density of z is a mixture
    of N known normals. At most log N.

    Args:
        z: [N, K], a code of each row.
        mean: [N, K].
        sd: [N, K].
    """
    precision, log_sd = sd.double().square().reciprocal(), sd.double().log().sum(1)
    z, mean = z.double(), mean.double()
    offset = -0.5 * (mean.square() * precision).sum(1) - log_sd  # [N], of the centre
    total = 0.0
    for rows in torch.arange(len(z), device=z.device).split(1000):
        log_density = offset + z[rows] @ (mean * precision).T - 0.5 * z[rows].square() @ precision.T  # [rows, centres]
        own = log_density[torch.arange(len(rows)), rows]
        total += float((own - log_density.logsumexp(1)).sum())
    return total / len(z) + math.log(len(z))


def run(run: Run[Settings]) -> Metrics:
    """Every arm, from the same seed."""
    training = pixels(run, "train", run.settings.rows)
    test = pixels(run, "test", run.settings.test_rows)
    arms = {arm: run.part(arm, partial(train, run, arm, training, test)) for arm in run.settings.arms}
    draw_curves(run, arms)
    return arms


def pixels(run: Run[Settings], split: str, rows: int) -> Digits:
    """The first images of a split as rows of 784 values in [-1, 1], on the device."""
    images, labels = prepared(run, split, rows)
    return Digits(images.flatten(1), labels)


def draw_curves(run: Run[Settings], arms: Metrics) -> None:
    """Error, information and noise by epoch."""
    figure, axes = panels(1, 3)
    error, information, noise = axes[0]
    colours = dict(zip(ARMS, (*CYCLE, "#e69f00"), strict=True))  # the same for an arm, whichever others were run
    lowest, highest = math.inf, 0.0
    for arm, result in arms.items():
        colour = colours[arm]
        epochs = range(1, len(result["curve"]) + 1)
        errors = [row["averaged error"] for row in result["curve"]]
        error.plot(epochs, errors, color=colour, label=arm)
        lowest, highest = min(lowest, *errors), max(highest, *errors[len(errors) // 20 :])
        if "noise sd" in result:
            information.plot(epochs, [row["I(X;Z), exact"] for row in result["curve"]], color=colour, label=arm)
            noise.plot(epochs, [row["noise to signal"] for row in result["curve"]], color=colour, label=arm)
        if "I(X;Z), MINE" in result:
            readings = [row["I(X;Z), MINE"] for row in result["curve"]]
            information.plot(epochs, readings, color=colour, linestyle="--", label="MINE's critic")
    error.set(xlabel="epoch", ylabel="test error, averaged weights (%)")
    error.set_ylim(0.95 * lowest, 1.05 * highest)  # of a long training, the first steep epochs leave the panel
    information.set(xlabel="epoch", ylabel="I(X;Z), test images (nats)", ylim=(0, None))
    most = math.log(run.settings.described)
    information.axhline(most, color=GREY, linestyle=":", label=f"log {run.settings.described}, the most to see")
    noise.set(xlabel="epoch", ylabel="noise sd / spread of the means", yscale="log")
    for panel in axes[0]:
        panel.grid(alpha=0.25)
        if panel.get_legend_handles_labels()[0]:  # none without a stochastic arm
            panel.legend(fontsize="x-small")
    run.save_figure("curves", figure)


def compare(folder: Path, runs: Sequence[Metrics]) -> None:
    """The errors of all seeds beside the published ones."""
    figure, axes = panels(1, 1, size=(7, 3.8))
    panel, arms = axes[0, 0], list(runs[0])
    for key, colour, shift in (("error", ORANGE, 0.15), ("averaged error", BLUE, -0.15)):
        for row, arm in enumerate(arms):
            values = [result[arm][key] for result in runs]
            panel.plot(values, [row + shift] * len(values), "o", color=colour, alpha=0.35, markersize=4)
            label = {"error": "last weights", "averaged error": "averaged weights"}[key] if row == 0 else None
            panel.plot([sum(values) / len(values)], [row + shift], "|", color=colour, markersize=16, label=label)
    for row, arm in enumerate(arms):
        if ARMS.get(arm) is not None:
            panel.plot([ARMS[arm]], [row], "x", color=GREY, label="published" if row == 0 else None)
    panel.set_yticks(range(len(arms)), arms)
    panel.invert_yaxis()
    panel.set_xlabel(f"test error (%), {len(runs)} seeds")
    panel.grid(alpha=0.25)
    panel.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    save_figure(folder / "errors.png", figure, dpi=120)


EXPERIMENT = Experiment(
    "ib-mnist",
    {
        "smoke": Settings(
            rows=1000,
            test_rows=2000,
            described=1000,
            epochs=2,
            hidden=64,
            codes=16,
            critic_width=32,
            rate=2e-3,
            averaging=0.9,
            draws=3,
        ),
        "quick": Settings(epochs=8, batch=256, hidden=512, rate=5e-4, averaging=0.997),
        "paper": Settings(),
    },
    run,
    compare,
)
