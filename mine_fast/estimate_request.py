"""How pairs are to be estimated, and the tasks that do it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mine_fast.checks import as_integer, as_seed
from mine_fast.concurrency import fit_memory
from mine_fast.cross_fitting import CrossFitPlan, plan_cross_fit, steps_of, training_settings
from mine_fast.data import PairSource, pair_source
from mine_fast.devices import usable_device
from mine_fast.fitting_together import fit_together
from mine_fast.fold_fitting import FitParts
from mine_fast.jobs import Failure, Plan, Report, Task
from mine_fast.loss import DVLoss
from mine_fast.repeats import duplicate_groups
from mine_fast.result import MIResult
from mine_fast.seeds import Training, training_of
from mine_fast.training import ordinary_autograd

__all__ = ["Request", "Wanted", "each_result", "make_request", "tasks_of"]

#: Where trainings are stacked, and pairs whose trainings are so at most: their results wait for each other.
STACKING_DEVICE, MOST_TOGETHER = "cuda", 64


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
        return len(self.seeds) * self.steps_of_training(x)

    def steps_of_training(self, x: Any) -> int:
        """Steps of one of them."""
        return steps_of(self.losses[0], training_settings(self.given, _shape(x)[0]))

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

    def memory(self, pairs: Sequence[tuple[Any, Any]]) -> int:
        """Bytes that all trainings on pairs take at the same time."""
        total = 0
        for x, y in pairs:
            shapes = [_shape(side) for side in (x, y)]
            settings = training_settings(self.given, shapes[0][0])
            widths = [math.prod(shape[1:]) for shape in shapes]
            total += len(self.seeds) * settings.folds * fit_memory(shapes[0][0], widths[0], widths[1], settings)
        return total

    def stacks(self, x: Any, y: Any) -> bool:
        """Whether the trainings on a pair are stacked with those on others: see `stacked_training`."""
        if self.device is not None:
            devices = {self.device.type}
        else:
            devices = {side.device.type for side in (x, y) if isinstance(side, Tensor)}
        return devices == {STACKING_DEVICE} and y is not None and self.given.get("engine") in (None, "auto")

    def task_of_all(self, pairs: Sequence[tuple[Any, Any]]) -> Task[list[Training | MIResult | Failure]]:
        """A task for all trainings on pairs, those of one shape as one stack; what they raise is among its results."""
        steps = sum(self.steps(x) for x, _ in pairs)

        def fit(report: Report) -> list[Training | MIResult | Failure]:
            done: dict[int, int] = {}

            def of_fit(number: int, step: int, bound: float) -> None:
                done[number] = step
                report(sum(done.values()), bound)

            plans: list[CrossFitPlan | Failure] = []
            parts: list[FitParts] = []
            for x, y in pairs:
                for loss, seed in zip(self.losses, self.seeds, strict=True):
                    try:
                        plan = self._cross_fit(x, y, loss, seed)
                    except Exception as error:
                        plans.append(Failure(error))
                        continue
                    plans.append(plan)
                    for part in plan.parts:
                        parts.append(part(functools.partial(of_fit, len(parts))))
            fits = iter(fit_together(parts))
            return [
                plan if isinstance(plan, Failure) else self._result(plan, [next(fits) for _ in plan.parts])
                for plan in plans
            ]

        return Task(lambda: Plan([fit], lambda found: found[0]), steps, alone=True)

    def _cross_fit(self, x: Any, y: Any, loss: DVLoss, seed: int) -> CrossFitPlan:
        with ordinary_autograd():
            source = pair_source(x, y)
            settings = training_settings(self.given, len(source))
            return plan_cross_fit(loss, source, duplicate_groups(source), seed, self.device, settings)

    def _finish(self, plan: CrossFitPlan, fits: list[Any]) -> Training | MIResult:
        """What the fits of a plan make."""
        fitted = plan.finish(fits)
        return training_of(fitted) if len(self.seeds) > 1 else fitted.result

    def _result(self, plan: CrossFitPlan, fits: list[Any]) -> Training | MIResult | Failure:
        """The same; a failure where one of the fits is an error, or finishing raises one."""
        try:
            for fit in fits:
                if isinstance(fit, Exception):
                    raise fit
            return self._finish(plan, fits)
        except Exception as error:
            return Failure(error)

    def _plan(self, x: Any, y: Any, loss: DVLoss, seed: int) -> Plan[Training | MIResult]:
        plan = self._cross_fit(x, y, loss, seed)
        return Plan(plan.fits, functools.partial(self._finish, plan))


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
    seed, n_seeds = as_seed(seed), as_integer("n_seeds", n_seeds, least=1)
    seeds = list(range(seed, seed + n_seeds))
    with ordinary_autograd(), torch.device("cpu"):
        losses = [DVLoss(loss=loss, alpha=alpha, clip=clip, marginals=marginals, seed=one) for one in seeds]
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


#: A pair to be estimated, (request, x, y), or a task that is there.
Wanted = tuple[Request, Any, Any] | Task[Any]


def tasks_of(wanted: Iterable[Wanted], max_memory: float) -> Iterator[Task[Any]]:
    """The tasks of pairs; those that follow one another and are trained as a stack make one, see `each_result`.

    Args:
        wanted: (request, x, y), or a task as it is.
        max_memory: bytes that a stack takes at most; a pair that needs more makes one by itself.
    """
    together: list[tuple[Any, Any]] = []
    of: Request | None = None
    for one in wanted:
        stacks = not isinstance(one, Task) and one[0].stacks(*one[1:])
        if of is not None and together and (not stacks or isinstance(one, Task) or one[0] is not of):
            yield of.task_of_all(together)
            together = []
        if isinstance(one, Task):
            yield one
        elif not stacks:
            yield from one[0].tasks(*one[1:])
        else:
            of = one[0]
            if together and of.memory([*together, one[1:]]) > max_memory:
                yield of.task_of_all(together)
                together = []
            together.append(one[1:])
            if len(together) == MOST_TOGETHER:
                yield of.task_of_all(together)
                together = []
    if of is not None and together:
        yield of.task_of_all(together)


def each_result(found: Iterable[Any]) -> list[Any]:
    """The results of all trainings, from those of `tasks_of`."""
    return [one for part in found for one in (part if isinstance(part, list) else [part])]
