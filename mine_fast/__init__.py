"""Mutual information estimation with neural critics (MINE), fast, with error bars, on CPU and CUDA.

    r = mine_fast.estimate(x, y)                        two arrays in, a number with its error out
    r = mine_fast.conditional(x, y, z)                  I(X;Y|Z), likewise
    rs = mine_fast.estimate_many(pairs)                 many at once, each as if alone
    m = mine_fast.pairwise(table)                       every two columns of a table
    s = mine_fast.MutualInfoSelector()                  a scikit-learn selector of features
    r = mine_fast.MINE(T, method="concat").fit(x, y)    the same for a critic of one's own
    loss = mine_fast.MINE(T)(x, z)                      minus the bound on a batch, for a training loop of one's own

All values are in nats unless a name says bits.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mine_fast._version import __version__

if TYPE_CHECKING:
    from mine_fast.column_pairs import pairwise
    from mine_fast.conditioning import conditional
    from mine_fast.default_critics import MLPCritic
    from mine_fast.errors import DivergenceError
    from mine_fast.estimator import MINE, estimate
    from mine_fast.feature_selection import MutualInfoSelector as MutualInfoSelector  # not in __all__: needs an extra
    from mine_fast.many import estimate_many
    from mine_fast.matrix import MIMatrix
    from mine_fast.noise import GaussianNoise
    from mine_fast.result import FailedEstimate, Flag, MIResult
    from mine_fast.separable import SeparableCritic
    from mine_fast.settings import TrainingSettings

__all__ = [
    "MINE",
    "DivergenceError",
    "FailedEstimate",
    "Flag",
    "GaussianNoise",
    "MIMatrix",
    "MIResult",
    "MLPCritic",
    "SeparableCritic",
    "TrainingSettings",
    "__version__",
    "conditional",
    "estimate",
    "estimate_many",
    "pairwise",
]

# Names are fetched at first use: `mine-fast --help` does not wait for torch, and `mine-fast info` still answers where
# the compiled library does not load.
_HOMES = {
    "MINE": "estimator",
    "DivergenceError": "errors",
    "FailedEstimate": "result",
    "Flag": "result",
    "GaussianNoise": "noise",
    "MIMatrix": "matrix",
    "MIResult": "result",
    "MLPCritic": "default_critics",
    "MutualInfoSelector": "feature_selection",
    "SeparableCritic": "separable",
    "TrainingSettings": "settings",
    "conditional": "conditioning",
    "estimate": "estimator",
    "estimate_many": "many",
    "pairwise": "column_pairs",
}


#: Submodules that are public by themselves.
_SUBMODULES = ("bounds", "ops", "reference")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"mine_fast.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'mine_fast' has no attribute {name!r}")
    value = getattr(import_module(f"mine_fast.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_SUBMODULES})
