"""Peak memory that a training step adds, by the engine and by clean eager torch, as the pairs grow.

    python benchmarks/engine_memory.py

Critic 2+25 -> 400 x 3 -> 1 on 256 rows. Each figure is from a process of its own: the peak of its resident memory over
a few steps, less what was resident before the first, critic and optimiser included on both sides.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SIZE = (2, 25, 400, 3, 256)
SHUFFLES = (1, 4, 16, 64)


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (peak), in KiB."""
    found = re.search(rf"^{field}:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found.group(1))


def run(contender: str, shuffles: int) -> None:
    """Make three steps and print the KiB by which they raised the peak."""
    import baselines
    import engine_step
    import torch

    torch.set_num_threads(1)
    x_width, y_width, hidden, layers, batch = SIZE
    x, y = engine_step.data_of(x_width, y_width, batch)
    critic = baselines.make_critic(x_width, y_width, hidden, layers)
    if contender == "engine":
        engine = engine_step.relu_engine(SIZE, critic)

        def steps() -> None:
            engine.train(x.numpy(), y.numpy(), 3, batch, shuffles, 1e-4, threads=1)
    else:
        optimizer = torch.optim.Adam(critic.parameters(), lr=1e-4, fused=True)

        def steps() -> None:
            for _ in range(3):
                index = torch.cat([torch.arange(batch), *[torch.randperm(batch) for _ in range(shuffles)]])
                t = critic(torch.cat([x.repeat(1 + shuffles, 1), y[index]], 1)).squeeze(1)
                optimizer.zero_grad()
                (torch.logsumexp(t[batch:], 0) - t[:batch].mean()).backward()
                optimizer.step()

    # Of both, what loading costs: torch's own first products and autograd.
    small = torch.nn.Linear(2, 2)
    small(torch.zeros(2, 2)).sum().backward()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    steps()
    print(resident("VmHWM") - before)


def main() -> None:
    if len(sys.argv) == 3:
        return run(sys.argv[1], int(sys.argv[2]))
    import record

    rows = []
    for shuffles in SHUFFLES:
        row: dict[str, float] = {"shuffles": shuffles, "pairs": (1 + shuffles) * SIZE[-1]}
        for contender in ("engine", "eager"):
            command = [sys.executable, __file__, contender, str(shuffles)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            row[f"{contender}_mib"] = round(int(output.split()[-1]) / 1024, 1)
        rows.append(row)
        print(row, flush=True)
    about = (
        "MiB that the peak of resident memory grows by in three training steps, one thread; critic 2+25 -> 400 x 3 -> 1"
    )
    print(record.write("engine_memory", rows, about=about))


if __name__ == "__main__":
    main()
