"""A training loop with an information term on several processes, which goes on after one of them is lost.

    torchrun --nproc-per-node 2 --max-restarts 3 examples/distributed_training.py [FOLDER]

An autoencoder of x keeps, in two numbers, what x tells about y: reconstruction error minus the information
I(code; y). The rows of a batch are spread over the processes; the loss is that of the whole batch, whatever their
number. If a process is lost, the others end with an error, torchrun starts all again, and they go on from the last
checkpoint with the numbers that they would have had.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import mine_fast

ROWS, BATCH = 1003, 100  # the last batch of a pass has 3 rows


class Model(nn.Module):
    """An autoencoder [B, 10] -> [B, 2] -> [B, 10] and the critic that measures what its code tells about y [B, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(10, 2), nn.Linear(2, 10)
        critic = nn.Sequential(nn.Linear(2 + 1, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
        self.mine = mine_fast.MINE(critic, method="concat", seed=0, process_group="world", marginals="global")

    def forward(self, x: torch.Tensor, y: torch.Tensor, rows: int, beta: float = 1.0) -> torch.Tensor:
        """The loss of a batch of `rows` rows, of which x and y are those of this process."""
        code = self.encoder(x)
        # DistributedDataParallel averages over the processes: W times the share of this one gives the batch's mean.
        # MINE gives that of the whole batch by itself.
        error = dist.get_world_size() * (self.decoder(code) - x).square().sum() / (10 * rows)
        return error + beta * self.mine(code, y)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows x [N, 10] and y [N, 1], which depends on one direction of x."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(ROWS, 10, generator=generator), torch.randn(ROWS, 1, generator=generator)
    return x, x[:, :4].sum(1, keepdim=True) + noise


def train(folder: Path, steps: int, save_every: int, report: Callable[[int, float], None]) -> Model:
    """Make steps, or go on with them, in a process group that is there."""
    rank, world = dist.get_rank(), dist.get_world_size()
    checkpoint = folder / "checkpoint.pt"
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])  # the moving average and the shuffle of MINE are in it
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    parallel = DistributedDataParallel(model)
    x, y = data()
    batches = -(-ROWS // BATCH)
    for step in range(first, steps):
        epoch, batch = divmod(step, batches)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(epoch))
        rows = order[batch * BATCH : (batch + 1) * BATCH]
        own = rows[rank::world]  # processes may have more rows than others, or none
        optimizer.zero_grad()
        loss = parallel(x[own], y[own], len(rows))
        loss.backward()
        optimizer.step()
        report(step, loss.item())
        if rank == 0 and (step + 1) % save_every == 0:
            save(checkpoint, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1})
    return model


def save(path: Path, state: dict) -> None:
    """Write a file that is, whenever something stops the writing, the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def main() -> None:
    """Join the group that torchrun set up, and train."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    train(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/distributed"), 110, 10, report=print_on_rank_0)
    dist.destroy_process_group()


def print_on_rank_0(step: int, loss: float) -> None:
    """Say how it goes, at the last full batch of every pass."""
    if dist.get_rank() == 0 and step % 11 == 9:
        print(f"step {step + 1}: loss {loss:.3f}")


if __name__ == "__main__":
    main()
