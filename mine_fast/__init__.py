"""Mutual information estimation with neural critics (MINE), fast, with error bars, on CPU and CUDA.

    r = mine_fast.estimate(x, y)                        two arrays in, a number with its error out
    r = mine_fast.MINE(T, method="concat").fit(x, y)    the same for a critic of one's own
    loss = mine_fast.MINE(T)(x, z)                      minus the bound on a batch, for a training loop of one's own

All values are in nats unless a name says bits.
"""

from mine_fast._version import __version__
from mine_fast.critics import MLPCritic
from mine_fast.estimator import MINE, estimate
from mine_fast.result import Flag, MIResult
from mine_fast.training import DivergenceError, TrainingSettings

__all__ = ["MINE", "DivergenceError", "Flag", "MIResult", "MLPCritic", "TrainingSettings", "__version__", "estimate"]
