"""Fits beside each other on one device: those of their trainings that have one shape are made as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mine_fast.fold_fitting import FitParts, FoldFit, ToTrain, train_alone
from mine_fast.selection import FoldHistory
from mine_fast.stacked_training import shape_of, train_together

__all__ = ["fit_together"]


def fit_together(fits: Sequence[FitParts]) -> list[FoldFit | Exception]:
    """Go through fits, all that wait for trainings of one shape at the same time.

    Returns:
        What came of each, or what it raised; the others do not mind.
    """
    results: dict[int, FoldFit | Exception] = {}
    waiting: dict[int, ToTrain] = {}

    def go_on(number: int, step: Callable[[], ToTrain]) -> None:
        try:
            waiting[number] = step()
        except StopIteration as end:
            results[number] = end.value
        except Exception as error:
            results[number] = error

    for number, fit in enumerate(fits):
        go_on(number, fit.__next__)
    while waiting:
        groups: dict[object, list[int]] = {}
        for number, wanted in waiting.items():
            shape = shape_of(wanted)
            groups.setdefault(number if shape is None else shape, []).append(number)
        for numbers in groups.values():
            histories = _train([waiting.pop(number) for number in numbers])
            for number, history in zip(numbers, histories, strict=True):
                if isinstance(history, Exception):
                    fits[number].close()
                    results[number] = history
                else:
                    go_on(number, lambda n=number, h=history: fits[n].send(h))  # type: ignore[misc]
    return [results[number] for number in range(len(fits))]


def _train(wanted: Sequence[ToTrain]) -> Sequence[FoldHistory | Exception]:
    try:
        return train_together(wanted) if len(wanted) > 1 else [train_alone(wanted[0])]
    except Exception as error:
        return [error] * len(wanted)
