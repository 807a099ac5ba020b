"""The executor of fits: order, errors, interruption and threads, with fits that only sleep."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time

import pytest
import torch

from mine_fast.jobs import Failure, Plan, Task, run_tasks
from mine_fast.workers import raise_if_cancelled, still_wanted

pytestmark = pytest.mark.usefixtures("restore_threads")


def task(number, fits=4, steps=5, bad=None, seen=None, **options):
    """A task of fits that report their steps; the one called `bad` ("open", "finish" or its number) raises."""

    def fit(i):
        def run(report):
            if seen is not None:
                seen.append((number, i, threading.get_ident(), torch.get_num_threads()))
            for step in range(1, steps + 1):
                time.sleep(1e-3)
                report(step, 0.5)
                if bad == i and step == 2:
                    raise ValueError(f"fit {i} of {number}")
            return number, i

        return run

    def start():
        if bad == "open":
            raise ValueError(f"opening {number}")
        return Plan([fit(i) for i in range(fits)], finish)

    def finish(found):
        if bad == "finish":
            raise ValueError(f"finishing {number}")
        return found

    return Task(start, fits * steps, **options)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_and_fits_run_on_one_thread_inside(threads):
    torch.set_num_threads(threads)
    seen = []
    found = run_tasks(task(k, fits=1 + k % 3, seen=seen) for k in range(7))
    assert found == [[(k, i) for i in range(1 + k % 3)] for k in range(7)]
    assert {inside for *_, inside in seen} == {1}
    workers = {ident for _, _, ident, _ in seen}
    assert len(workers) <= threads
    assert (threading.get_ident() in workers) == (threads == 1)
    assert torch.get_num_threads() == threads
    assert threading.active_count() == 1 or not any(t.name == "mine_fast" for t in threading.enumerate())


@pytest.mark.parametrize("threads", [1, 3])
def test_nothing_to_do(threads):
    torch.set_num_threads(threads)
    assert run_tasks([]) == []
    assert run_tasks([Task(lambda: Plan([], list), 3)]) == [[]]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("bad", ["open", 0, 2, "finish"])
def test_an_error_is_raised_as_it_was(threads, bad):
    torch.set_num_threads(threads)
    with pytest.raises(ValueError, match=r" 1$"):
        run_tasks([task(0), task(1, bad=bad), task(2)])
    assert torch.get_num_threads() == threads
    assert not any(thread.name == "mine_fast" for thread in threading.enumerate())


@pytest.mark.parametrize("threads", [1, 4])
def test_of_several_errors_the_first_fits_counts(threads):
    """Fit 3 fails at once, fit 1 later: as in order, fit 1 is what is told."""
    torch.set_num_threads(threads)

    def fail(i, after):
        def run(report):
            time.sleep(after)
            raise ValueError(f"fit {i}")

        return run

    plan = Plan([lambda report: None, fail(1, 0.1), lambda report: None, fail(3, 0.0)], list)
    for _ in range(3):
        with pytest.raises(ValueError, match="fit 1"):
            run_tasks([Task(lambda: plan, 0)])


@pytest.mark.parametrize("threads", [1, 3])
def test_one_failure_leaves_the_others(threads):
    torch.set_num_threads(threads)
    bad = {1: "open", 3: 2, 4: "finish"}
    found = run_tasks([task(k, bad=bad.get(k)) for k in range(6)], keep_going=True)
    assert [isinstance(one, Failure) for one in found] == [k in bad for k in range(6)]
    assert str(found[3].error) == "fit 2 of 3"
    assert found[5] == [(5, i) for i in range(4)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("length_known", [True, False])
def test_progress_comes_from_the_caller_and_ends_at_the_total(threads, length_known):
    torch.set_num_threads(threads)
    calls = []

    def progress(done, total, bound):
        assert threading.get_ident() == here
        calls.append((done, total, bound))

    here = threading.get_ident()
    tasks = [task(k, bad={1: 0, 2: "open"}.get(k)) for k in range(5)]
    run_tasks(tasks, progress=progress, keep_going=True, steps=100 if length_known else None)
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert calls[-1][:2] == (100, 100)
    assert all(total == 100 for _, total, _ in calls) == (length_known or False) or not length_known
    assert any(math.isfinite(bound) for *_, bound in calls)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_the_progress_callback_is_the_callers(threads, error):
    """Not the task's, which would only become a failure."""
    torch.set_num_threads(threads)

    def progress(*call):
        raise error("of the callback")

    with pytest.raises(error, match="of the callback"):
        run_tasks([task(0), task(1)], progress=progress, keep_going=True)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_of_the_iterable_is_raised(threads):
    torch.set_num_threads(threads)

    def tasks():
        yield task(0)
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        run_tasks(tasks(), keep_going=True)
    assert not any(thread.name == "mine_fast" for thread in threading.enumerate())


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends the process there")
def test_ctrl_c_stops_the_fits():
    torch.set_num_threads(2)
    stopped = []

    def endless(report):
        assert still_wanted() is not None
        os.kill(os.getpid(), signal.SIGINT)
        try:
            while True:
                time.sleep(1e-3)
                raise_if_cancelled()
        finally:
            stopped.append(True)

    with pytest.raises(KeyboardInterrupt):
        run_tasks([Task(lambda: Plan([endless], list), 0)])
    assert len(stopped) == 1  # before the interrupt reached the caller of run_tasks
    assert still_wanted() is None


