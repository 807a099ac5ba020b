"""Errors that are none of Python's own."""

__all__ = ["DivergenceError"]


class DivergenceError(RuntimeError):
    """Training left the finite numbers: the scores or the loss became NaN or infinite.

    Where a bound that is read on validation rows had stopped rising before, its best weights count instead, and the
    result carries the flag "diverged".

    What helps: a lower `learning_rate`; inputs of a common scale, or their ranks, for a critic of one's own; a loss in
    whose gradient no score dominates, `loss="js"`.
    """
