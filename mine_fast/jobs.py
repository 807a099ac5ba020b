"""Independent fits on several threads: the folds of an estimate, and many estimates at once.

A `Task` opens into a `Plan`: fits that do not depend on each other, and what is made of them. Threads take the fits in
the order of the tasks, with torch on one thread inside each, so that the results are the same bits on any number of
threads. What the caller gave (an iterable, a progress callback) is called from the caller's own thread.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from mine_fast.workers import Workers

__all__ = ["Failure", "Plan", "Progress", "Report", "Task", "run_tasks"]

#: report(steps done in a fit, latest validation bound)
Report = Callable[[int, float], None]

#: progress(steps done, steps in all, latest validation bound)
Progress = Callable[[int, int, float], None]

R = TypeVar("R")


@dataclass(frozen=True)
class Plan(Generic[R]):
    """Independent fits and what is made of them.

    Attributes:
        fits: each is called with a `Report`, in any thread.
        finish: makes one result of theirs, which come in the order of the fits.
    """

    fits: Sequence[Callable[[Report], Any]]
    finish: Callable[[list[Any]], R]


@dataclass(frozen=True)
class Task(Generic[R]):
    """Something to be planned and done.

    Attributes:
        open: checks the data and makes the plan.
        steps: that its fits report together.
        alone: whether it must run in the caller's thread, with torch's own threads and nothing beside it.
        memory: bytes that it holds from its start to its end.
        memory_per_fit: bytes that each running fit holds besides.
    """

    open: Callable[[], Plan[R]]
    steps: int
    alone: bool = False
    memory: int = 0
    memory_per_fit: int = 0


@dataclass(frozen=True)
class Failure:
    """What came of a task that raised: its error, without a traceback, whose frames would hold the data."""

    error: Exception

    def __post_init__(self) -> None:
        if self.error.__traceback__ is not None:
            where = _Where("".join(traceback.format_exception(self.error)))
            self.error.__traceback__ = self.error.__context__ = None
            self.error.__cause__ = where


class _Where(Exception):
    """The traceback of an error as text, as its cause, where Python prints it."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def run_tasks(
    tasks: Iterable[Task[R]],
    *,
    max_memory: float = math.inf,
    steps: int | None = None,
    progress: Progress | None = None,
    keep_going: bool = False,
) -> list[R | Failure]:
    """Do tasks on `torch.get_num_threads()` threads; with one, everything runs in the caller's.

    Args:
        tasks: fetched one by one in the calling thread, when there is room for the next.
        max_memory: in bytes. Tasks that need more together wait for each other, one that needs more by itself runs
            fewer of its fits at a time.
        steps: of all tasks; None: progress counts those begun so far.
        progress: called in the calling thread.
        keep_going: a task that raises becomes a `Failure`. Otherwise its error is raised, and the others are stopped.

    Returns:
        The results, in the order of the tasks.

    Raises:
        BaseException: what a task, `progress` or `tasks` raised, or KeyboardInterrupt; all fits have ended before.

    >>> plan = Plan([lambda report: 1, lambda report: 2], sum)
    >>> run_tasks([Task(lambda: plan, steps=0)] * 3)
    [3, 3, 3]
    """
    threads = torch.get_num_threads()
    meter = _Meter(steps, progress)
    results: dict[int, R | Failure] = {}

    def settle(number: int, found: Any) -> None:
        if isinstance(found, BaseException):
            if not keep_going or not isinstance(found, Exception):
                raise found
            found = Failure(found)
        results[number] = found
        meter.settle(number)

    with Workers(threads, max_memory, meter.note, settle) as workers:
        for number, task in enumerate(tasks):
            meter.begin(task.steps, number)
            if threads == 1 or task.alone:
                workers.drain()
                settle(number, _do_here(number, task, meter))
            else:
                workers.add(number, task)
        workers.drain()
    return [results[number] for number in range(len(results))]


def _do_here(number: int, task: Task[R], meter: _Meter) -> R | Exception:
    """Do a task in the calling thread."""

    def report(fit: int, step: int, bound: float) -> None:
        try:
            meter.note(number, fit, step, bound)
        except Exception as error:  # the caller's own, not the task's
            raise _CallersError(error) from None

    try:
        plan = task.open()
        return plan.finish(
            [fit(lambda step, bound, i=i: report(i, step, bound)) for i, fit in enumerate(plan.fits)]  # type: ignore[misc]
        )
    except Exception as error:
        return error
    except _CallersError as callers:
        raise callers.error from None


class _CallersError(BaseException):
    """Carries an error of the progress callback past the handlers of a task's own errors."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class _Meter:
    """Adds the steps of all fits up for the progress callback."""

    def __init__(self, total: int | None, progress: Progress | None) -> None:
        self.total, self.progress = total, progress
        self.begun = self.settled = 0
        self.steps: dict[int, int] = {}
        self.fits: dict[int, dict[int, int]] = {}

    def begin(self, steps: int, number: int) -> None:
        self.begun += steps
        self.steps[number], self.fits[number] = steps, {}

    def note(self, number: int, fit: int, step: int, bound: float) -> None:
        """A fit of a task has done so many steps."""
        self.fits[number][fit] = step
        self._tell(bound)

    def settle(self, number: int) -> None:
        """A task is done: all its steps count, those that an error or a constant saved too."""
        steps = self.steps.pop(number)
        saved = steps != sum(self.fits.pop(number).values())
        self.settled += steps
        if saved:
            self._tell(math.nan)

    def _tell(self, bound: float) -> None:
        if self.progress is not None:
            done = self.settled + sum(sum(fits.values()) for fits in self.fits.values())
            self.progress(done, self.begun if self.total is None else self.total, bound)
