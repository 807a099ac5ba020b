"""Files written whole or not at all: whatever stops the writing, the file is the old one or the new one."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["atomic_path", "save_figure", "write_text"]


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Where to write a file that takes its place when the block ends, and is gone if the block raises.

    Args:
        path: of the file. A link keeps pointing where it does, and a file that is replaced hands its permissions on.
            What is no regular file (a device, a pipe) is written to directly.

    Yields:
        A new path beside it with the same suffix, to create and to close.

    Raises:
        OSError: of the file system; the file is then what it was.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "numbers.csv"
    >>> with atomic_path(file) as temporary:
    ...     _ = temporary.write_text("1,2")
    >>> file.read_text(), len(list(file.parent.iterdir()))
    ('1,2', 1)
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        yield target
        return
    temporary = target.with_name(f".mine-fast-{secrets.token_hex(6)}{target.suffix}")
    try:
        yield temporary
        # A disk may say only now that it is full; and a file that is renamed before it is on disk can be found empty
        # after a power cut.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text; see `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_figure(path: str | Path, figure: Any, dpi: int) -> None:
    """Write a matplotlib figure in the format of the suffix; see `atomic_path`."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
