"""Memory of a process over ten thousand fits: the slope of what is resident, in bytes a fit.

    python benchmarks/fit_memory.py            # about 5 minutes
    python benchmarks/fit_memory.py --fits 500 # a look

Each kind of fit runs in a process of its own, one thread, on samples small enough that ten thousand are quick: what a
fit does not give back does not depend on how many rows it had. The first tenth is warm-up: caches fill, the allocator
finds its size. A leak of one parameter vector of the smallest critic would be 300 bytes a fit.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import record
from engine_memory import resident

LOOKS = 50


def kinds() -> dict[str, tuple[float, Callable[[int], object]]]:
    """Share of all fits, and the fit of a seed, by name."""
    import torch
    from torch import nn

    import mine_fast

    quick = {"steps": 3, "folds": 2, "batch_size": 16}
    samples = [np.random.default_rng(seed).standard_normal((2, 40)) for seed in range(20)]

    def concat(seed: int, engine: str) -> object:
        critic = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
        return mine_fast.MINE(critic, method="concat").fit(*samples[seed % 20], seed=seed, engine=engine, **quick)

    def optimize(seed: int) -> object:
        critic = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
        x, y = samples[seed % 20]
        return mine_fast.MINE(critic, method="concat").optimize(x, y, iters=2, batch_size=20)

    torch.set_num_threads(1)
    return {
        "MINE.fit, native engine": (0.4, lambda seed: concat(seed, "native")),
        "MINE.fit, torch": (0.25, lambda seed: concat(seed, "torch")),
        "MINE.optimize": (0.25, optimize),
        "estimate": (0.1, lambda seed: mine_fast.estimate(*samples[seed % 20], seed=seed, **quick)),
    }


def run(kind: str, fits: int) -> None:
    """Make the fits and print a row."""
    _, fit = kinds()[kind]
    warm_up, looks, sizes = fits // 10, [], []
    started = time.process_time()
    for k in range(fits):
        fit(k)
        if k >= warm_up and (k - warm_up) % max(1, (fits - warm_up) // LOOKS) == 0:
            gc.collect()
            looks.append(k)
            sizes.append(resident("VmRSS") / 1024)
    slope, _ = np.polyfit(looks, np.array(sizes) * 2**20, 1)
    row = {
        "kind": kind,
        "fits": fits,
        "mib_after_warm_up": round(sizes[0], 2),
        "mib_at_end": round(sizes[-1], 2),
        "bytes_per_fit": round(float(slope), 1),
        "cpu_seconds": round(time.process_time() - started, 1),
    }
    print(json.dumps(row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=int, default=10_000, help="of all kinds together")
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        return run(options.kind, options.fits)
    rows = []
    for kind, (share, _) in kinds().items():
        command = [sys.executable, __file__, "--kind", kind, "--fits", str(int(share * options.fits))]
        rows.append(
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        )
        print(rows[-1], flush=True)
    about = (
        "resident memory over fits of 40 rows, in a process for each kind; bytes_per_fit: slope after a tenth of them"
    )
    print(record.write("fit_memory", rows, about=about))


if __name__ == "__main__":
    main()
