"""The threads under `jobs`: they take fits in turn, and send what happens to the calling thread.

`torch.set_num_threads` sets the number of the calling thread and, for the whole process, what threads start with that
come later. So the caller sets it to 1 before the first worker starts, and back after the last has ended.
"""

from __future__ import annotations

import bisect
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mine_fast.jobs import Plan, Task

__all__ = ["Cancelled", "Outcome", "Workers", "raise_if_cancelled", "still_wanted"]

#: A task's result, or what it raised.
Outcome = Any


class Cancelled(BaseException):
    """Raised inside a fit that nobody wants any more; no Exception, as nothing went wrong."""


_current = threading.local()


def still_wanted() -> Callable[..., bool] | None:
    """The question whether the fit in this thread is still wanted; None: it runs in its caller's own thread."""
    return getattr(_current, "wanted", None)


def raise_if_cancelled() -> None:
    """End the fit in this thread if nobody wants it any more."""
    wanted = still_wanted()
    if wanted is not None and not wanted():
        raise Cancelled


#: Jobs of a task besides its fits, which are 0, 1, ...: making the plan comes before them, using it after.
_OPEN, _FINISH = -1, 1 << 60


class _Open:
    """A task under way. Read and written with the lock held."""

    def __init__(self, number: int, task: Task[Any], width: int, memory: int) -> None:
        self.number, self.task, self.width, self.memory = number, task, width, memory
        self.plan: Plan[Any] | None = None
        self.found: list[Any] = []
        self.unfinished = self.running = 0
        # The error that counts is that of the earliest job, as if they had run one after the other.
        self.failed_at = _FINISH + 1
        self.error: BaseException | None = None


class Workers:
    """Threads that do tasks; used by one thread, in which the callbacks are called.

    Args:
        threads: how many; they start when they are first needed.
        max_memory: see `run_tasks`.
        note: called with (task, fit, step, bound).
        settle: called with (task, its result or error).
    """

    def __init__(
        self,
        threads: int,
        max_memory: float,
        note: Callable[[int, int, int, float], None],
        settle: Callable[[int, Outcome], None],
    ) -> None:
        self.threads, self.max_memory, self.note, self.settle = threads, max_memory, note, settle
        self.lock = threading.Condition()
        self.jobs: list[tuple[int, int]] = []  # (task, job), ascending
        self.open: dict[int, _Open] = {}
        self.cancelled = self.closed = False
        # What the calling thread is to do next, sent by the workers.
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.workers: list[threading.Thread] = []
        self.threads_before: int | None = None  # torch's, while there are workers

    # The calling thread. ----------------------------------------------------------------------------------------------

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        with self.lock:
            self.cancelled |= kind is not None
            self.closed = True
            self.lock.notify_all()
        self._stop()

    def _start(self) -> None:
        """Start the threads, in what the caller has around it: its context variables and its autocast."""
        self.threads_before = torch.get_num_threads()
        torch.set_num_threads(1)
        autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        self.closed = False
        for _ in range(self.threads):
            context = contextvars.copy_context()
            worker = threading.Thread(target=context.run, args=(self._work, *autocast), name="mine_fast")
            worker.start()
            self.workers.append(worker)

    def _stop(self) -> None:
        try:
            for worker in self.workers:
                worker.join()
        finally:
            self.workers = []
            if self.threads_before is not None:
                torch.set_num_threads(self.threads_before)
                self.threads_before = None

    def add(self, number: int, task: Task[Any]) -> None:
        """Give the workers a task, once there is room for it."""
        if not self.workers:
            self._start()
        per_fit = max(1, task.memory_per_fit)
        width = int(min(self.threads, max(1, (self.max_memory - task.memory) // per_fit)))
        memory = task.memory + width * task.memory_per_fit

        def is_room() -> bool:
            # One more than there are threads is opened while the last fits of the one before still run.
            used = sum(one.memory for one in self.open.values())
            return not self.open or (len(self.open) <= self.threads and used + memory <= self.max_memory)

        self._wait_for(is_room)
        with self.lock:
            self.open[number] = _Open(number, task, width, memory)
            self._push(number, _OPEN)

    def drain(self) -> None:
        """Wait until all tasks are done, and let the workers go: what comes then has torch's threads to itself."""
        self._wait_for(lambda: not self.open)
        with self.lock:
            self.closed = True
            self.lock.notify_all()
        self._stop()

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        while True:
            with self.lock:
                if condition():
                    return
            try:
                call = self.calls.get(timeout=0.1)  # so that Ctrl-C is seen where a lock cannot be interrupted
            except queue.Empty:
                continue
            call()

    # The workers. -----------------------------------------------------------------------------------------------------

    def _work(self, autocast: bool, autocast_dtype: torch.dtype) -> None:
        torch.set_num_threads(1)  # as it is already: a thread reads the default at its first use of torch
        with torch.autocast("cpu", enabled=autocast, dtype=autocast_dtype):
            while (chosen := self._take()) is not None:
                self._do(*chosen)

    def _take(self) -> tuple[_Open, int] | None:
        """The first job that may run; None: there will be no more."""
        with self.lock:
            while not self.cancelled:
                for place, (number, job) in enumerate(self.jobs):
                    one = self.open[number]
                    if one.running < one.width:
                        del self.jobs[place]
                        one.running += 1
                        return one, job
                if self.closed:
                    return None
                self.lock.wait()
        return None

    def _do(self, one: _Open, job: int) -> None:
        """Do a job, and see to what follows from it."""
        result = error = None
        _current.wanted = lambda *_: not self.cancelled and job < one.failed_at
        try:
            if job == _OPEN:
                one.plan = one.task.open()
            elif job == _FINISH:
                assert one.plan is not None
                result = one.plan.finish(one.found)
            else:
                assert one.plan is not None
                result = one.plan.fits[job](lambda step, bound: self._report(one.number, job, step, bound))
        except Cancelled:
            pass
        except BaseException as raised:  # a thread that ended would leave its caller waiting
            error = raised
        finally:
            _current.wanted = None
        with self.lock:
            one.running -= 1
            if error is not None and job < one.failed_at:
                one.error, one.failed_at = error, job
                self.jobs = [(number, j) for number, j in self.jobs if number != one.number or j < job]
            self._follow(one, job, result)
            self.lock.notify_all()

    def _follow(self, one: _Open, job: int, result: Any) -> None:
        """What comes after a job of a task; with the lock held."""
        if one.error is not None:
            if not one.running and all(number != one.number for number, _ in self.jobs):
                self._send(one, one.error)
        elif job == _FINISH:
            self._send(one, result)
        elif job == _OPEN:
            if one.plan is None:
                return  # cancelled
            one.unfinished = len(one.plan.fits)
            one.found = [None] * one.unfinished
            for fit in range(one.unfinished):
                self._push(one.number, fit)
        else:
            one.found[job] = result
            one.unfinished -= 1
        if one.error is None and job != _FINISH and not one.unfinished:
            self._push(one.number, _FINISH)

    def _push(self, number: int, job: int) -> None:
        bisect.insort(self.jobs, (number, job))
        self.lock.notify_all()

    def _send(self, one: _Open, outcome: Outcome) -> None:
        def settle() -> None:
            with self.lock:
                del self.open[one.number]
            self.settle(one.number, outcome)

        self.calls.put(settle)

    def _report(self, number: int, fit: int, step: int, bound: float) -> None:
        raise_if_cancelled()
        self.calls.put(lambda: self.note(number, fit, step, bound))