def test_a_fit_that_leaves_the_thread_does_not_hang_the_caller():
    torch.set_num_threads(2)

    def leave(report):
        raise SystemExit

    with pytest.raises(SystemExit):
        run_tasks([Task(lambda: Plan([leave], list), 0)], keep_going=True)


def test_memory_bounds_what_runs_together():
    torch.set_num_threads(4)
    running, most = set(), []
    lock = threading.Lock()

    def tasks(memory, per_fit, count=6, fits=3):
        def fit(k, i):
            def run(report):
                with lock:
                    running.add((k, i))
                    most.append((len({key[0] for key in running}), len(running)))
                time.sleep(5e-3)
                with lock:
                    running.discard((k, i))

            return run

        for k in range(count):
            plan = Plan([fit(k, i) for i in range(fits)], len)
            yield Task(lambda plan=plan: plan, 0, memory=memory, memory_per_fit=per_fit)

    assert run_tasks(tasks(10, 30), max_memory=100) == [3] * 6  # one task with three fits
    assert max(tasks_open for tasks_open, _ in most) == 1
    assert max(fits for _, fits in most) == 3
    most.clear()
    assert run_tasks(tasks(10, 30), max_memory=45) == [3] * 6  # one fit
    assert max(fits for _, fits in most) == 1
    most.clear()
    assert run_tasks(tasks(1000, 1000), max_memory=45) == [3] * 6  # too much, and done all the same, one fit at a time
    assert max(fits for _, fits in most) == 1
    most.clear()
    assert run_tasks(tasks(0, 0)) == [3] * 6
    assert max(fits for _, fits in most) == 4


def test_tasks_are_fetched_as_there_is_room():
    torch.set_num_threads(2)
    fetched, finished = [], []

    def tasks():
        for k in range(12):
            fetched.append(k)
            assert len(fetched) - len(finished) <= 2 + 2  # under way, one opened ahead, and this one
            yield Task(lambda k=k: Plan([lambda report: time.sleep(2e-3)], lambda _: finished.append(k)), 0)

    run_tasks(tasks())
    assert len(finished) == 12


def test_a_task_that_must_be_alone_runs_here_with_all_threads_and_nothing_beside_it():
    torch.set_num_threads(3)
    seen, here, running = [], threading.get_ident(), []

    def beside(report):
        running.append(1)
        time.sleep(5e-3)
        running.pop()

    def alone(report):
        seen.append((threading.get_ident() == here, torch.get_num_threads(), len(running), still_wanted()))

    tasks = [Task(lambda: Plan([beside] * 3, len), 0), Task(lambda: Plan([alone], len), 0, alone=True)] * 2
    assert run_tasks(tasks) == [3, 1, 3, 1]
    assert seen == [(True, 3, 0, None)] * 2


def test_threads_start_with_the_callers_autocast_and_one_thread():
    """And leave a user's new threads with the number that was set."""
    torch.set_num_threads(3)
    seen = []

    def look(report):
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), torch.get_num_threads()))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        run_tasks([Task(lambda: Plan([look], len), 0)])
    run_tasks([Task(lambda: Plan([look], len), 0)])
    assert seen == [(True, True, 1), (False, True, 1)]
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen[-1] == 3
