"""Work dealt out to the processes of a group: each does its share, and all get all results."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from mine_fast.jobs import Failure
from mine_fast.processes import Processes

__all__ = ["own_share", "shared_results"]

Item = TypeVar("Item")


def own_share(processes: Processes | None, items: Iterable[Item]) -> Iterator[Item]:
    """Every W-th item from that of this process's rank on, which spreads long and short ones; None: all items."""
    items = iter(items)
    return items if processes is None else itertools.islice(items, processes.rank, None, processes.size)


def shared_results(
    processes: Processes | None, items: Iterable[Item], work: Callable[[Iterator[Item]], list[Any]], per_item: int = 1
) -> list[Any]:
    """`work(items)`, each item by one of the processes.

    Args:
        processes: that all call this, with the same items; None: this one alone.
        items: fetched one by one; those of others are fetched too, and dropped.
        work: gives the results of the items that it takes, in order, a `Failure` for one that raised.
        per_item: results of an item.

    Returns:
        The results of all items in order, in every process.

    Raises:
        BaseException: of `work`.
        ValueError: the processes were given different numbers of items.
        RuntimeError: another process has failed, ended, or does not come within the timeout of the group.
    """
    if processes is None or processes.size == 1:
        return work(iter(items))
    counter = itertools.count()
    outcome: list[Any] | Exception
    try:
        # zip takes from the counter first and keeps the number that no item is left for: the items that there were.
        outcome = work(own_share(processes, (item for _, item in zip(counter, items, strict=False))))
    except Exception as error:
        outcome = error
    count = next(counter) - 1
    sent = _picklable(outcome) if isinstance(outcome, Exception) else list(map(_picklable_result, outcome))
    everyone = processes.gather_objects((count, sent))
    if isinstance(outcome, Exception):
        raise outcome
    shares = []
    for rank, (_, part) in enumerate(everyone):
        if isinstance(part, Exception):
            raise RuntimeError(f"rank {rank} of {processes.size} failed: {type(part).__name__}: {part}") from part
        shares.append(iter(part))
    counts = [count for count, _ in everyone]
    if len(set(counts)) > 1:
        raise ValueError(f"every process of process_group must be given the same pairs, got {counts} of them")
    return [next(shares[number % processes.size]) for number in range(count) for _ in range(per_item)]


def _picklable_result(result: Any) -> Any:
    return Failure(_picklable(result.error)) if isinstance(result, Failure) else result


def _picklable(error: Exception) -> Exception:
    """The error itself, or one with its words if it does not survive the way to another process."""
    try:
        arrives = type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        arrives = False
    return error if arrives else RuntimeError(f"{type(error).__name__}: {error}")
