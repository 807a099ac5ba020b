"""The fused ops: typed wrappers, and beside each its fake kernel and autograd.

They work under autograd, autocast and `torch.compile(fullgraph=True)`, and are written for CPU and CUDA tensors and for
CUDA graphs (docs/benchmarks.md says what a GPU has run). A shuffle is named by a key, an int64 tensor (seed, offset) on
the device of the data: nothing is drawn, stored or synchronised, and the same key gives the same pairs on every device.
`mine_fast.reference` holds the same maths in plain torch, with lower-level arguments.
"""

from __future__ import annotations

from mine_fast import fallback
from mine_fast.ops.all_pairs import all_pairs_loss
from mine_fast.ops.dv import DVTerm, dv_loss, dv_loss_of_scores
from mine_fast.ops.first_layer import paired_first_layer
from mine_fast.ops.pairing import pair
from mine_fast.ops.shuffle import advance_key, marginal_shuffle, shuffle_index, shuffle_key
from mine_fast.reference import ACTIVATIONS, LOSSES

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "DVTerm",
    "advance_key",
    "all_pairs_loss",
    "dv_loss",
    "dv_loss_of_scores",
    "marginal_shuffle",
    "pair",
    "paired_first_layer",
    "shuffle_index",
    "shuffle_key",
]

fallback.register()
