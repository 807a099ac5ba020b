"""Errors that are none of Python's own."""

__all__ = ["DivergenceError"]


class DivergenceError(RuntimeError):
    """Training left the finite numbers: the scores or the loss became NaN or infinite."""
