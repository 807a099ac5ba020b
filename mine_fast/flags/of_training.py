"""Flags of how the training went: stopped while it rose, left the numbers, or carried on into its own rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from torch import Tensor

from mine_fast.evaluation import ESTIMATE_TAIL_ROWS, HeldOutScores
from mine_fast.result import Flag
from mine_fast.selection import RISE_NATS, RISE_SHARE, FoldHistory

__all__ = ["diverged", "overfitted", "still_rising", "training_flags"]

#: A rise in the last quarter of the training that is no noise, in standard errors; RISE_SHARE and RISE_NATS say which
#: matters. At a rate or in a number of steps that are too low it was 10-60% of the bound and 13 or more of them; by the
#: defaults on 57 distributions of 1000 rows never above 0 (measured when the default critic held one more perceptron).
RISE_ERRORS = 3.0

#: An excess of the training rows over held-out ones, likewise. The standard error is on the large side: a row is held
#: out in one fold and trains the others. By the defaults, of 57 distributions of 1000 rows the four with such an excess
#: were read 34-54% too low (heavy tails of 5 + 5 columns, a spiral); nine others were so by more than 20%, which it
#: does not see.
EXCESS_ERRORS, EXCESS_SHARE, EXCESS_NATS = 2.5, 0.25, 0.05


def training_flags(
    histories: Sequence[FoldHistory],
    train_scores: Sequence[HeldOutScores],
    groups: Sequence[Tensor | None],
    mi: float,
    stderr: float,
    settings: Mapping[str, Any],
) -> list[Flag]:
    """The flags that the training of the folds raises.

    Args:
        histories: of every fold.
        train_scores: of every fold's critic, on rows that it trained on.
        groups: see `HeldOutScores.variance`, of those rows.
        mi: the estimate, nats.
        stderr: its standard error.
        settings: those of the training.
    """
    limited = [scores.limited(ESTIMATE_TAIL_ROWS) for scores in train_scores]
    # The folds' training rows overlap: their errors are taken as one.
    variance = stderr**2 + fmean(scores.variance(of_rows) for scores, of_rows in zip(limited, groups, strict=True))
    found = (
        diverged([history.diverged_at for history in histories], settings["steps"], settings["learning_rate"]),
        still_rising(
            [(history.late_gain, history.late_gain_variance) for history in histories],
            fmean(max(history.validation) for history in histories),
            settings["steps"],
            settings["learning_rate"],
        ),
        overfitted(fmean(scores.dv_bound() for scores in limited), mi, math.sqrt(variance)),
    )
    return [flag for flag in found if flag is not None]


def still_rising(gains: Sequence[tuple[float, float]], bound: float, steps: int, learning_rate: float) -> Flag | None:
    """Training that stopped before the validation bound was flat.

    The default rate falls to 0 along a cosine, with 2.5% of the way left in the last quarter: a critic that has arrived
    gains nothing there that its noise does not explain, and one that still moves as fast as its rate lets it does.

    Args:
        gains: of each fold, the gain and its variance; see `FoldHistory`.
        bound: the folds' mean validation bound, nats.
        steps: of the training.
        learning_rate: of the training.
    """
    gain = fmean(gain for gain, _ in gains)
    # So do their validation rows.
    stderr = math.sqrt(fmean(variance for _, variance in gains))
    if gain <= max(RISE_ERRORS * stderr, RISE_SHARE * bound, RISE_NATS):
        return None
    return Flag(
        "still_rising",
        f"the bound on validation rows still rose by {gain:.2g} nats, to {bound:.2g}, in the last quarter of the "
        f"training: the estimate is too low; give it more steps (now {steps}) or a higher learning_rate (now "
        f"{learning_rate:g})",
    )


def diverged(at: Sequence[int | None], steps: int, learning_rate: float) -> Flag | None:
    """Training that left the finite numbers after its bound had stopped rising.

    Args:
        at: of each fold, the step by which it had; None: it did not.
        steps: of the training.
        learning_rate: of the training.
    """
    steps_made = [step for step in at if step is not None]
    if not steps_made:
        return None
    folds = f"in {len(steps_made)} of {len(at)} folds " if len(at) > 1 else ""
    return Flag(
        "diverged",
        f"the training {folds}left the finite numbers by step {min(steps_made)} of {steps}; its bound had stopped "
        f"rising, and the best weights from before are read; lower learning_rate (now {learning_rate:g}) or scale the "
        "inputs",
    )


def overfitted(train: float, held_out: float, stderr: float) -> Flag | None:
    """A critic that scores the rows it trained on far above those that it did not see.

    Args:
        train: the bound of the folds' chosen critics on rows that they trained on, as read off as many as were held
            out, nats.
        held_out: on held-out rows.
        stderr: of the difference.
    """
    excess = train - held_out
    if excess <= max(EXCESS_ERRORS * stderr, EXCESS_SHARE * train, EXCESS_NATS):
        return None
    return Flag(
        "overfitted",
        f"the critics read {train:.2g} nats off the rows they trained on, and {held_out:.2g} off held-out ones: part "
        "of what they learnt is the rows themselves, and the estimate is too low; a smaller critic, a lower "
        "learning_rate, weight_decay or more rows help",
    )
