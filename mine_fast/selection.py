"""Choosing the step of a training: its bound on validation rows, and the weights that did best there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from mine_fast.data import PairSource
from mine_fast.errors import DivergenceError
from mine_fast.evaluation import ESTIMATE_TAIL_ROWS, HeldOutScores, influence_variance
from mine_fast.held_out_pairs import HeldOutPairs
from mine_fast.pair_scoring import PairScorer
from mine_fast.settings import TrainingSettings
from mine_fast.steps import Keep

__all__ = ["RISE_NATS", "RISE_SHARE", "FoldHistory", "Selection"]


@dataclass
class FoldHistory:
    """The curves of one fold, in nats: steps at which they were read, bound on training batches and on validation.

    `late_gain` is what the last reading on validation is above the best one of the first three quarters of the steps,
    and `late_gain_variance` its variance from the sampling of the rows, which both readings share. 0 where nothing was
    read between a quarter of the steps and three.

    `diverged_at` is the step by which the training had left the finite numbers, where the curves end: its best weights
    from before are kept. None: it did not.
    """

    steps: list[int] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    late_gain: float = 0.0
    late_gain_variance: float = 0.0
    diverged_at: int | None = None


#: A rise of the bound in the last quarter that matters: as a share of the bound reached, and in nats. Beside
#: `flags.still_rising`, which says what was measured.
RISE_SHARE, RISE_NATS = 0.03, 0.002


class Selection:
    """Reads a critic off validation rows while it trains, and keeps its best weights.

    A training that leaves the finite numbers has its best weights all the same if it had arrived by then: if the last
    quarter of the readings brought the bound next to nothing. One that was cut off while it rose has no number that
    means anything.

    Args:
        score: by the critic.
        source: the rows.
        rows: int64, those to choose on.
        settings: see `TrainingSettings`.
        seed: of the shuffles.
        level: see `HeldOutPairs.scores`.
        progress: called with (steps done, bound) at every reading.
    """

    def __init__(
        self,
        score: PairScorer,
        source: PairSource,
        rows: Tensor,
        settings: TrainingSettings,
        seed: int,
        level: Callable[[Tensor], Tensor] | None = None,
        progress: Callable[[int, float], None] | None = None,
    ) -> None:
        self.score, self.settings, self.level, self.progress = score, settings, level, progress
        # Beyond some thousand pairs it is the rows that make a validation uncertain.
        self.pairs = HeldOutPairs(source, rows, seed, shuffles=min(8, max(2, 8000 // rows.numel())))
        self.history = FoldHistory()
        self.best_bound = -math.inf
        self.put_best: Callable[[], None] | None = None
        self.early: HeldOutScores | None = None  # the best of the first three quarters

    def read(self, step: int, train: float, keep: Keep) -> None:
        """Read the bound of the weights that the critic scores by now; nothing once the training has diverged.

        Args:
            step: steps made.
            train: the bound on the batches since the last reading.
            keep: those weights.

        Raises:
            DivergenceError: one of the two is not finite, and the bound was still rising.
        """
        settings, history = self.settings, self.history
        if history.diverged_at is not None:
            return
        try:
            scores, bound = self._scores(step, train)
        except DivergenceError:
            if not self._had_arrived():
                raise
            history.diverged_at = step
            return
        if step <= 0.75 * settings.steps and bound > self.best_bound:
            self.early = scores
        if bound > self.best_bound:
            self.best_bound, self.put_best = bound, keep()
        if (
            step == settings.steps
            and self.early is not None
            and any(0.25 * step <= read <= 0.75 * step for read in history.steps)
        ):
            history.late_gain = bound - self.early.dv_bound()
            history.late_gain_variance = influence_variance(scores.influence() - self.early.influence())
        history.steps.append(step)
        history.train.append(train)
        history.validation.append(bound)
        if self.progress is not None:
            self.progress(step, bound)

    def _scores(self, step: int, train: float) -> tuple[HeldOutScores, float]:
        """Those of the validation rows, and their bound."""
        scores = self.pairs.scores(self.score, self.level).limited(ESTIMATE_TAIL_ROWS)
        bound = scores.dv_bound()
        if not math.isfinite(bound) or (step > 0 and not math.isfinite(train)):
            raise DivergenceError(
                f"training diverged before step {step}: the bound is {train:g} on the batches and {bound:g} on "
                f"the validation rows; lower learning_rate (now {self.settings.learning_rate:g}) or scale the inputs"
            )
        return scores, bound

    def _had_arrived(self) -> bool:
        """Whether the readings so far are those of a training that was through."""
        readings = self.history.validation
        early = readings[: 3 * len(readings) // 4]
        if not early or self.best_bound <= readings[0]:  # nothing was learnt that could be kept
            return False
        return self.best_bound - max(early) <= max(RISE_SHARE * self.best_bound, RISE_NATS)

    def take_best(self) -> FoldHistory:
        """Leave the module with the weights that did best; the curves."""
        if self.put_best is not None:
            self.put_best()
        return self.history
