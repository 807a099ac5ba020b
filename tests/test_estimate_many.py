"""Many estimates at once: each as if alone, whatever the threads, and one from several trainings."""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
import pickle
import statistics
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import mine_fast
from mine_fast import estimate_request
from mine_fast.cross_fitting import cross_fit
from mine_fast.evaluation import influence_variance

pytestmark = pytest.mark.usefixtures("restore_threads")

QUICK = dict(steps=15, folds=2, evaluate_every=5, batch_size=64)


def pair(rows, x_width=1, y_width=1, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, x_width))
    return x, x[:, :1] + rng.standard_normal((rows, y_width))


def assert_same(a, b):
    """Two results to the bit, wall time apart."""
    assert type(a) is type(b)
    for field in dataclasses.fields(a):
        if field.name == "seconds":
            continue
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            assert np.array_equal(left, right), field.name
        elif field.name == "trainings":
            for one, other in zip(left, right, strict=True):
                assert_same(one, other)
        else:
            assert left == right, field.name


PAIRS = [
    pair(120),
    pair(90, 3, 2, seed=1),
    (np.ones(40), np.arange(40.0)),  # nothing to train
    pair(60, seed=2),
    (["a", "b", "c"] * 20, np.random.default_rng(3).standard_normal(60)),
    (torch.randn(70, 2, generator=torch.Generator().manual_seed(4)), torch.arange(70.0)),
]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_each_is_the_one_made_alone(threads):
    torch.set_num_threads(1)
    alone = [mine_fast.estimate(x, y, seed=5, **QUICK) for x, y in PAIRS]
    torch.set_num_threads(threads)
    for given in (PAIRS, iter(PAIRS)):
        found = mine_fast.estimate_many(given, seed=5, **QUICK)
        for one, other in zip(found, alone, strict=True):
            assert_same(one, other)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("threads", [2, 4])
def test_folds_in_threads_are_the_folds_in_order(threads):
    """Of the default critic, of one of layers with noise that the engine draws, and of one that torch trains."""
    x, y = pair(150, 2)
    noisy = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), mine_fast.GaussianNoise(0.1), nn.Linear(16, 1))
    plain = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 1))
    makers = [
        lambda: mine_fast.MINE(seed=3),
        lambda: mine_fast.MINE(copy.deepcopy(noisy), method="concat", seed=3),
        lambda: mine_fast.MINE(copy.deepcopy(plain), "infonce", method="concat", seed=3),
        lambda: mine_fast.MINE(mine_fast.MLPCritic((16,)), seed=3),
    ]
    for make in makers:
        torch.set_num_threads(1)
        serial = make().fit(x, y, **QUICK)
        torch.set_num_threads(threads)
        assert_same(make().fit(x, y, **QUICK), serial)


def test_critics_of_the_callers_own_stay_in_the_callers_thread():
    """Dropout draws from generators of the process, and a forward may not be meant for threads."""
    threads = set()

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))

        def forward(self, x, y):
            threads.add(threading.get_ident())
            return self.layers(torch.cat([x, y], 1))

    x, y = pair(80)
    found = []
    for number in (1, 3):
        torch.set_num_threads(number)
        torch.manual_seed(number)
        torch.manual_seed(0)  # the weights
        found.append(mine_fast.MINE(Own(), seed=0).fit(x, y, **QUICK))
    assert threads == {threading.get_ident()}
    assert found[0].mi == pytest.approx(found[1].mi, abs=1e-4)  # its products may use torch's threads


def test_a_dataset_is_read_in_the_callers_thread_only():
    threads = set()

    class Watched(TensorDataset):
        def __getitem__(self, row):
            threads.add(threading.get_ident())
            return super().__getitem__(row)

    x, y = (torch.from_numpy(side) for side in pair(80))
    torch.set_num_threads(3)
    found = mine_fast.estimate_many([(x, y), Watched(x, y), (x, y)], **QUICK)
    assert threads == {threading.get_ident()}
    assert_same(found[0], found[2])
    assert found[1].error is None
    assert found[1].mi == mine_fast.estimate(TensorDataset(x, y), **QUICK).mi


