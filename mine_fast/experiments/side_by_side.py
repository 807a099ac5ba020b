"""Several seeds of an experiment at a time, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mine_fast.experiments.experiment import Experiment

__all__ = ["run_side_by_side"]


def run_side_by_side(
    experiment: Experiment[Any],
    preset: str,
    folder: Path,
    seeds: Sequence[int],
    jobs: int,
    *,
    progress: bool | None = None,
    **about: Any,
) -> None:
    """Run seeds that are not finished, each in folder/seed-S, and return when all are.

    The processes share torch's threads out among them. They draw no bars: one shows the seeds that are through.

    Args:
        experiment: which.
        preset: smoke, quick or paper.
        folder: of all seeds.
        seeds: of everything random.
        jobs: most processes at a time.
        progress: whether to draw the bar; None: on a terminal.
        about: further arguments of `run_seed`.

    Raises:
        ChildProcessError: a seed failed, with its error on the standard error; the others were stopped, and go on from
            their checkpoints when they are run again.
    """
    context = multiprocessing.get_context("spawn")  # a fork would take over torch's threads as they stand
    left = [seed for seed in dict.fromkeys(seeds) if not (folder / f"seed-{seed}" / "metrics.json").is_file()]
    threads = max(1, torch.get_num_threads() // max(1, min(jobs, len(left))))
    running: dict[Any, tuple[int, Any]] = {}
    hidden = None if progress is None else not progress
    try:
        with tqdm(total=len(left), desc="seeds", disable=hidden, leave=False, dynamic_ncols=True) as bar:
            while left or running:
                while left and len(running) < jobs:
                    seed = left.pop(0)
                    arguments = (experiment, preset, folder / f"seed-{seed}", seed, threads, about)
                    process = context.Process(target=_run_alone, args=arguments, name=f"seed {seed}")
                    process.start()
                    running[process.sentinel] = seed, process
                for sentinel in wait(list(running)):
                    seed, process = running.pop(sentinel)
                    process.join()
                    if process.exitcode:
                        status = f"exit status {process.exitcode}"
                        raise ChildProcessError(f"seed {seed} failed ({status}); its error is above")
                    bar.update()
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def _run_alone(
    experiment: Experiment[Any], preset: str, folder: Path, seed: int, threads: int, about: dict[str, Any]
) -> None:
    """What a process does."""
    from mine_fast.experiments.runner import run_seed

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    torch.set_num_threads(threads)
    run_seed(experiment, preset, folder, seed, progress=False, **about)


def _leave(number: int, _: Any) -> None:
    """End the process as a return would, so that it gives back its locks; a second signal does not cut that short."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)
