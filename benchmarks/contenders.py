"""Estimators of mutual information to compare: one function each, which imports what it needs when it is called.

A contender takes x [N, dx], y [N, dy] and a seed and returns an `Estimate` in nats. All run by the defaults of their
package on the columns as they come. `pip install infomeasure` brings the KSG; torch-mist pins numpy below 2, which it
does not need: `pip install --no-deps torch-mist pyro-ppl pyro-api opt_einsum` and tqdm, pandas.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import record


@dataclass(frozen=True)
class Estimate:
    """Nats; the error bar and the lower bound where a contender gives them."""

    mi: float
    stderr: float | None = None
    lower_95: float | None = None


def mine_fast(x: np.ndarray, y: np.ndarray, seed: int) -> Estimate:
    import mine_fast as package

    r = package.estimate(x, y, seed=seed)
    return Estimate(r.mi, r.stderr, r.lower(0.95))


def sklearn(x: np.ndarray, y: np.ndarray, seed: int) -> Estimate:
    """`mutual_info_regression`: nearest neighbours of two columns, 3 of them."""
    from sklearn.feature_selection import mutual_info_regression

    return Estimate(float(mutual_info_regression(x, y[:, 0], random_state=seed)[0]))


def ksg(x: np.ndarray, y: np.ndarray, seed: int) -> Estimate:
    """Kraskov, Stoegbauer and Grassberger (2004), by infomeasure; 4 neighbours, maximum norm."""
    import infomeasure

    infomeasure.Config.set("base", "e")
    np.random.seed(seed)  # noqa: NPY002 - it breaks ties by noise from numpy's global generator
    return Estimate(float(infomeasure.mutual_information(x, y, approach="ksg")))


def cca(x: np.ndarray, y: np.ndarray, seed: int) -> Estimate:
    """What a Gaussian of the sample's covariance holds: canonical correlations, -sum log(1 - rho^2) / 2."""
    bases = [np.linalg.svd(v - v.mean(0), full_matrices=False)[0] for v in (x, y)]
    rho = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    return Estimate(float(-0.5 * np.log1p(-(rho**2)).sum()))


def mine_pytorch(x: np.ndarray, y: np.ndarray, seed: int, epochs: int = 100, batch: int = 500) -> Estimate:
    """mine-pytorch's training by its README (100-100 ReLU, Adam 1e-4, 100 epochs), read off a fifth held out.

    Its own number is read off the training rows, which overstates: the held-out read-out is for its good.
    """
    import math

    import torch
    from baselines import make_critic, mine_pytorch_step

    critic = make_critic(x.shape[1], y.shape[1], 100, 2, seed=seed)
    step = mine_pytorch_step(critic)
    rows = torch.randperm(len(x))
    held, kept = rows[: len(x) // 5], rows[len(x) // 5 :]
    columns = [torch.from_numpy(v).float() for v in (x, y)]
    for _ in range(epochs):
        for at in kept[torch.randperm(len(kept))].split(batch):
            step(*(v[at] for v in columns))
    with torch.no_grad():
        x_held, y_held = (v[held] for v in columns)
        joint = critic(torch.cat([x_held, y_held], 1)).mean()
        marginal = critic(torch.cat([x_held, y_held[torch.randperm(len(held))]], 1))
        return Estimate(float(joint - (torch.logsumexp(marginal, 0).squeeze() - math.log(len(held)))))


def torch_mist(x: np.ndarray, y: np.ndarray, seed: int) -> Estimate:
    """Its MINE by its defaults (128 wide, 5000 steps at most, stopped early), read off a fifth held out at once."""
    import torch
    from torch_mist.utils import estimate_mi

    torch.manual_seed(seed)
    held = len(x) // 5
    x_rows, y_rows = (torch.from_numpy(v[np.random.default_rng(seed).permutation(len(v))]).float() for v in (x, y))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        value = estimate_mi(
            data=(x_rows[held:], y_rows[held:]),
            test_data=(x_rows[:held], y_rows[:held]),
            estimator="mine",
            evaluation_batch_size=held,
            verbose=False,
            logger=False,
        )
    return Estimate(float(value))


@dataclass(frozen=True)
class Contender:
    """An estimator and what it is for.

    Attributes:
        estimate: (x, y, seed) -> Estimate.
        label: its name in tables and pictures.
        package: the distribution that it needs and whose version its figures belong to.
        columns: dx and dy at most.
    """

    estimate: Callable[[np.ndarray, np.ndarray, int], Estimate]
    label: str
    package: str
    columns: int = 1000

    def version(self) -> str | None:
        """None: not installed."""
        if self.package == "mine-fast":
            return source_version()
        try:
            return f"{self.package} {metadata.version(self.package)}"
        except metadata.PackageNotFoundError:
            return None


def source_version() -> str:
    """The last commit that changed the package: one that changes a benchmark leaves its figures valid."""
    shown = subprocess.run(
        ["git", "log", "-1", "--format=%h", "--", "csrc", "mine_fast", "setup.py"],
        cwd=record.ROOT,
        capture_output=True,
        text=True,
    )
    return f"mine-fast {shown.stdout.strip()}" + ("+changes" if record.commit().endswith("+changes") else "")


CONTENDERS: dict[str, Contender] = {
    "mine_fast": Contender(mine_fast, "mine_fast", "mine-fast"),
    "sklearn": Contender(sklearn, "scikit-learn, 1 + 1 columns", "scikit-learn", columns=1),
    # Its trees come down to all pairs in many dimensions: minutes an estimate at 20 + 20 columns and 10,000 rows.
    "ksg": Contender(ksg, "KSG (infomeasure)", "infomeasure", columns=10),
    "cca": Contender(cca, "Gaussian (CCA)", "numpy"),
    "mine_pytorch": Contender(mine_pytorch, "mine-pytorch's way", "torch"),
    "torch_mist": Contender(torch_mist, "torch-mist's MINE", "torch-mist"),
}