def test_one_bad_pair_does_not_lose_the_others():
    torch.set_num_threads(2)
    x, y = pair(60)
    bad = [(x, y[:50]), (x, np.full(60, np.nan)), (x,), 3, (x[:8], y[:8]), {"x": x, "y": y}]
    progress = []
    found = mine_fast.estimate_many([(x, y), *bad, (x, y)], progress=lambda *c: progress.append(c), **QUICK)
    assert [r.error is None for r in found] == [True, *[False] * len(bad), True]
    assert_same(found[0], found[-1])
    messages = [
        "same number of rows",
        "y must be finite",
        r"pairs\[3\] must be",
        r"pairs\[4\] must",
        "20 rows",
        "must be",
    ]
    for index, (failed, message) in enumerate(zip(found[1:-1], messages, strict=True), 1):
        assert isinstance(failed, mine_fast.FailedEstimate)
        assert failed.index == index
        with pytest.raises((ValueError, TypeError), match=message):
            raise failed.error
        with pytest.raises(AttributeError, match=f"no mi: pair {index} failed: {type(failed.error).__name__}"):
            _ = failed.mi
        assert not hasattr(failed, "stderr")
        assert not hasattr(failed, "_repr_html_")
    assert str(pickle.loads(pickle.dumps(found[1]))) == str(found[1])
    assert progress[-1][0] == progress[-1][1] == progress[0][1]


def test_a_divergence_is_the_pairs_own(monkeypatch):
    x, y = pair(60)
    real = estimate_request.plan_cross_fit

    def plan(loss, source, *rest):
        if len(source) == 50:
            raise mine_fast.DivergenceError("the scores left the numbers")
        return real(loss, source, *rest)

    monkeypatch.setattr(estimate_request, "plan_cross_fit", plan)
    found = mine_fast.estimate_many([(x, y), (x[:50], y[:50])], **QUICK)
    assert found[0].error is None
    assert isinstance(found[1].error, mine_fast.DivergenceError)


@pytest.mark.parametrize(
    ("pairs", "options", "error", "message"),
    [
        (3, {}, TypeError, "pairs must be an iterable"),
        ({"a": pair(60)}, {}, TypeError, "pairs must be an iterable"),
        ([pair(60)], {"stepz": 3}, TypeError, "stepz is no setting"),
        ([pair(60)], {"steps": 0}, ValueError, "steps must be at least 1"),
        ([pair(60)], {"n_seeds": 0}, ValueError, "n_seeds must be at least 1"),
        ([pair(60)], {"max_memory": 0}, ValueError, "max_memory must be above 0"),
        ([pair(60)], {"max_memory": "1 GB"}, TypeError, "max_memory must be a number"),
        ([pair(60)], {"progress": 3}, TypeError, "progress must be callable"),
        ([pair(60)], {"device": "meta"}, ValueError, "device must be one that holds values"),
        ([pair(60)], {"loss": "mee"}, ValueError, "loss must be one of"),
    ],
)
def test_what_is_wrong_for_every_pair_is_an_error(pairs, options, error, message):
    with pytest.raises(error, match=message):
        mine_fast.estimate_many(pairs, **options)


def test_little_memory_changes_no_result():
    torch.set_num_threads(3)
    x, y = pair(80)
    plenty = mine_fast.estimate_many([(x, y)] * 3, **QUICK)
    scarce = mine_fast.estimate_many([(x, y)] * 3, max_memory=1, **QUICK)
    for one, other in zip(plenty, scarce, strict=True):
        assert_same(one, other)


def test_a_generator_is_read_as_there_is_room():
    torch.set_num_threads(2)
    held = []

    def pairs():
        for k in range(8):
            held.append(k)
            yield pair(60, seed=k)

    seen = []
    mine_fast.estimate_many(pairs(), progress=lambda done, total, bound: seen.append(len(held)), **QUICK)
    assert min(seen) <= 4  # far from all had been fetched when the first reported
    assert len(held) == 8


def test_in_threads_of_the_callers_own_and_under_another_default_device():
    torch.set_num_threads(2)
    x, y = pair(80)
    alone = mine_fast.estimate(x, y, **QUICK)
    found = {}

    def work(k):
        found[k] = mine_fast.estimate_many([(x, y), (x, y)], **QUICK)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.device("meta"), torch.no_grad():
        found[3] = mine_fast.estimate_many([(x, y), (x, y)], **QUICK)
    assert len(found) == 4
    for results in found.values():
        for result in results:
            assert_same(result, alone)


