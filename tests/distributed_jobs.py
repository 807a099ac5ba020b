"""What the processes of tests/test_distributed.py do, and how they are started. Every process imports this anew."""

from __future__ import annotations

import contextlib
import datetime
import math
import multiprocessing
import os
import runpy
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._dynamo  # which DistributedDataParallel imports: once here, not in every process
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

import mine_fast
from mine_fast import bounds, reference
from mine_fast.distributed import Terms, loss_of_terms
from mine_fast.ops import shuffle_key
from mine_fast.processes import Processes

#: Rows of each process in three steps, by the number of processes: even, uneven, and one without any.
SIZES = {2: [(6, 6), (9, 3), (5, 0)], 3: [(8, 8, 8), (7, 1, 5), (9, 0, 4)]}
JOIN_SECONDS = 120
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


class Case(NamedTuple):
    """A loss module under test."""

    loss: str
    marginals: str
    critic: str = "stack"
    dtype: str = "float32"
    shuffles: int | None = None


# Starting processes ---------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """How a process ended, and what its jobs returned by their names, if it came to the end."""

    exit_code: int | None
    results: dict[str, Any]


Job = tuple[Callable[..., Any], tuple[Any, ...]]


def start(world: int, jobs: list[Job], folder: Path, timeout: float = 60.0) -> list[Outcome]:
    """Run job(rank, *arguments) for every job in turn in `world` fresh processes of a gloo group, and wait for them.

    Args:
        world: how many.
        jobs: functions of a module, which return what torch.save takes, and their arguments.
        folder: an empty one, for the meeting point and the results.
        timeout: of the group, in seconds.
    """
    # Fresh processes, for which torch is imported once where the system can.
    context = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload([__name__])
    folder.mkdir(parents=True, exist_ok=True)
    started = [
        context.Process(target=_enter, args=(rank, world, folder, timeout, jobs), daemon=True) for rank in range(world)
    ]
    with _one_thread():
        for process in started:
            process.start()
    for process in started:
        process.join(JOIN_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
    results = [folder / f"result-{rank}.pt" for rank in range(world)]
    return [
        Outcome(process.exitcode, torch.load(path, weights_only=True) if path.is_file() else {})
        for process, path in zip(started, results, strict=True)
    ]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that start have one thread each: they read this when their libraries load."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _enter(rank: int, world: int, folder: Path, timeout: float, jobs: list[Job]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting-point'}",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=timeout),
    )
    torch.save({job.__name__: job(rank, *arguments) for job, arguments in jobs}, folder / f"result-{rank}.pt")
    dist.destroy_process_group()


# Critics and batches --------------------------------------------------------------------------------------------------


