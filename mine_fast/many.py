"""`estimate_many`: independent estimates beside each other, and one estimate from several trainings."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from mine_fast.checks import as_number, check_progress
from mine_fast.concurrency import fitting_memory
from mine_fast.data import PairSource
from mine_fast.describing import describe, is_pandas
from mine_fast.estimate_request import Wanted, each_result, make_request, tasks_of
from mine_fast.jobs import Failure, Plan, Progress, Task, run_tasks
from mine_fast.processes import Processes, processes_of
from mine_fast.result import FailedEstimate, MIResult
from mine_fast.seeds import combine_trainings
from mine_fast.shared_tasks import own_share, shared_results
from mine_fast.training import ordinary_autograd

__all__ = ["check_max_memory", "estimate_many", "estimate_seeds", "estimates_of"]


def estimate_seeds(
    x: Any,
    y: Any,
    *,
    loss: str,
    alpha: float,
    clip: float,
    marginals: str,
    seed: int,
    n_seeds: int,
    device: torch.device | str | None,
    processes: Processes | None,
    progress: Progress | None,
    settings: dict[str, Any],
) -> MIResult:
    """The work of `estimate(..., n_seeds=2)` and more, or with a process group."""
    check_progress(progress)
    request = make_request(loss, alpha, clip, marginals, seed, n_seeds, device, settings)
    with ordinary_autograd():
        limit = fitting_memory()
        steps = sum(own_share(processes, [request.steps_of_training(x)] * n_seeds))

        def work(wanted: Iterator[Wanted]) -> list[Any]:
            return each_result(run_tasks(tasks_of(wanted, limit), max_memory=limit, steps=steps, progress=progress))

        if processes is None:
            found = work(iter([(request, x, y)]))
        else:
            found = shared_results(processes, request.tasks(x, y), work)
    together = _together(found, 0)
    if isinstance(together, FailedEstimate):
        raise together.error
    return together


def estimate_many(
    pairs: Iterable[Any],
    *,
    n_seeds: int = 1,
    max_memory: float | None = None,
    loss: str = "mine",
    alpha: float = 0.01,
    clip: float = 5.0,
    marginals: str = "shuffle",
    seed: int = 0,
    device: torch.device | str | None = None,
    process_group: Any = None,
    progress: Progress | None = None,
    **settings: Any,
) -> list[MIResult | FailedEstimate]:
    """Estimate the mutual information of many pairs of samples, on all threads of torch at once.

    The k-th result is that of `estimate(*pairs[k], seed=seed, ...)`, to the bit on the CPU: neither the other pairs nor
    the number of threads (`torch.set_num_threads`) change it. On a CUDA device the critics of pairs of equal widths and
    rows are trained as one stack, up to 64 pairs at once, so that many small ones fill it: each result is then that of
    the lone estimate but for the rounding of its steps (docs/benchmarks.md says what a GPU has run); `engine="torch"`
    estimates one pair after the other.

    Args:
        pairs: (x, y) each, of any widths and numbers of rows, as `estimate` takes them; or a Dataset or DataLoader of
            pairs of rows. Read one by one, as there is room, so that a generator need not hold all data at once.
        n_seeds: see `estimate`.
        max_memory: bytes that the estimates under way may take together, by a rough account of what a fit needs; a pair
            that needs more by itself is estimated alone, fewer folds at a time. None: half of what is free.
        loss: see `MINE`.
        alpha: see `MINE`.
        clip: see `MINE`.
        marginals: see `MINE`.
        seed: of every pair.
        device: where to compute; None: where the data is.
        process_group: "world" or a `torch.distributed.ProcessGroup`, whose processes share the work: all call this with
            the same pairs, each estimates every W-th of them, and all get all results, the same bits as one process
            would. The timeout of the group has to cover what one process takes longer than another. None: this process
            alone; so is "world" where `torch.distributed` is not initialised.
        progress: called as progress(steps done, steps in all, latest validation bound of some pair), from this thread,
            for the pairs of this process; if `pairs` has no length, the steps of the pairs begun so far count as all.
        settings: fields of `TrainingSettings`: steps, batch_size, learning_rate, folds, ...

    Returns:
        One MIResult per pair, in order; a `FailedEstimate` with the exception in its place for a pair that could not be
        estimated, which does not disturb the others.

    Raises:
        ValueError, TypeError: bad settings, or `pairs` that are no pairs.
        RuntimeError: another process of the group has failed or ended.

    >>> import mine_fast, numpy as np
    >>> x, noise = np.random.default_rng(0).standard_normal((2, 1000))
    >>> rs = mine_fast.estimate_many([(x, x + noise), (x[:500], x[:400]), (x, noise)], steps=50)
    >>> [r.error is None for r in rs], rs[0].mi > 0.2 > rs[2].mi
    ([True, False, True], True)
    """
    check_progress(progress)
    if isinstance(pairs, Mapping | str | bytes | Dataset | DataLoader) or is_pandas(pairs):
        raise TypeError(f"pairs must be an iterable of (x, y), got {describe(pairs)}")
    try:
        iterator = iter(pairs)
    except TypeError:
        raise TypeError(f"pairs must be an iterable of (x, y), got {describe(pairs)}") from None
    processes = processes_of(process_group)
    request = make_request(loss, alpha, clip, marginals, seed, n_seeds, device, settings)
    limit = fitting_memory() if max_memory is None else check_max_memory(max_memory)

    def wanted() -> Iterator[list[Wanted]]:
        for index, pair in enumerate(iterator):
            if _is_dataset(pair):
                yield [(request, pair, None)]
            elif not _is_pair(pair):
                message = f"pairs[{index}] must be (x, y), got {describe(pair)}"
                yield [Task(lambda text=message: _refuse(text), 0)] * n_seeds  # type: ignore[misc]
            else:
                yield [(request, *pair)]

    def steps_of_pair(pair: Any) -> int:
        if _is_dataset(pair) or _is_pair(pair):
            return request.steps(pair if _is_dataset(pair) else pair[0])
        return 0

    steps = None
    if isinstance(pairs, Sequence):
        steps = sum(own_share(processes, map(steps_of_pair, pairs)))
    with ordinary_autograd():

        def work(own: Iterator[list[Wanted]]) -> list[Any]:
            tasks = tasks_of(itertools.chain.from_iterable(own), limit)
            return each_result(run_tasks(tasks, max_memory=limit, steps=steps, progress=progress, keep_going=True))

        found = shared_results(processes, wanted(), work, n_seeds)
    return estimates_of(found, n_seeds)


def _is_dataset(pair: Any) -> bool:
    return isinstance(pair, Dataset | DataLoader | PairSource)


def _is_pair(pair: Any) -> bool:
    return not isinstance(pair, str | bytes | Mapping) and hasattr(pair, "__len__") and len(pair) == 2


def estimates_of(found: list[Any], n_seeds: int) -> list[MIResult | FailedEstimate]:
    """The results of the pairs, from those of `n_seeds` trainings of each in turn."""
    return [_together(found[i : i + n_seeds], i // n_seeds) for i in range(0, len(found), n_seeds)]


def _refuse(message: str) -> Plan[Any]:
    raise TypeError(message)


def _together(found: list[Any], index: int) -> MIResult | FailedEstimate:
    """The trainings on a pair as one result."""
    for one in found:
        if isinstance(one, Failure):
            return FailedEstimate(one.error, index)
    return found[0] if isinstance(found[0], MIResult) else combine_trainings(found)


def check_max_memory(max_memory: object) -> float:
    """A number of bytes.

    Raises:
        TypeError: no number.
        ValueError: not above 0.
    """
    limit = as_number("max_memory", max_memory, "a number of bytes or None")
    if not limit > 0:
        raise ValueError(f"max_memory must be above 0 bytes, got {max_memory!r}")
    return limit