def test_ctrl_c_reaches_the_caller_and_no_thread_is_left():
    torch.set_num_threads(2)

    def stop(*call):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine_fast.estimate_many([pair(300)] * 3, progress=stop, steps=100_000, evaluate_every=50)
    assert not any(thread.name == "mine_fast" for thread in threading.enumerate())
    assert torch.get_num_threads() == 2


# Several trainings. ---------------------------------------------------------------------------------------------------


def test_the_mean_of_trainings():
    torch.set_num_threads(2)
    x, y = pair(200)
    r = mine_fast.estimate(x, y, seed=7, n_seeds=3, **QUICK)
    alone = [mine_fast.estimate(x, y, seed=7 + k, **QUICK) for k in range(3)]
    for one, other in zip(r.trainings, alone, strict=True):
        assert_same(one, other)
    assert r.mi == statistics.fmean(one.mi for one in alone)
    assert r.training_spread == statistics.stdev(one.mi for one in alone)
    assert r.certified_mi == statistics.fmean(one.certified_mi for one in alone)
    assert r.p_value == pytest.approx(1.5 * sorted(one.p_value for one in alone)[1])
    assert "trainings          3; they differ by" in str(r)
    assert r.to_dict()["training_mi"] == [one.mi for one in alone]
    assert_same(mine_fast.estimate_many([(x, y)], seed=7, n_seeds=3, **QUICK)[0], r)
    assert r.settings["n_seeds"] == 3
    assert_same(mine_fast.estimate(x, y, seed=r.seed, **r.settings), r)


def test_the_error_of_the_mean_by_hand():
    """Every row's mean influence over the trainings, whose scatter over the rows is the sampling error."""
    x, y = (torch.from_numpy(side) for side in pair(120))
    r = mine_fast.estimate(x, y, n_seeds=2, **QUICK)
    total = torch.zeros(120, dtype=torch.float64)
    for seed in (0, 1):
        source = mine_fast.data.pair_source(x, y)
        fitted = cross_fit(mine_fast.MINE(seed=seed), source, None, seed, None, None, dict(QUICK))
        for rows, fold in zip(fitted.rows, fitted.scores, strict=True):
            total[rows] += 0.5 * fold.limited(1.0).influence()
    variance = influence_variance(total) + r.training_spread**2 / 2
    assert r.stderr == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_one_training_says_nothing_of_others():
    x, y = pair(80)
    r = mine_fast.estimate(x, y, n_seeds=1, **QUICK)
    assert_same(r, mine_fast.estimate(x, y, **QUICK))
    assert r.training_spread is None
    assert r.trainings == ()
    assert "they differ by" not in str(r)
    assert "training_mi" not in r.to_dict()


def test_the_flags_of_trainings_are_those_of_one_where_they_agree():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, (2, 120))  # both sides are codes: two flags of one kind
    flags = [mine_fast.estimate(x, y, n_seeds=n, **QUICK).flags for n in (1, 2)]
    assert [flag.code for flag in flags[0]].count("discrete") == 2
    assert flags[1][: len(flags[0])] == flags[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failure_does_not_hold_the_data(threads, restore_threads):
    torch.set_num_threads(threads)

    class Rows(np.ndarray):
        pass

    alive = []

    def given():
        for bad in (math.nan, math.inf):
            x = np.arange(60.0).view(Rows)
            x[3] = bad
            alive.append(weakref.ref(x))
            yield x, np.arange(60.0)

    found = mine_fast.estimate_many(given(), **QUICK)
    assert [str(one.error)[:16] for one in found] == ["x must be finite"] * 2
    assert "in check_finite" in str(found[0].error.__cause__)  # which still says where
    gc.collect()
    assert [one() is None for one in alive] == [True, True]


def test_trainings_on_a_constant():
    r = mine_fast.estimate(np.ones(60), np.arange(60.0), n_seeds=2, **QUICK)
    assert (r.mi, r.stderr, r.p_value, r.training_spread) == (0.0, 0.0, 1.0, 0.0)


def test_a_bad_training_is_an_error():
    x, y = pair(80)
    with pytest.raises(ValueError, match="same number of rows"):
        mine_fast.estimate(x, y[:50], n_seeds=2, **QUICK)
    with pytest.raises(ValueError, match="n_seeds must be at least 1"):
        mine_fast.estimate(x, y, n_seeds=0, **QUICK)
