"""`estimate_many`: independent estimates beside each other, and one estimate from several trainings."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mine_fast.checks import as_integer, check_progress
from mine_fast.concurrency import fit_memory, fitting_memory
from mine_fast.cross_fitting import CrossFit, plan_cross_fit, steps_of, training_settings
from mine_fast.data import PairSource, pair_source
from mine_fast.describing import describe, is_pandas
from mine_fast.devices import usable_device
from mine_fast.jobs import Failure, Plan, Progress, Task
from mine_fast.loss import DVLoss
from mine_fast.processes import Processes, processes_of
from mine_fast.repeats import duplicate_groups
from mine_fast.result import MIResult
from mine_fast.seeds import Training, combine_trainings, training_of
from mine_fast.shared_tasks import own_share, run_shared_tasks
from mine_fast.training import ordinary_autograd

__all__ = [
    "FailedEstimate",
    "Request",
    "check_max_memory",
    "estimate_many",
    "estimate_seeds",
    "estimates_of",
    "make_request",
]


@dataclass(frozen=True)
class FailedEstimate:
    """What `estimate_many` gives for a pair that could not be estimated.

    Whatever else is asked of it that an `MIResult` has raises an AttributeError with the reason: a number is never made
    up. `r.error is None` tells the results that are there from those that are not.

    Attributes:
        error: the exception that `mine_fast.estimate` would have raised for this pair.
        index: the number of the pair.

    >>> import mine_fast
    >>> r = mine_fast.FailedEstimate(ValueError("x must be finite"), 3)
    >>> print(r)
    pair 3 failed: ValueError: x must be finite
    >>> r.mi
    Traceback (most recent call last):
    ...
    AttributeError: no mi: pair 3 failed: ValueError: x must be finite
    """

    error: Exception
    index: int

    def __str__(self) -> str:
        return f"pair {self.index} failed: {type(self.error).__name__}: {self.error}"

    def __getattr__(self, name: str) -> Any:
        if name in _RESULT_NAMES:
            raise AttributeError(f"no {name}: {self}") from self.error
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


_RESULT_NAMES = {field.name for field in fields(MIResult)} | {name for name in vars(MIResult) if name[0] != "_"}


@dataclass(frozen=True)
class Request:
    """How every pair is to be estimated.

    Attributes:
        losses: one untrained loss module per seed.
        seeds: of the trainings.
        device: where to compute; None: where the data is.
        given: settings of the training that were given.
    """

    losses: list[DVLoss]
    seeds: list[int]
    device: torch.device | None
    given: dict[str, Any]

    def steps(self, x: Any) -> int:
        """Steps of the trainings on a pair with this x."""
        return sum(self.steps_of_tasks(x))

    def steps_of_tasks(self, x: Any) -> list[int]:
        """Steps of each of them."""
        return [steps_of(self.losses[0], training_settings(self.given, _shape(x)[0]))] * len(self.seeds)

    def tasks(self, x: Any, y: Any) -> Iterator[Task[Training | MIResult]]:
        """A task for each training on a pair."""
        shapes = [_shape(side) for side in (x, y)]
        rows, x_width, y_width = shapes[0][0], *(math.prod(shape[1:]) for shape in shapes)
        settings = training_settings(self.given, rows)
        elsewhere = self.device is not None and self.device.type != "cpu"
        given_elsewhere = any(isinstance(side, Tensor) and side.device.type != "cpu" for side in (x, y))
        for loss, seed in zip(self.losses, self.seeds, strict=True):
            yield Task(
                lambda loss=loss, seed=seed: self._plan(x, y, loss, seed),  # type: ignore[misc]
                steps_of(loss, settings),
                alone=elsewhere or given_elsewhere or y is None,
                memory=16 * rows * (x_width + y_width),
                memory_per_fit=fit_memory(rows, x_width, y_width, settings),
            )

    def _plan(self, x: Any, y: Any, loss: DVLoss, seed: int) -> Plan[Training | MIResult]:
        with ordinary_autograd():
            source = pair_source(x, y)
            settings = training_settings(self.given, len(source))
            plan = plan_cross_fit(loss, source, duplicate_groups(source), seed, self.device, settings)

        def finish(fits: list[Any]) -> Training | MIResult:
            fitted: CrossFit = plan.finish(fits)
            return training_of(fitted) if len(self.seeds) > 1 else fitted.result

        return Plan(plan.fits, finish)


def make_request(
    loss: str,
    alpha: float,
    clip: float,
    marginals: str,
    seed: int,
    n_seeds: int,
    device: torch.device | str | None,
    settings: dict[str, Any],
) -> Request:
    """Check how pairs are to be estimated; see `estimate_many` for the arguments."""
    from mine_fast.estimator import MINE

    seed, n_seeds = as_integer("seed", seed), as_integer("n_seeds", n_seeds, least=1)
    seeds = list(range(seed, seed + n_seeds))
    with ordinary_autograd(), torch.device("cpu"):
        losses: list[DVLoss] = [MINE(loss=loss, alpha=alpha, clip=clip, marginals=marginals, seed=one) for one in seeds]
    training_settings(settings, rows=0)  # refuses what is no setting
    return Request(losses, seeds, None if device is None else usable_device(device), settings)


def _shape(samples: Any) -> tuple[int, ...]:
    """The shape of samples, whether they are good or not; what has none is checked elsewhere."""
    if isinstance(samples, DataLoader):
        samples = samples.dataset
    if samples is None or isinstance(samples, Dataset | PairSource):
        return (len(samples), 0) if isinstance(samples, Sized) else (0, 0)
    try:
        shape = tuple(samples.shape) if isinstance(samples, Tensor) or hasattr(samples, "shape") else np.shape(samples)
        return tuple(map(int, shape)) or (0,)
    except Exception:
        return (0,)


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
        found = run_shared_tasks(
            processes,
            request.tasks(x, y),
            max_memory=fitting_memory(),
            steps=sum(own_share(processes, request.steps_of_tasks(x))),
            progress=progress,
        )
    if isinstance(found[0], MIResult):
        return found[0]
    return combine_trainings([training for training in found if isinstance(training, Training)])


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
    the number of threads (`torch.set_num_threads`) change it. On a GPU the pairs are estimated one after the other.

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

    def tasks() -> Iterator[Task[Training | MIResult]]:
        for index, pair in enumerate(iterator):
            if _is_dataset(pair):
                yield from request.tasks(pair, None)
            elif not _is_pair(pair):
                message = f"pairs[{index}] must be (x, y), got {describe(pair)}"
                yield from [Task(lambda text=message: _refuse(text), 0)] * n_seeds  # type: ignore[misc]
            else:
                yield from request.tasks(*pair)

    def steps_of_pair(pair: Any) -> list[int]:
        if _is_dataset(pair) or _is_pair(pair):
            return request.steps_of_tasks(pair if _is_dataset(pair) else pair[0])
        return [0] * n_seeds

    steps = None
    if isinstance(pairs, Sequence):
        steps = sum(own_share(processes, itertools.chain.from_iterable(map(steps_of_pair, pairs))))
    with ordinary_autograd():
        found = run_shared_tasks(processes, tasks(), max_memory=limit, steps=steps, progress=progress, keep_going=True)
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
    if isinstance(max_memory, bool) or not isinstance(max_memory, numbers.Real):
        raise TypeError(f"max_memory must be a number of bytes or None, got {type(max_memory).__name__} {max_memory!r}")
    if not float(max_memory) > 0:
        raise ValueError(f"max_memory must be above 0 bytes, got {max_memory!r}")
    return float(max_memory)
