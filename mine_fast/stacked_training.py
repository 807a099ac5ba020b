"""Many critics of one shape trained at once, for a GPU that a single small critic leaves idle.

Their parameters are stacked, [K, ...] each, and a step is one for all: batches of every critic's own rows, batched
products, one loss and moving average each, gradients clipped to the norm of each, one AdamW over the stack. Adam works
element by element, and every critic draws its batches and shuffles from its own key, so that each is what it would be
alone, to rounding. Several steps are replayed from a CUDA graph (see `graphed_steps`).

Tested on the CPU against critics that train alone, the capture replaced by the steps; docs/benchmarks.md says what a
GPU has run.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor, nn

from mine_fast import reference
from mine_fast.bounds import fused_name
from mine_fast.critics import call_critic, scores_all_pairs
from mine_fast.data import ArraySource
from mine_fast.fold_fitting import ToTrain
from mine_fast.graphed_steps import First, GraphedSteps, Record, capture, on_side_stream
from mine_fast.loss import DVLoss
from mine_fast.modules import kept_state
from mine_fast.native import network_stacks, pair_scorer
from mine_fast.noise import GaussianNoise
from mine_fast.selection import FoldHistory, Selection
from mine_fast.steps import Keep

__all__ = ["StackedSteps", "shape_of", "train_together"]


def shape_of(wanted: ToTrain) -> Hashable | None:
    """What trainings must have in common to be stacked; None: this one cannot be."""
    mine, rows, fold = wanted.loss, wanted.rows, wanted.fold
    stacks = network_stacks(mine)
    if not stacks or not isinstance(rows, ArraySource) or fused_name(mine.loss) is None:
        return None
    if mine.marginals == "all" and not scores_all_pairs(mine.T, mine.method):
        return None  # whose pairs are streamed in tiles, which fill a GPU by themselves
    if any(isinstance(module, GaussianNoise) for stack in stacks for module in stack):
        return None
    if not all(p.requires_grad and p.dtype == torch.float32 for p in mine.parameters()):
        return None
    batch = min(fold.settings.batch_size, fold.train.numel())
    return repr(mine), mine.alpha, rows.x.shape, rows.y.shape, rows.device, batch, fold.settings


def train_together(wanted: Sequence[ToTrain]) -> list[FoldHistory | Exception]:
    """Make trainings of one shape (see `shape_of`) at once, each as `train_critic` would.

    Returns:
        The history of each, or what it raised, which leaves the others as they are.
    """
    settings = wanted[0].fold.settings
    for one in wanted:
        one.loss.shuffles = settings.shuffles
        one.loss.train()
    steps = StackedSteps(wanted)
    chosen = [
        Selection(pair_scorer(one.loss, "torch"), one.rows, one.fold.validation, settings, one.fold.seed,
                  progress=one.report)
        for one in wanted
    ]  # fmt: skip
    found: list[FoldHistory | Exception | None] = [None] * len(wanted)

    def read(step: int, losses: list[float]) -> None:
        with steps.averaged() as kept:
            for k, (one, loss) in enumerate(zip(chosen, losses, strict=True)):
                if found[k] is None:
                    try:
                        one.read(step, -loss, kept[k])
                    except Exception as error:
                        found[k] = error

    read(0, [math.nan] * len(wanted))
    for start in range(0, settings.steps, settings.evaluate_every):
        count = min(settings.evaluate_every, settings.steps - start)
        read(start + count, steps.advance_all(count))
    for one in wanted:
        one.loss.eval()
    return [one.take_best() if result is None else result for one, result in zip(chosen, found, strict=True)]


class _Loss(nn.Module):
    """The loss of one critic on a batch as a function of everything that differs between critics."""

    def __init__(self, mine: DVLoss) -> None:
        super().__init__()
        self.T, self.method = mine.T, mine.method
        self.loss, self.alpha = fused_name(mine.loss) or "", mine.alpha
        self.by_product = scores_all_pairs(mine.T, mine.method)

    def forward(self, x: Tensor, y: Tensor, partner: Tensor, log_ema: Tensor) -> tuple[Tensor, Tensor]:
        """Rows x [B, dx], y [B, dy], partner int64 [S, B] -> the loss [] and the new log_ema []."""
        if self.by_product:
            scores = self.T.all_pairs(x, y)
        else:
            x_pairs = x.repeat(1 + len(partner), 1)
            y_pairs = torch.cat([y, y.index_select(0, partner.flatten())])
            scores = call_critic(self.T, self.method, x_pairs, y_pairs)
        loss, new_log_ema, _ = reference.dv_term(scores, x.shape[0], log_ema, self.alpha, self.loss)
        return loss, new_log_ema


class StackedSteps(GraphedSteps):
    """Steps of K critics at once; see `GraphedSteps`.

    Args:
        wanted: trainings of one shape.
        first: see `GraphedSteps`; None: as its own on a GPU, the steps themselves elsewhere.
        record: likewise.
    """

    def __init__(
        self,
        wanted: Sequence[ToTrain],
        first: First | None = None,
        record: Record | None = None,
    ) -> None:
        losses, fold, rows = [one.loss for one in wanted], wanted[0].fold, wanted[0].rows
        device = rows.device
        graphs = device.type == "cuda"
        stacked = _Stack(losses)
        super().__init__(
            stacked,  # type: ignore[arg-type]
            rows,
            fold.train,
            fold.settings,
            fold.seed,
            first or (on_side_stream if graphs else lambda body, device: body()),
            record or (capture if graphs else lambda body, device: body),
            critics=(len(wanted),),
        )
        self.stacked, self.losses_of = stacked, losses
        sources = [one.rows for one in wanted if isinstance(one.rows, ArraySource)]
        self.x, self.y = (torch.stack([side(s) for s in sources]) for side in (lambda s: s.x, lambda s: s.y))
        self.keys = torch.stack([loss.shuffle_key for loss in losses]).to(device)
        self.shuffles = losses[0].shuffles
        self.by_product = scores_all_pairs(losses[0].T, losses[0].method)
        self.log_ema = torch.stack([loss.log_ema for loss in losses])
        self.partner = self.index.new_zeros(*self.index.shape[:2], self.shuffles, self.index.shape[-1])
        self.batches = _batches([one.fold.train.to(device) for one in wanted], self.keys, self.index.shape[-1])
        template = _Loss(losses[0])
        names = [f"T.{name}" for name, _ in losses[0].T.named_parameters()]

        def loss_of(parameters: Sequence[Tensor], *batch: Tensor) -> tuple[Tensor, Tensor]:
            given = dict(zip(names, parameters, strict=True))
            result: tuple[Tensor, Tensor] = torch.func.functional_call(template, given, batch)
            return result

        self.loss_of = torch.func.vmap(loss_of)

    def advance_all(self, count: int) -> list[float]:
        """Make `count` steps; the mean loss of every critic over them."""
        return [float(loss) for loss in self._mean_losses(count).tolist()]

    def _write_inputs(self, steps: int) -> None:
        if not self.by_product:
            offsets = torch.arange(self.done, self.done + steps, device=self.keys.device)
            keys = self.keys.expand(steps, -1, -1).clone()
            keys[..., 1] += offsets[:, None]
            self.partner[:steps].copy_(reference.shuffle_index(keys, self.partner.shape[-1], self.shuffles))
        super()._write_inputs(steps)

    def _recorded_step(self, step: int) -> Tensor:
        index = self.index[step][..., None]
        x, y = (side.gather(1, index.expand(-1, -1, side.shape[-1])) for side in (self.x, self.y))
        self.optimizer.zero_grad(set_to_none=True)
        losses, log_ema = self.loss_of(self.parameters, x, y, self.partner[step], self.log_ema)
        losses.sum().backward()
        self.log_ema.copy_(log_ema)
        self._clip()
        self.optimizer.step()
        return losses.detach()

    def _clip(self) -> None:
        """What `clip_grad_norm_` does, for each critic by itself."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)  # [K]
        factor = (self.settings.max_grad_norm / (norm + 1e-6)).clamp(max=1)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *(1,) * (gradient.ndim - 1)))

    @contextlib.contextmanager
    @torch.no_grad()
    def averaged(self) -> Iterator[list[Keep]]:  # type: ignore[override]
        """The modules of the critics hold their averages, and keep them: what trains is the stack."""
        for k, loss in enumerate(self.losses_of):
            for parameter, average in zip(loss.T.parameters(), self.average, strict=True):
                parameter.copy_(average[k])
            loss.log_ema.copy_(self.log_ema[k])
            loss.shuffle_key[1] = self.done
            loss.eval()
        yield [functools.partial(kept_state, loss) for loss in self.losses_of]
        for loss in self.losses_of:
            loss.train()


