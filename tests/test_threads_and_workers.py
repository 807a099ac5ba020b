"""Several threads and processes at once: the same numbers as alone, nothing left behind, no memory that grows."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import mine_fast
from mine_fast import fold_fitting, ops
from mine_fast.data import pair_source

SMALL = {"steps": 20, "folds": 2, "batch_size": 64}


def sample(seed: int, rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    x, noise = np.random.default_rng(seed).standard_normal((2, rows))
    return x, 0.8 * x + 0.6 * noise


def by_default(seed: int) -> float:
    return mine_fast.estimate(*sample(seed), seed=seed, **SMALL).mi


def critic(*between: nn.Module) -> nn.Sequential:
    """The same one at each call, whatever torch's generators, which all threads share, are at."""
    layers = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), *between, nn.Linear(16, 1))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view(parameter.shape))
    return layers


def by_the_engine(seed: int, layers: nn.Module | None = None) -> float:
    mine = mine_fast.MINE(layers or critic(), method="concat", seed=seed)
    return mine.fit(*sample(seed), engine="native", **SMALL).mi


def by_torch_with_dropout(seed: int, layers: nn.Module | None = None) -> float:
    mine = mine_fast.MINE(layers or critic(nn.Dropout(0.5)), method="concat", seed=seed)
    return mine.fit(*sample(seed), **SMALL).mi


def many_together(seed: int) -> list[float]:
    return [r.mi for r in mine_fast.estimate_many([sample(seed), sample(seed + 1)], seed=seed, **SMALL)]


@pytest.mark.parametrize("threads", [1, 2])
def test_four_threads_find_what_each_finds_alone(threads, restore_threads):
    """With one thread of torch to the bit. With two to rounding: `estimate` and `estimate_many` set torch to one while
    their own threads work, which the matrix products of the whole process obey, and add up in another order."""
    torch.set_num_threads(threads)

    def work() -> list[Callable[[], object]]:
        """Modules are made beforehand: a new one draws its weights from the generator that dropout draws from, as does
        a `MINE` without a seed."""
        fits: list[Callable[[], object]] = []
        for seed in (1, 2):
            fits += [partial(by_default, seed), partial(many_together, seed)]
            fits += [partial(by_the_engine, seed, critic())]
            fits += [partial(by_torch_with_dropout, seed, critic(nn.Dropout(0.5)))]
        return fits

    alone = [fit() for fit in work()]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda fit: fit(), work()))
    for one, other in zip(together, alone, strict=True):
        assert one == other if threads == 1 else one == pytest.approx(other, rel=1e-3, abs=1e-3)
    assert torch.get_num_threads() == threads


def test_one_module_scores_in_four_threads():
    """`mi` and the ops keep nothing between calls."""
    torch.manual_seed(0)
    mine = mine_fast.MINE(nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1)), method="concat")
    x, y = torch.randn(500, 1), torch.randn(500, 1)
    keys = [ops.shuffle_key(seed) for seed in range(8)]
    wanted = [ops.marginal_shuffle(y, key, 4) for key in keys]
    scored = mine.T(torch.cat([x, y], 1))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            shuffled = list(pool.map(lambda key: ops.marginal_shuffle(y, key, 4), keys))
            assert all(map(torch.equal, shuffled, wanted))
            assert all(torch.equal(scored, t) for t in pool.map(lambda _: mine.T(torch.cat([x, y], 1)), keys))


class Estimates(Dataset):
    """Item k is an estimate, made wherever the loader asks for it."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, k: int) -> float:
        return by_default(k) + by_the_engine(k)


class Rows(Dataset):
    def __init__(self) -> None:
        self.x, self.y = (torch.from_numpy(column) for column in sample(0))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[k, None], ops.marginal_shuffle(self.y[k : k + 1].repeat(3), ops.shuffle_key(k))[0, :1]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_loader_estimate_as_their_parent_does(start, restore_threads):
    torch.set_num_threads(2)  # the parent has threads, which a fork does not copy
    wanted = [Estimates()[k] for k in range(4)]
    found = list(DataLoader(Estimates(), batch_size=None, num_workers=2, multiprocessing_context=start))
    assert found == wanted


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_serve_the_rows_of_an_estimate(start):
    loader = DataLoader(Rows(), batch_size=32, num_workers=2, multiprocessing_context=start)
    x, y = pair_source(loader).rows(torch.arange(200))
    alone = [Rows()[k] for k in range(200)]
    assert torch.equal(x, torch.stack([x for x, _ in alone]))
    assert torch.equal(y, torch.stack([y for _, y in alone]))


def test_a_fork_in_the_middle_of_another_fit_does_not_hang(restore_threads):
    """What a thread of the parent holds, nobody lets go in the child."""
    torch.set_num_threads(1)  # threads of torch's own do not survive a fork either; the loader's workers have one, too
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with fold_fitting._seeded(0, torch.device("cpu")):
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=lambda: queue.put(by_torch_with_dropout(1)), daemon=True)
        child.start()
        child.join(300)
        hangs = child.is_alive()
        child.kill()
    finally:
        done.set()
        thread.join()
    assert not hangs
    assert child.exitcode == 0
    assert queue.get() == by_torch_with_dropout(1)


def resident() -> int:
    """Bytes of memory in use."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.parametrize("fit", [by_the_engine, by_default], ids=lambda fit: fit.__name__)
def test_memory_stays_where_it_is(fit, restore_threads):
    """Over some hundred fits; benchmarks/fit_memory.py makes ten thousand."""
    torch.set_num_threads(1)
    count = 120 if fit is by_the_engine else 30
    for k in range(count // 2):
        fit(k)
    before = resident()
    for k in range(count):
        fit(k)
    assert resident() - before < 4 << 20  # the parameters, features and scores of these fits are 5 to 50 MB
