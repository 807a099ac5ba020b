"""The experiments of the MINE paper and of mine-pytorch, one file and one command each.

    mine-fast experiment --list
    mine-fast experiment gaussian --preset quick --out runs/gaussian --seeds 0-4

This file names them and imports none: they need `pip install '.[experiments]'` from the repository.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mine_fast.experiments.experiment import Experiment

__all__ = ["SUMMARIES", "load"]

#: What there is, by name, and what it shows.
SUMMARIES = {
    "gaussian": "MINE, the f-bound, estimate() and KSG against the truth on Gaussians of 1, 2 and 20 dimensions",
    "equitability": "whether MINE cares which function carries the information: y = f(x) + noise, beside exact values",
    "gan-spiral": "a GAN on a spiral, with and without the information between its samples and its code",
    "gan-25gaussians": "the same on two grids of 25 Gaussians: modes covered, with and without",
    "gan-stacked-mnist": "the same on three stacked digits: how many of 1000 modes",
    "bigan-25gaussians": "a GAN that also encodes: reconstructions with and without the information of data and code",
    "bigan-mnist": "the same on digits: reconstruction error, accuracy of a classifier on reconstructions, MS-SSIM",
    "ib-mnist": "a deep information bottleneck with MINE's I(X;Z) on MNIST, beside four regularisers and VIB",
    "information-plane": "I(X;T) and I(Y;T) of every layer through training, tanh against ReLU, beside exact values",
}

#: Where an experiment is that does not sit in the module of its name.
_HOMES = {
    "gan-spiral": "gan_plane:SPIRAL",
    "gan-25gaussians": "gan_plane:GAUSSIANS",
}


def load(name: str) -> Experiment[Any]:
    """The experiment of a name.

    Raises:
        ValueError: there is none.
        ImportError: a package that it needs is not installed; the message says which to install.
    """
    if name not in SUMMARIES:
        raise ValueError(f"experiment must be one of {', '.join(SUMMARIES)}, got {name!r}")
    module, _, attribute = _HOMES.get(name, name.replace("-", "_") + ":EXPERIMENT").partition(":")
    try:
        experiment: Experiment[Any] = getattr(import_module(f"{__name__}.{module}"), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("mine_fast"):
            raise
        raise ImportError(f"experiments need {error.name}: pip install '.[experiments]' in the repository") from error
    return experiment
