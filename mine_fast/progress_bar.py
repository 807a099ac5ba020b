"""The progress of a computation as one line on a terminal."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

__all__ = ["ProgressBar"]


class ProgressBar:
    """A line on a terminal that shows the share done, the time left and the latest validation value.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.started = time.monotonic()
        self._next_draw = 0.0
        self._drawn = False

    def __call__(self, done: int, total: int, mi: float) -> None:
        """Draw, at most ten times a second: done of total steps, mi in nats (NaN before the first value)."""
        now = time.monotonic()
        if now < self._next_draw and done < total:
            return
        self._next_draw = now + 0.1
        self.stream.write("\r\x1b[K" + self.line(done, total, mi, now - self.started)[: self._width()])
        self.stream.flush()
        self._drawn = True

    @staticmethod
    def line(done: int, total: int, mi: float, elapsed: float) -> str:
        """The text of the bar.

        >>> ProgressBar.line(300, 1200, 0.8123, elapsed=20.0)
        '[####------------]  25%  300/1200 steps, 1:00 left, validation 0.812 nats'
        """
        share = done / total if total else 1.0
        filled = int(16 * share)
        left = elapsed * (1 - share) / share if share else 0.0
        time_left = f", {int(left) // 60}:{int(left) % 60:02d} left" if share else ""
        value = f", validation {mi:.3f} nats" if mi == mi else ""
        return f"[{'#' * filled}{'-' * (16 - filled)}] {share:4.0%}  {done}/{total} steps{time_left}{value}"

    def close(self) -> None:
        """Take the line off the terminal."""
        if self._drawn:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    @staticmethod
    def _width() -> int:
        return shutil.get_terminal_size().columns - 1
