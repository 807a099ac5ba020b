"""Training steps on a GPU without the host: several steps are captured into a CUDA graph once, and replayed.

A step of a small critic is a hundred launches, each of which costs the host more than the GPU. A graph of ten steps is
one. All that a step needs is on the device: the row numbers of its batch and its learning rate are copied into the
graph's inputs before a replay, the marginal shuffle is advanced by the key in `DVLoss`, the moving averages are updated
in place. Nothing waits for the GPU but the order of a new pass over the rows, and validations.

Tested with the capture replaced by the steps themselves (tests/test_graphed_steps.py); docs/benchmarks.md says what a
GPU has run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mine_fast import _library
from mine_fast.all_pairs import goes_by_tiles
from mine_fast.critics import scores_all_pairs
from mine_fast.data import ArraySource, PairSource
from mine_fast.settings import TrainingSettings
from mine_fast.steps import TorchSteps, averaging_weight

if TYPE_CHECKING:
    from mine_fast.loss import DVLoss

__all__ = ["STEPS_PER_GRAPH", "GraphedSteps", "capture", "graph_obstacle", "on_side_stream"]

STEPS_PER_GRAPH = 10

Body = Callable[[], None]
#: Runs a body for the first time, on a device.
First = Callable[[Body, torch.device], None]
#: Makes what runs a body again, on a device.
Record = Callable[[Body, torch.device], Body]


def graph_obstacle(mine: DVLoss, source: PairSource) -> str | None:
    """Why a CUDA graph cannot train a loss module on these rows, or None."""
    devices = {p.device for p in mine.parameters()}
    if len(devices) != 1 or next(iter(devices)).type != "cuda":
        return f"the parameters of T are on {', '.join(sorted(map(str, devices)))}, not on one CUDA device"
    if not isinstance(source, ArraySource):
        return "the rows are fetched from a dataset, not held in memory"
    if source.device not in devices:
        return f"the rows are on {source.device}"
    if _library.CUDA_MISSING is not None:
        return f"mine_fast has no CUDA kernels here ({_library.CUDA_MISSING})"
    return loss_obstacle(mine)


def loss_obstacle(mine: DVLoss) -> str | None:
    """What in a step of a loss asks the device for a value, which no graph can record; or None."""
    if mine.marginals != "all" or scores_all_pairs(mine.T, mine.method):
        return None
    if goes_by_tiles(mine.T, mine.method, mine.loss):
        return "marginals='all' calls T on tiles, and keeps the state of the random numbers for their backward"
    return None


def on_side_stream(body: Callable[[], None], device: torch.device) -> None:
    """Run what a graph is to hold once outside it, as capturing asks for: it allocates what later runs find there."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            body()
        torch.cuda.current_stream().wait_stream(stream)


def capture(body: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What runs the launches of `body` again; `body` itself is recorded, not run.

    On the device of what it computes with: torch captures on the current one, and its own stream for that is of the
    first device that captured.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
        body()

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay


class GraphedSteps(TorchSteps):
    """Steps in torch, replayed: the same numbers as `TorchSteps`, for a critic whose forward never asks for a value.

    Args:
        mine: see `train_critic`; parameters on one CUDA device.
        source: rows held there.
        train_rows: int64, rows to train on.
        settings: see `TrainingSettings`.
        seed: of the batch order.
        first: runs the first steps, on a device.
        record: makes a replay of the steps.
        critics: [K] where a step is one of K critics, each on rows of its own; [] of one.
    """

    def __init__(
        self,
        mine: DVLoss,
        source: PairSource,
        train_rows: Tensor,
        settings: TrainingSettings,
        seed: int,
        first: First = on_side_stream,
        record: Record = capture,
        critics: tuple[int, ...] = (),
    ) -> None:
        device = next(mine.parameters()).device
        super().__init__(mine, source, train_rows.to(device), settings, seed)
        self.first, self.record, self.device = first, record, device
        self.warm = False
        self.replay: Callable[[], None] | None = None
        rows = min(settings.batch_size, train_rows.numel())
        #: What a replay reads and writes, an entry for each of its steps.
        self.index = torch.zeros(STEPS_PER_GRAPH, *critics, rows, dtype=torch.int64, device=device)
        self.rate = torch.zeros(STEPS_PER_GRAPH, device=device)
        self.weight = torch.zeros(STEPS_PER_GRAPH, device=device)
        self.losses = torch.zeros(STEPS_PER_GRAPH, *critics, device=device)
        self.step_rate = torch.zeros((), device=device)
        weights = [averaging_weight(settings.averaging, step + 1) for step in range(settings.steps)]
        self.every_rate = torch.tensor(self.rates, dtype=torch.float32, device=device)
        self.every_weight = torch.tensor(weights, dtype=torch.float32, device=device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.step_rate
            group["capturable"] = device.type == "cuda"

    def advance(self, count: int) -> float:
        """See `Steps`."""
        return float(self._mean_losses(count))

    def _mean_losses(self, count: int) -> Tensor:
        """Make `count` steps; the mean loss over them, of every critic."""
        total = torch.zeros_like(self.losses[0], dtype=torch.float64)
        left = count
        while left > 0:
            steps = min(left, STEPS_PER_GRAPH)
            self._write_inputs(steps)
            if steps < STEPS_PER_GRAPH:
                self._run(steps)
            elif self.replay is not None:
                self.replay()
            elif not self.warm:
                self.first(lambda: self._run(STEPS_PER_GRAPH), self.device)
                self.warm = True
            else:
                self.replay = self.record(lambda: self._run(STEPS_PER_GRAPH), self.device)
                self.replay()
            total += self.losses[:steps].double().sum(0)
            left -= steps
        return total / count

    def _write_inputs(self, steps: int) -> None:
        for step in range(steps):
            self.index[step].copy_(next(self.batches))
        now = slice(self.done, self.done + steps)
        self.rate[:steps].copy_(self.every_rate[now])
        self.weight[:steps].copy_(self.every_weight[now])
        self.done += steps

    def _run(self, steps: int) -> None:
        for step in range(steps):
            self.step_rate.copy_(self.rate[step])
            self.losses[step].copy_(self._recorded_step(step))
            with torch.no_grad():
                for average, parameter in zip(self.average, self.parameters, strict=True):
                    average.lerp_(parameter, self.weight[step])

    def _recorded_step(self, step: int) -> Tensor:
        """A step of a graph on its inputs."""
        return self._step(self.index[step])