class TwoArgumentCritic(nn.Module):
    """T(x, z) that is opaque to the library."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x, z):
        return self.layers(torch.cat([x, z], 1))


def make_critic(kind: str) -> tuple[nn.Module, str | None]:
    """A critic of two and one columns and the method that it is called by."""
    torch.manual_seed(0)
    if kind == "separable":
        return mine_fast.SeparableCritic(2, 1, hidden=(8,), outputs=4), None
    layers = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16), nn.ELU(), nn.Linear(16, 1))
    return (layers, "concat") if kind == "stack" else (TwoArgumentCritic(layers), None)


class Model(nn.Module):
    """An encoder whose code's information is measured: both are trained by the loss."""

    def __init__(self, mine: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encoder = nn.Linear(4, 2)
        self.mine = mine

    def forward(self, x, z, *rest):
        return self.mine(self.encoder(x), z, *rest)


class Together(nn.ModuleList):
    """Models that are trained by the sum of their losses, each on its own rows."""

    def forward(self, batches):
        return torch.stack([model(*rows).double() for model, rows in zip(self, batches, strict=True)])


def batch(rows: int, seed: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    z = x[:, :1] + 0.5 * torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    return x.to(dtype), z.to(dtype)


# One process that has all rows ----------------------------------------------------------------------------------------


class OneProcess(nn.Module):
    """The loss of a batch in blocks, each with marginal pairs of its own, in plain torch."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.T, method = make_critic(case.critic)
        self.score = (
            (lambda x, z: self.T(torch.cat([x, z], 1))[:, 0]) if method else (lambda x, z: self.T(x, z).view(-1))
        )
        self.log_ema = torch.tensor(-math.inf)
        self.step = 0

    def forward(self, x, z, sizes):
        loss, rows = self.case.loss, x.shape[0]
        joint = self.score(x, z)
        key = shuffle_key(7, self.step)
        self.step += 1
        marginal = []  # of every row
        for x_block, z_block in zip(x.split(sizes), z.split(sizes), strict=True):
            partners = self.partners(len(x_block), key)
            marginal += [
                self.score(row.expand(len(p), -1), z_block[p]) for row, p in zip(x_block, partners, strict=True)
            ]
        scores = torch.cat([joint, *marginal])
        if loss == "infonce":
            candidates = [torch.cat([t[None], m]) for t, m in zip(joint, marginal, strict=True)]
            return torch.stack([c.logsumexp(0) - math.log(len(c)) - c[0] for c in candidates]).mean()
        fused = bounds.fused_name(loss)
        if fused is None:
            return bounds.loss_of_scores(scores, rows, loss, 5.0)
        value, log_ema, _ = reference.dv_term(scores, rows, self.log_ema.to(scores.dtype), 0.1, fused)
        if loss == "mine":
            self.log_ema = log_ema
        return value

    def partners(self, rows, key):
        """Of every row of a block."""
        if rows < 2:
            return [torch.empty(0, dtype=torch.int64)] * rows
        if self.case.marginals == "all" or self.case.critic == "separable":
            return [torch.tensor([j for j in range(rows) if j != i]) for i in range(rows)]
        shuffles = min(self.case.shuffles, rows - 1) if self.case.loss == "infonce" else self.case.shuffles
        return list(reference.shuffle_index(key, rows, shuffles).T)


# Jobs -----------------------------------------------------------------------------------------------------------------


def trained(models: Together, step: Callable[..., torch.Tensor], batches: list[list], scale: float) -> list[dict]:
    """Steps of gradient descent, and what they came to for every model.

    Args:
        models: which all make a step together.
        step: what is called in their place.
        batches: of every step, and of every model in it.
        scale: of the gradients of the inputs.
    """
    optimizer = torch.optim.SGD(models.parameters(), lr=0.1)
    found: list[dict[str, Any]] = [
        {name: [] for name in ("loss", "log_ema", "x", "z", "gradient", "parameters")} for _ in models
    ]
    for rows in batches:
        rows = [(x.clone().requires_grad_(), z.clone().requires_grad_(), *rest) for x, z, *rest in rows]
        optimizer.zero_grad()
        losses = step(rows)
        (3 * losses.sum()).backward()
        for one, model, loss, (x, z, *_) in zip(found, models, losses.detach(), rows, strict=True):
            one["loss"].append(loss)
            one["log_ema"].append(model.mine.log_ema.clone())
            one["x"].append(x.grad / scale)
            one["z"].append(z.grad / scale)
            one["gradient"].append([p.grad.clone() for p in model.parameters()])
        optimizer.step()
    for one, model in zip(found, models, strict=True):
        one["parameters"] = [p.detach().clone() for p in model.parameters()]
    return found


def in_one_process(case: Case, world: int) -> dict:
    """A case with the batches of all processes in this one."""
    dtype = getattr(torch, case.dtype)
    critic, method = make_critic(case.critic)
    batches: list[list] = [[batch(sum(sizes), step, dtype)] for step, sizes in enumerate(SIZES[world])]
    if case.marginals == "global":
        mine: nn.Module = mine_fast.MINE(critic, case.loss, 0.1, method, seed=7, shuffles=case.shuffles)
    else:
        mine = OneProcess(case)
        batches = [[(*rows[0], sizes)] for rows, sizes in zip(batches, SIZES[world], strict=True)]
    models = Together([Model(mine).to(dtype)])
    return trained(models, models, batches, scale=1.0)[0]


def spread(rank: int, cases: list[Case]) -> list[dict]:
    """The cases with the batches of this process, all of them in one DistributedDataParallel."""
    world = dist.get_world_size()
    models = Together()
    for case in cases:
        critic, method = make_critic(case.critic)
        seed = 7 if rank == 0 or case.marginals != "global" else 1000 + rank  # where it is rank 0's that counts
        mine = mine_fast.MINE(
            critic,
            case.loss,
            0.1,
            method,
            seed=seed,
            shuffles=case.shuffles,
            marginals=case.marginals,
            process_group="world",
        )
        models.append(Model(mine).to(getattr(torch, case.dtype)))
    parallel = DistributedDataParallel(models)
    batches = []
    for step, sizes in enumerate(SIZES[world]):
        whole = [batch(sum(sizes), step, getattr(torch, case.dtype)) for case in cases]
        batches.append([(x.split(sizes)[rank], z.split(sizes)[rank]) for x, z in whole])
    # DistributedDataParallel divides the gradients of the parameters by the number of processes, and not that of x.
    return trained(models, parallel, batches, scale=world)


def message_of(error: type[Exception], call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """What the error says that a call raises; "" if there is none."""
    try:
        call(*arguments, **options)
    except error as raised:
        return str(raised)
    return ""


class Product(nn.Module):
    """Scores x z times a parameter, which may be anything that x and z make them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, z):
        return self.scale * (x * z).flatten(1).sum(1)


def spread_product(loss: str, x: torch.Tensor, z: torch.Tensor, factor: float = 1.0, **options: Any) -> dict:
    """Loss, moving average and gradients of the inputs by the critic `Product`."""
    mine = mine_fast.MINE(Product(), loss, 0.1, seed=3, process_group="world", **options)
    x, z = x.clone().requires_grad_(), z.clone().requires_grad_()
    value = mine(x, z)
    (factor * value).backward()
    return {"loss": value.detach(), "log_ema": mine.log_ema.clone(), "x": x.grad, "z": z.grad}


#: Scores that a float32 exp cannot take, and that are not finite, in the second of three processes.
EXTREMES = {"high": 1e4, "low": -1e4, "-inf": -math.inf, "inf": math.inf, "nan": math.nan}


def extreme_rows(rank: int, extreme: str) -> tuple[torch.Tensor, torch.Tensor]:
    # So that float32 holds the products as they are.
    x, z = torch.tensor([[1.0], [1.25], [1.5], [2.0]]) + rank, torch.tensor([[0.5], [0.625], [0.75], [1.0]])
    return (torch.full_like(x, EXTREMES[extreme]) if rank == 1 else x), z


def oddities(rank: int) -> dict:
    """What may go wrong, in all processes or in one, without the others waiting for ever."""
    found: dict[str, Any] = {
        (loss, extreme): spread_product(loss, *extreme_rows(rank, extreme))
        for loss in ("mine", "smile", "infonce")
        for extreme in EXTREMES
    }
    # Marginal scores without any weight, in the second process.
    joint = torch.zeros(4, requires_grad=True)
    levels = torch.full((4,), -math.inf if rank == 1 else 0.0, requires_grad=True)
    value, _ = loss_of_terms(Processes("world"), Terms(joint, levels, 4, None), "mine", torch.tensor(-math.inf), 0.1)
    value.backward()
    found["no weight"] = {"loss": value.detach(), "joint": joint.grad, "levels": levels.grad}

    x, z = (part.split([1, 0, 1])[rank] for part in batch(2, 0))
    for marginals in ("shuffle", "all", "global"):
        mine = mine_fast.MINE(Product(), "mine", seed=3, process_group="world", marginals=marginals)
        found[f"no pairs, {marginals}"] = message_of(ValueError, mine, x[:, :1], z) or mine(x[:, :1], z).detach()
        found[f"no rows, {marginals}"] = message_of(ValueError, mine, x[:0, :1], z[:0])
    mine = mine_fast.MINE(Product(), "mine", seed=3, process_group="world", marginals="global")
    found["z_marg without rows"] = mine(x[:, :1], z, z).detach()
    found["columns"] = message_of(ValueError, mine, torch.ones(4, 1), torch.ones(4, 1 + rank % 2))

    x, z = (part[8 * rank : 8 * rank + 8] for part in batch(24, 0))
    critic, method = make_critic("stack")
    # Not wrapped in DistributedDataParallel, nothing makes the shuffles equal but what the module does.
    mine = mine_fast.MINE(critic, "mine", 0.1, method, seed=rank, process_group="world", marginals="global")
    found["loss"] = mine(x[:, :2], z).detach()
    state = {name: value.clone() for name, value in mine.state_dict().items()}
    found["mi"] = [mine.mi(x[:, :2], z), mine.mi(x[:, :2].numpy(), z.numpy())]
    found["z_marg"] = mine.mi(x[:, :2], z, z.flip(0))
    found["state is kept"] = all(torch.equal(value, state[name]) for name, value in mine.state_dict().items())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mine(x[:, :2], z)
    mixed.backward()
    found["autocast"] = mixed.detach()
    found["autocast gradient"] = mine.processes.sum_in_place(
        torch.cat([p.grad.flatten() for p in critic.parameters()]) / 3
    )
    found["optimize"] = message_of(ValueError, mine.optimize, x[:, :2], z)
    found["fit"] = message_of(ValueError, mine.fit, x[:, :2], z)

    # Where the processes weigh the loss differently, the gradient is that of the sum of what they differentiate.
    found["weights"] = spread_product("mine", x[:, :1], z, factor=1.0 + rank)
    found["weight 1"] = spread_product("mine", x[:, :1], z)
    second = mine_fast.MINE(Product(), "mine", seed=3, process_group="world")
    x = x[:, :1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(second(x, z), x, create_graph=True)
    found["second derivative"] = message_of(NotImplementedError, gradient.sum().backward)
    return found


def wrapped(rank: int, module: nn.Module, fabric: bool) -> nn.Module:
    """A module whose gradients are averaged, by torch or by Lightning Fabric."""
    if not fabric:
        return DistributedDataParallel(module)
    from lightning_fabric import Fabric

    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}  # this process is launched, and its group is there
    launcher = Fabric(accelerator="cpu", strategy="ddp", devices=dist.get_world_size())
    launcher.launch()
    return launcher.setup_module(module)


def wrappers(rank: int) -> dict:
    """The same module under DistributedDataParallel, under Fabric, and compiled."""
    found: dict[str, Any] = {}
    x, z = (part[8 * rank : 8 * rank + 8] for part in batch(16, 0))
    for name in ("ddp", "fabric", "compiled"):
        critic, method = make_critic("stack")
        mine = mine_fast.MINE(critic, "mine", 0.1, method, seed=1, process_group="world", marginals="global")
        model = wrapped(rank, Model(mine), fabric=name == "fabric")
        if name == "compiled":
            model = torch.compile(model, backend="eager")
        for _ in range(2):
            loss = model(x, z)
            loss.backward()
        found[name] = [loss.detach(), mine.log_ema.clone(), *(p.grad for p in critic.parameters())]
    whole = torch.compile(mine, backend="eager", fullgraph=True)
    found["whole graph"] = message_of(Exception, whole, x[:, :2], z)
    return found


# Estimates shared between processes -----------------------------------------------------------------------------------

QUICK = {"steps": 20, "folds": 2, "evaluate_every": 10}


class LongError(ValueError):
    """An error that pickle cannot make again from its words."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


class Unreadable(Dataset):
    """Rows that say what is wrong with them in an error of their own."""

    def __len__(self):
        return 40

    def __getitem__(self, row):
        raise LongError("these are ", "unreadable")


def many_pairs() -> list:
    pairs = [batch(40 + rows, rows) for rows in range(4)]
    pairs[1] = (pairs[1][0], pairs[0][1])
    return [*pairs, "no pair", Unreadable()]


def as_saved(results: list) -> list:
    """Results as torch.save takes them, floats to the bit."""
    return [
        str(r) if r.error is not None else [r.mi, r.stderr, r.p_value, *r.fold_mi, *map(str, r.flags)] for r in results
    ]


def shared_estimates(rank: int) -> dict:
    seen: list[tuple[int, int]] = []
    pairs = many_pairs()
    found: dict[str, Any] = {
        "many": as_saved(
            mine_fast.estimate_many(
                pairs, process_group="world", progress=lambda done, steps, _: seen.append((done, steps)), **QUICK
            )
        ),
        "seeds": as_saved([mine_fast.estimate_many(iter(pairs[:1]), process_group="world", n_seeds=3, **QUICK)[0]]),
        "one seed": as_saved([mine_fast.estimate(*pairs[0], process_group="world", **QUICK)]),
        "three seeds": as_saved([mine_fast.estimate(*pairs[0], process_group="world", n_seeds=3, **QUICK)]),
    }
    found["progress"] = list(map(list, seen))

    def complain(*_: Any) -> None:
        raise LongError("enough", " of it")

    found["failed"] = message_of(
        Exception,
        mine_fast.estimate_many,
        pairs,
        process_group="world",
        progress=complain if rank == 1 else None,
        **QUICK,
    )
    found["unequal"] = message_of(
        ValueError, mine_fast.estimate_many, pairs[:1] * (1 + rank), process_group="world", **QUICK
    )
    return found


# Training that loses a process ----------------------------------------------------------------------------------------

EXAMPLE = Path(__file__).parents[1] / "examples" / "distributed_training.py"
STEPS, SAVE_EVERY, KILLED_AFTER = 14, 3, 10


def example_training(rank: int, folder: Path, loses: int | None = None) -> dict:
    """The training of the example, which may lose one of its processes after step `KILLED_AFTER`.

    Returns:
        The losses by step, the state at the end, or what the error says.
    """
    losses: dict[int, float] = {}

    def report(step: int, loss: float) -> None:
        losses[step] = loss
        if rank == loses and step == KILLED_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        model = runpy.run_path(str(EXAMPLE))["train"](folder, STEPS, SAVE_EVERY, report)
    except RuntimeError as error:
        return {"losses": losses, "error": str(error)}
    return {"losses": losses, "state": model.state_dict()}


def absent(rank: int, folder: Path) -> str:
    """A process that does not come."""
    group = dist.new_group([0, 1], timeout=datetime.timedelta(seconds=5))
    given_up = folder / "given-up"
    if rank > 0:
        begun = time.monotonic()
        while not given_up.exists() and time.monotonic() - begun < JOIN_SECONDS:
            time.sleep(0.05)
        return ""
    mine = mine_fast.MINE(Product(), seed=3, process_group=group)
    message = message_of(RuntimeError, mine, *extreme_rows(0, "high"))
    given_up.touch()
    return message
