"""Flags of what the held-out scores can and cannot show; `reliability_flags` asks for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from mine_fast.evaluation import HeldOutScores
from mine_fast.result import Flag

__all__ = ["below_zero", "few_effective_marginals", "few_rows", "not_certifiable", "reliability_flags"]

#: Fewer rows in all are few. Of Gaussian pairs with rho 0.8 (0.511 nats), 10 samples each, the standard deviation of
#: estimates by the defaults and their mean stderr were 0.23 and 0.16 for 40 rows, 0.09 and 0.09 for 80, 0.09 and 0.08
#: for 120, 0.07 and 0.06 for 200; their bias was -0.29, -0.09, -0.06 and -0.03.
FEW_ROWS = 200

#: Fewer effective rows behind the marginal term leave its error understated: with 30 its relative error is about 0.2.
FEW_EFFECTIVE = 30

#: An estimate further below 0 than this is no fluctuation around it, whatever its error bar.
FAR_BELOW_ZERO = 0.5


def reliability_flags(mi: float, stderr: float, certifiable: float, folds: Sequence[HeldOutScores]) -> list[Flag]:
    """The flags of an estimate that its held-out scores raise; see `MIResult` for the numbers."""
    found = (
        few_rows(sum(fold.rows for fold in folds)),
        not_certifiable(mi, certifiable),
        few_effective_marginals(folds),
        below_zero(mi, stderr),
    )
    return [flag for flag in found if flag is not None]


def few_rows(rows: int) -> Flag | None:
    """Too few to train on, and to tell the error from."""
    if rows >= FEW_ROWS:
        return None
    return Flag(
        "few_rows",
        f"{rows} rows are few to train and to choose a critic on: the estimate can be far too low, and of some dozens "
        "of rows trainings differ by more than the error bar",
    )


def not_certifiable(mi: float, certifiable: float) -> Flag | None:
    """Above what the rows can show to be there: the estimate may be held down by them too."""
    if mi <= certifiable:
        return None
    return Flag(
        "not_certifiable",
        f"the estimate is above {certifiable:.2f} nats, the most that lower() can certify with so few rows, and no "
        "estimate reaches more than the ln(n) of a fold's n rows (McAllester & Stratos, 2020): the information may be "
        "larger",
    )


def few_effective_marginals(folds: Sequence[HeldOutScores]) -> Flag | None:
    """A marginal term that hangs on a few pairs: mi errs upwards, and stderr does not show it."""
    rows = min(fold.rows for fold in folds)
    effective = min(fold.effective_sample_size() for fold in folds)
    if effective >= min(FEW_EFFECTIVE, 0.5 * rows):
        return None
    return Flag(
        "few_effective_marginals",
        f"the marginal term rests on {effective:.0f} effective rows of {rows}: its error is understated, and the "
        "estimate may be too high",
    )


def below_zero(mi: float, stderr: float) -> Flag | None:
    """Below what chance makes of an information of 0."""
    if mi >= -max(0.05, min(2 * stderr, FAR_BELOW_ZERO)):
        return None
    return Flag(
        "below_zero",
        "the bound is far below 0: on held-out rows the critic is worse than a constant; scale the inputs, lower "
        "learning_rate, or give it more rows",
    )
