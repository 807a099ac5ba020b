"""`pairwise`: the mutual information of every two columns of a table."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mine_fast.checks import check_progress
from mine_fast.concurrency import fitting_memory
from mine_fast.estimate_request import Request, each_result, make_request, tasks_of
from mine_fast.jobs import Progress, run_tasks
from mine_fast.many import check_max_memory, estimates_of
from mine_fast.matrix import MIMatrix
from mine_fast.result import FailedEstimate, MIResult, without_scores
from mine_fast.training import ordinary_autograd
from mine_fast.variables import table_variables

__all__ = ["SINGLE_COLUMNS", "narrow_settings", "pairwise"]

#: What is enough for a pair of single columns, at a quarter of the work. Mean absolute error over the 11 cases of one
#: column each in benchmarks/distributions that the defaults are chosen on, 1000 rows: 0.038 nats by these as by
#: `estimate`'s own; sharp edges (uniform noise, a staircase) read 0.05 lower, correlation 0.99 0.1 better. Measured
#: when the default critic held one more perceptron.
SINGLE_COLUMNS = {"steps": 200, "batch_size": 128}

#: Shuffles of the held-out rows, at most: beyond, they take time and settle nothing.
MAX_SHUFFLES = 100


def narrow_settings(rows: int) -> dict[str, Any]:
    """The training settings of a pair of single columns with N rows."""
    return {**SINGLE_COLUMNS, "evaluation_shuffles": min(MAX_SHUFFLES, max(20, 1_000_000 // rows))}


def pairwise(
    table: Any,
    groups: Mapping[str, Any] | None = None,
    *,
    columns: str | Sequence[Any] | None = None,
    n_seeds: int = 1,
    max_memory: float | None = None,
    loss: str = "mine",
    alpha: float = 0.01,
    clip: float = 5.0,
    marginals: str = "shuffle",
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> MIMatrix:
    """Estimate the mutual information of every two columns of a table, or of every two groups of columns.

    Each pair is estimated once, by `estimate` on all threads (see `estimate_many`). Two single columns take 200 steps
    of 128 rows, at most 100 shuffles to evaluate and otherwise `estimate`'s defaults; wider groups those alone.

    The p-values come from orders of the rows that are counted, not drawn, so they are fine enough for many pairs: the
    smallest is 1e-8 with four folds of 100 rows or more, and of single columns 5e-6 from 50,000 rows in all on, where
    fewer shuffles are scored (`evaluation_shuffles`). q-values control the false discovery rate over all pairs.

    Args:
        table: [N, d] array, tensor or nested list, DataFrame, dict of columns, or the path of a csv, npy or npz file.
        groups: columns (names, or numbers where there are none) by the name of the variable that they make up; None:
            every column is a variable.
        columns: those to be used, for a file as `mine-fast estimate --x` takes them; None: all.
        n_seeds: see `estimate`.
        max_memory: see `estimate_many`.
        loss: see `MINE`.
        alpha: see `MINE`.
        clip: see `MINE`.
        marginals: see `MINE`.
        seed: of every pair.
        device: where to compute; None: where the data is.
        progress: called as progress(steps done, steps in all, latest validation bound of some pair).
        settings: fields of `TrainingSettings`: steps, batch_size, learning_rate, folds, ..., of all pairs.

    Returns:
        MIMatrix in nats. A pair that could not be estimated is a `FailedEstimate` in it, which does not disturb others.

    Raises:
        ValueError, TypeError: a bad table, column or setting; the message names it.

    >>> import mine_fast, numpy as np
    >>> x = np.random.default_rng(0).standard_normal((500, 3))
    >>> x[:, 2] += x[:, 0]
    >>> m = mine_fast.pairwise(x, steps=50)
    >>> m.mi.shape, bool(m.mi[0, 2] > 0.2 > m.mi[0, 1])
    ((3, 3), True)
    """
    check_progress(progress)
    limit = fitting_memory() if max_memory is None else check_max_memory(max_memory)
    with ordinary_autograd():
        variables, notes = table_variables(table, groups, columns)
    names = list(variables)
    narrow = narrow_settings(len(variables[names[0]]))
    given = {name: value for name, value in settings.items() if value is not None}
    common = (loss, alpha, clip, marginals, seed, n_seeds, device)
    requests = {True: make_request(*common, {**narrow, **given}), False: make_request(*common, given)}
    pairs = list(itertools.combinations(range(len(names)), 2))

    def request_of(pair: tuple[int, int]) -> Request:
        return requests[all(variables[names[i]].shape[1] == 1 for i in pair)]

    wanted = ((request_of(pair), variables[names[pair[0]]], variables[names[pair[1]]]) for pair in pairs)
    steps = sum(request_of(pair).steps(variables[names[pair[0]]]) for pair in pairs)
    with ordinary_autograd():
        found = run_tasks(tasks_of(wanted, limit), max_memory=limit, steps=steps, progress=progress, keep_going=True)
    results: list[list[MIResult | FailedEstimate | None]] = [[None] * len(names) for _ in names]
    for (i, j), result in zip(pairs, estimates_of(each_result(found), n_seeds), strict=True):
        results[i][j] = results[j][i] = without_scores(result)
    return MIMatrix(tuple(names), results, notes)
