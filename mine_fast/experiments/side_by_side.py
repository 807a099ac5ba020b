"""Several seeds of an experiment at a time, each in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

__all__ = ["run_side_by_side"]

#: For a process that was asked to end, before it is made to.
GRACE_SECONDS = 30.0


def run_side_by_side(
    run: Callable[[Path, int], Any], folder: Path, seeds: Sequence[int], jobs: int, progress: bool | None = None
) -> None:
    """Run seeds that are not finished, each in folder/seed-S, and return when all are.

    The processes share torch's threads out among them. They draw no bars: one shows the seeds that are through.

    Args:
        run: (folder of a seed, seed), in a process of its own: it has to be pickled.
        folder: of all seeds.
        seeds: of everything random.
        jobs: most processes at a time.
        progress: whether to draw the bar; None: on a terminal.

    Raises:
        ChildProcessError: a seed failed, with its error on the standard error; the others were stopped, and go on from
            their checkpoints when they are run again.
    """
    context = multiprocessing.get_context("spawn")  # a fork would take over torch's threads as they stand
    left = [seed for seed in dict.fromkeys(seeds) if not (folder / f"seed-{seed}" / "metrics.json").is_file()]
    threads = max(1, torch.get_num_threads() // max(1, min(jobs, len(left))))
    hidden = None if progress is None else not progress
    with (
        _ended_by_signals(),
        _processes() as running,
        tqdm(total=len(left), desc="seeds", disable=hidden, leave=False, dynamic_ncols=True) as bar,
    ):
        while left or running:
            while left and len(running) < jobs:
                seed = left.pop(0)
                arguments = (run, folder / f"seed-{seed}", seed, threads)
                process = context.Process(target=_run_alone, args=arguments, name=f"seed {seed}")
                process.start()
                running[process.sentinel] = process
            for sentinel in wait(list(running)):
                process = running.pop(sentinel)
                process.join()
                if process.exitcode:
                    status = f"exit status {process.exitcode}"
                    raise ChildProcessError(f"{process.name} failed ({status}); its error is above")
                bar.update()


@contextlib.contextmanager
def _processes() -> Iterator[dict[Any, Any]]:
    """A dict of processes; what is left in it is ended afterwards."""
    running: dict[Any, Any] = {}
    try:
        yield running
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join(GRACE_SECONDS)
            process.kill()  # one that would not end; nothing, if it has


#: What signals ask a process to end, where the system has them.
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a signal that would end this process at once, and leave the others running, unwind it first."""
    if threading.current_thread() is not threading.main_thread():  # which alone may say what signals do
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:
            signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # not set from Python, which cannot set it back
                signal.signal(number, handler)


def _run_alone(run: Callable[[Path, int], Any], folder: Path, seed: int, threads: int) -> None:
    """What a process does."""
    for number in _ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _leave)
    torch.set_num_threads(threads)
    try:
        run(folder, seed)
    except (ValueError, TypeError, OSError, ImportError) as error:  # of the caller's making: no traceback per seed
        sys.exit(f"seed {seed}: {error}")


def _leave(number: int, _: Any) -> None:
    """End the process as a return would, so that it gives back its locks; a second signal does not cut that short."""
    for other in _ENDING:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)
