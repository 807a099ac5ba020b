"""Runs cases in a process of their own, which is what a crash ends, and a hang is known by."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized

from .draw import ALLOWED, Draw, Target, Wrong

#: Case, whether it was refused, what is wrong with it ("": nothing), its seconds.
Message = tuple[int, bool, str, float]

#: A case takes milliseconds; this is long even for a machine that does other things.
HANG_SECONDS = 60
#: Until the first case: the process imports torch.
START_SECONDS = 120
#: What a case may ask for beyond the libraries: requests for more must fail here, and not elsewhere on the machine.
MEMORY = 3 << 30


def targets() -> dict[str, Target]:
    """By name. Imported late: the process that watches needs no torch."""
    from . import engine, ops, readers

    return {**ops.TARGETS, **engine.TARGETS, **readers.TARGETS}


def _target(name: str) -> Target:
    from . import planted

    return planted.TARGETS[name] if name in planted.TARGETS else targets()[name]


@dataclass
class Outcome:
    """What the cases of a target came to.

    Attributes:
        cases: how many ran.
        refused: of those, how many raised an error that they may raise.
        failures: number of every other one, and what happened.
        seconds: that the cases took.
    """

    cases: int = 0
    refused: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0


def run_case(target: Target, name: str, seed: int, number: int) -> bool:
    """Whether the case was refused; raises what it may not raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target(Draw(name, seed, number))
        except ALLOWED as error:
            if not str(error).strip() and not isinstance(error, MemoryError):
                raise Wrong(f"{type(error).__name__} without a message") from error
            return True
    return False


def run(names: Sequence[str], seed: int, cases: int, hang_seconds: float = HANG_SECONDS) -> dict[str, Outcome]:
    """Run cases of the targets in turn; a crash or a hang is a failure of its case, and the rest goes on."""
    outcomes = {name: Outcome() for name in names}
    begin = 0
    while begin < cases:
        begin = _run_until_it_dies(tuple(names), seed, range(begin, cases), outcomes, hang_seconds)
    return outcomes


def _run_until_it_dies(
    names: tuple[str, ...], seed: int, cases: range, outcomes: dict[str, Outcome], hang_seconds: float
) -> int:
    """The first case that is still to be run."""
    context = multiprocessing.get_context("spawn")
    place = context.Value("q", -1)
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(names, seed, cases, place, there), daemon=True)
    child.start()
    there.close()
    ended = cases.start
    for case, refused, what, seconds in _messages(here, place, hang_seconds):
        outcome = outcomes[names[case % len(names)]]
        outcome.cases += 1
        outcome.refused += refused
        outcome.seconds += seconds
        if what:
            outcome.failures.append((case // len(names), what))
        ended = case + 1
    if ended < cases.stop:
        child.join(1.0)  # a crash closes the pipe before the process is gone
        what = "it hangs" if child.is_alive() else f"it ends the process, exit code {child.exitcode}"
        child.kill()
        outcome = outcomes[names[ended % len(names)]]
        outcome.cases += 1
        outcome.failures.append((ended // len(names), what))
        ended += 1
    child.join()
    return ended


def _messages(pipe: Connection, place: Synchronized[int], hang_seconds: float) -> Iterator[Message]:
    """What the process says, until it says no more or stays at one case for too long."""
    last, since = -1, time.monotonic() + START_SECONDS
    with contextlib.suppress(EOFError, ConnectionResetError):
        while time.monotonic() - since < hang_seconds:
            if pipe.poll(1.0):
                yield pipe.recv()
            if place.value != last:
                last, since = place.value, time.monotonic()


def _work(names: tuple[str, ...], seed: int, cases: range, place: Synchronized[int], pipe: Connection) -> None:
    """In the process: run the cases and tell what each came to."""
    faulthandler.enable()
    known = {name: _target(name) for name in names}
    if "torch" in sys.modules:  # which planted faults do not need
        sys.modules["torch"].set_num_threads(1)  # sizes are below what torch and the ops share out
    _limit_memory()
    for case in cases:
        place.value = case
        name, number = names[case % len(names)], case // len(names)
        refused, what, started = False, "", time.perf_counter()
        try:
            refused = run_case(known[name], name, seed, number)
        except Exception:
            what = traceback.format_exc(limit=-4)
        pipe.send((case, refused, what, time.perf_counter() - started))


def _limit_memory() -> None:
    """Not under AddressSanitizer, whose shadow is 20 TB of addresses."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    if used < 1 << 40:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
