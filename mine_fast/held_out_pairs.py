"""Which pairs of held-out rows are scored: every row with its own partner, and with that of some derangements."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mine_fast import ops
from mine_fast.data import PairSource
from mine_fast.errors import DivergenceError
from mine_fast.evaluation import HeldOutScores
from mine_fast.pair_scoring import CALL_ROWS, PairScorer
from mine_fast.reference import log_mean_exp

__all__ = ["CHUNK_ROWS", "HeldOutPairs", "level_of_rows"]

#: Rows that are shuffled among each other; bounds the memory of a source that does not fit it.
CHUNK_ROWS = 8192


class HeldOutPairs:
    """Held-out rows, and the pairs of them that critics are scored on, the same at every call.

    Args:
        source: where the rows are.
        rows: int64 [n], n >= 2.
        seed: names the derangements.
        shuffles: S, derangements of y.
    """

    def __init__(self, source: PairSource, rows: Tensor, seed: int, shuffles: int) -> None:
        self.source, self.seed, self.shuffles = source, seed, shuffles
        self.chunks = rows.tensor_split(-(-rows.numel() // CHUNK_ROWS))
        # Few enough are kept: a training asks for its validation rows again and again.
        self.kept = [self._read(0)] if len(self.chunks) == 1 else None

    @torch.no_grad()
    def _read(self, chunk: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows x and y of a chunk, the partners [1 + S, n] of each row of x, and the owners [S, n] of each of y."""
        x, y = self.source.rows(self.chunks[chunk])
        n = x.shape[0]
        key = ops.shuffle_key(self.seed, chunk, device=x.device)
        own = torch.arange(n, device=x.device)[None]
        partner = torch.cat([own, ops.shuffle_index(n, key, self.shuffles)])
        return x, y, partner, ops.shuffle_index(n, key, self.shuffles, inverse=True)

    def _parts(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        return iter(self.kept) if self.kept is not None else map(self._read, range(len(self.chunks)))

    @torch.no_grad()
    def scores(self, score: PairScorer, level: Callable[[Tensor], Tensor] | None = None) -> HeldOutScores:
        """Score the pairs.

        Args:
            score: of the pairs of some rows.
            level: x [b, ...] -> [b], taken from every score of a row of x: a function that these rows did not shape, so
                that what is left is a critic like any other. None: nothing.

        Raises:
            DivergenceError: scores that are not finite.
        """
        joint, marginal, as_y = [], [], []
        for x, y, partner, owner in self._parts():
            scores = score(x, y, partner).double()  # [1 + S, n]
            if level is not None:
                scores -= level(x)
            joint.append(scores[0].cpu())
            marginal.append(scores[1:].cpu())
            as_y.append(scores[1:].gather(1, owner).cpu())
            if not bool(torch.isfinite(scores).all()):
                raise DivergenceError(
                    "the scores of T on rows that it did not train on are not all finite numbers; lower learning_rate "
                    "or scale the inputs"
                )
        return HeldOutScores(torch.cat(joint), torch.cat(marginal, 1), torch.cat(as_y, 1))


def level_of_rows(score: Callable[[Tensor, Tensor], Tensor], y: Tensor) -> Callable[[Tensor], Tensor]:
    """The function x [b, ...] -> [b] by which a critic's scores of a row of x exceed those of a normalised one.

    log mean_j exp T(x, y_j) over reference rows y [M, ...]: what is left of T without it has E_y[exp T] = 1 for every
    x, up to the error of M rows, as the log density ratio has.
    """

    def level(x: Tensor) -> Tensor:
        rows = x.split(max(1, CALL_ROWS // len(y)))
        every_y = y.repeat(len(rows[0]), *(1,) * (y.ndim - 1))
        scores = [score(a.repeat_interleave(len(y), 0), every_y[: len(a) * len(y)]).view(len(a), -1) for a in rows]
        return torch.cat([log_mean_exp(s.double().T) for s in scores])

    return level
