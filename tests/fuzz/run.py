"""Runs cases in a process of their own, which is what a crash ends, and a hang is known by."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import resource
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized

from .draw import ALLOWED, Draw, Target, Wrong

#: A case takes milliseconds; this is long even for a machine that does other things.
HANG_SECONDS = 60
#: What a case may ask for beyond the libraries: requests for more must fail here, and not elsewhere on the machine.
MEMORY = 3 << 30


def targets() -> dict[str, Target]:
    """By name. Imported late: the process that watches needs no torch."""
    from . import engine, ops, readers

    return {**ops.TARGETS, **engine.TARGETS, **readers.TARGETS}


@dataclass
class Outcome:
    """What the cases of a target came to.

    Attributes:
        cases: how many ran.
        refused: of those, how many raised an error that they may raise.
        failures: number of every other one, and what happened.
    """

    cases: int = 0
    refused: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)


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


def run(name: str, seed: int, cases: range) -> Outcome:
    """Run cases of a target; a crash or a hang is a failure of its case, and the rest goes on."""
    outcome = Outcome()
    while outcome.cases < len(cases):
        _run_until_it_dies(name, seed, cases[outcome.cases :], outcome)
    return outcome


def _run_until_it_dies(name: str, seed: int, cases: range, outcome: Outcome) -> None:
    context = multiprocessing.get_context("spawn")
    place = context.Value("q", cases[0])
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(name, seed, cases, place, there), daemon=True)
    child.start()
    there.close()
    done = False
    for message in _messages(here, place):
        if isinstance(message, int):
            outcome.refused += message
            done = True
        else:
            outcome.failures.append(message)
    if not done and child.is_alive():
        time.sleep(0.5)  # a crash closes the pipe before the process is gone
    hangs = not done and child.is_alive()
    if hangs:
        child.kill()
    child.join()
    if not done:
        what = "it hangs" if hangs else f"it ends the process, exit code {child.exitcode}"
        outcome.failures.append((place.value, what))
    outcome.cases += len(cases) if done else cases.index(place.value) + 1


def _messages(pipe: Connection, place: Synchronized[int]) -> Iterator[int | tuple[int, str]]:
    """What the process says, until it says no more or stays at one case for too long."""
    last, since = place.value, time.monotonic()
    with contextlib.suppress(EOFError, ConnectionResetError):
        while time.monotonic() - since < HANG_SECONDS:
            if pipe.poll(1.0):
                yield pipe.recv()
            if place.value != last:
                last, since = place.value, time.monotonic()


def _work(name: str, seed: int, cases: range, place: Synchronized[int], pipe: Connection) -> None:
    """In the process: run the cases, send failures as (number, what), then how many were refused."""
    import torch

    faulthandler.enable()
    torch.set_num_threads(2)  # so that rows of larger batches are shared out
    target = targets()[name]
    _limit_memory()
    refused = 0
    for number in cases:
        place.value = number
        try:
            refused += run_case(target, name, seed, number)
        except Exception:
            pipe.send((number, traceback.format_exc(limit=-4)))
    pipe.send(refused)


def _limit_memory() -> None:
    """Not under AddressSanitizer, whose shadow is 20 TB of addresses."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    if used < 1 << 40:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