class _Stack(nn.Module):
    """The parameters of K critics, [K, ...] each."""

    def __init__(self, losses: Sequence[DVLoss]) -> None:
        super().__init__()
        every = zip(*(loss.T.parameters() for loss in losses), strict=True)
        self.values = nn.ParameterList(nn.Parameter(torch.stack([p.detach() for p in one])) for one in every)


def _batches(rows: Sequence[Tensor], keys: Tensor, size: int) -> Iterator[Tensor]:
    """Endless batches of row numbers [K, size], each critic's as `epoch_batches` draws them.

    Critics whose numbers of rows differ may come to the end of a pass at different steps.

    Args:
        rows: int64 [N_k] of every critic.
        keys: int64 [K, 2], their seeds.
        size: of a batch.
    """
    lengths = {len(one) for one in rows}
    seeds = keys[:, 0]

    def orders(length: int, epoch: int) -> dict[int, Tensor]:
        """The orders of a pass of all critics with so many rows, made in one go."""
        members = [k for k, one in enumerate(rows) if len(one) == length]
        pass_keys = torch.stack([seeds[members], torch.full_like(seeds[members], epoch)], 1)
        table = torch.stack([rows[k] for k in members]).gather(
            1, reference.bijection(pass_keys, reference.PASS_STREAM, length)
        )
        return dict(zip(members, table, strict=True))

    position = dict.fromkeys(lengths, (-1, 0))  # (pass, batch of it)
    current: dict[int, Tensor] = {}
    while True:
        for length, (epoch, batch) in position.items():
            if epoch < 0 or batch == length // size:
                epoch, batch = epoch + 1, 0
                current |= orders(length, epoch)
            position[length] = epoch, batch + 1
        starts = [(position[len(one)][1] - 1) * size for one in rows]
        yield torch.stack([current[k][start : start + size] for k, start in enumerate(starts)])
