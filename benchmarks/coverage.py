"""How often `lower(0.95)` is above the truth, and p below 0.05 on independent data, over hundreds of samples.

    python benchmarks/coverage.py [--rows 200,1000] [--seeds 1000-1199] [--cases gaussian] [--jobs 2]
    python benchmarks/coverage.py --rows 24,60 --cases "independent 1-d" --steps 40 --seeds 1000-1399

By the defaults of `mine_fast.estimate`, but for --steps: short trainings let the test be looked at where rows are few.
Estimates are added to benchmarks/results/coverage.json as they come, so that an interrupted run goes on where it was;
those of another commit of the package are replaced. Seeds below 1000 are refused: defaults were chosen on those.
`python benchmarks/readme_table.py` makes docs/coverage.md of it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import numpy as np
import record
from contenders import source_version
from distributions import CASES
from prose import wrapped
from sampling import PER_SEED, add_seeds, figures_of, one_thread

Row = dict[str, Any]
Key = tuple[str, int, int | None]

#: Of every kind, dependent and not.
COVERED = (
    "independent 1-d",
    "independent Cauchy",
    "independent 10-d uniform",
    "independent coins",
    "gaussian 1-d, rho 0.9",
    "gaussian 5-d dense",
    "student 2+2, df 1",
    "sin(4 pi x)",
    "codes, 5 levels",
)


def measure(case: str, rows: int, steps: int | None, seed: int) -> dict[str, float]:
    import torch

    import mine_fast

    torch.set_num_threads(1)
    samples = CASES[case].draw(np.random.default_rng(seed), rows)
    return figures_of(mine_fast.estimate, samples, seed, **({} if steps is None else {"steps": steps}))[1]


def figures(row: Row) -> Row:
    """What a row's estimates come to."""
    error, stderr = np.array(row["mi"]) - row["truth"], np.array(row["stderr"])
    values = {
        "mean_error": error.mean(),
        "sd_of_estimate": error.std(ddof=1) if len(error) > 1 else None,
        "mean_stderr": stderr.mean(),
        "lower_95_above_truth": np.mean(np.array(row["lower_95"]) > row["truth"]),
        # A multiple of 0.001: at most 0.05 is what an exact test has in 5% of samples.
        "p_up_to_0.05": np.mean(np.array(row["p_value"]) <= 0.05),
        "p_up_to_0.01": np.mean(np.array(row["p_value"]) <= 0.01),
        "mean_cpu_seconds": np.mean(row["cpu_seconds"]),
    }
    return {name: None if value is None else round(float(value), 4) for name, value in values.items()}


def two_sigma(share: float, runs: int) -> float:
    """Of a share that is counted in so many runs: as far as chance takes it in 95 of 100 counts."""
    return 2 * math.sqrt(share * (1 - share) / runs)


def page(document: dict[str, Any], machine: str) -> str:
    """docs/coverage.md."""
    rows = document["rows"]
    sizes = " and ".join(map(str, sorted({row["rows"] for row in rows})))
    lines = [
        "# How often the error statements hold",
        "",
        wrapped(
            "Written by `python benchmarks/readme_table.py` from `benchmarks/results/coverage.json`, which `python "
            f"benchmarks/coverage.py` measures; {machine}, {rows[0]['version']}. Measured so far: samples of {sizes} "
            "rows."
        ),
        "",
        wrapped(
            "`lower(0.95)` may be above the truth in 5% of samples; below is more cautious than it says. Of "
            "independent samples p <= 0.05 should come in 5%. Values in nats; +- is two standard errors of a share of "
            "5%."
        ),
        "",
        "| case | rows | samples | truth | mean error | sd of the estimate | mean stderr | lower(0.95) above the truth "
        "| p <= 0.05 | p <= 0.01 | CPU s |",
        "|---" * 11 + "|",
    ]
    for row in rows:
        short = "" if row["steps"] is None else f", {row['steps']} steps"
        cells = [row["case"] + short, str(row["rows"]), str(len(row["seeds"])), f"{row['truth']:.3f}"]
        cells += ["" if (v := row[k]) is None else f"{v:+.3f}" for k in ("mean_error",)]
        cells += ["" if (v := row[k]) is None else f"{v:.3f}" for k in ("sd_of_estimate", "mean_stderr")]
        cells += [f"{row[k]:.1%}" for k in ("lower_95_above_truth", "p_up_to_0.05", "p_up_to_0.01")]
        lines.append(f"| {' | '.join([*cells, format(row['mean_cpu_seconds'], '.1f')])} |")
    independent = [row for row in rows if row["truth"] == 0]
    return (
        "\n".join(
            [
                *lines,
                "",
                *pooled("lower(0.95) above the truth", rows, "lower_95_above_truth"),
                *pooled("p <= 0.05 of independent samples", independent, "p_up_to_0.05"),
            ]
        )
        + "\n"
    )


def pooled(title: str, rows: Sequence[Row], figure: str) -> list[str]:
    """A line on a share over all of the rows' samples."""
    runs = sum(len(row["seeds"]) for row in rows)
    if not runs:
        return []
    share = sum(len(row["seeds"]) * row[figure] for row in rows) / runs
    return [f"- {title}: {share:.1%} of {runs} samples (5% +- {two_sigma(0.05, runs):.1%})"]


def stored(version: str) -> dict[Key, Row]:
    """The rows of earlier runs of this version of the package."""
    path = record.RESULTS / "coverage.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = [row for row in rows if row["version"] == version and row["case"] in CASES]
    if len(kept) < len(rows):
        print(f"{len(rows) - len(kept)} rows of another version: measured anew")
    return {(row["case"], row["rows"], row["steps"]): row for row in kept}


def run(cases: Sequence[str], sizes: Sequence[int], steps: int | None, seeds: Sequence[int], jobs: int) -> list[Row]:
    version = source_version()
    kept = stored(version)
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        waiting = {}
        # Seed by seed, so that an interrupted run leaves every row with as many.
        for seed in seeds:
            for rows in sizes:
                for case in cases:
                    new = {"case": case, "rows": rows, "steps": steps, "truth": round(CASES[case].truth, 5)}
                    new |= {"version": version, **{name: [] for name in PER_SEED}}
                    row = kept.setdefault((case, rows, steps), new)
                    if seed not in row["seeds"]:
                        waiting[pool.submit(measure, case, rows, steps, seed)] = row
        print(f"{len(waiting)} estimates to make", flush=True)
        try:
            for done, future in enumerate(as_completed(list(waiting)), 1):
                row = waiting.pop(future)
                for name, value in future.result().items():
                    row[name].append(round(value, 5))
                row.update(figures(row))
                if done % 20 == 0 or not waiting:
                    finished = [row for row in kept.values() if row["seeds"]]
                    record.write("coverage", finished, about="coverage of lower(0.95) and p-values, one thread; nats")
                    print(f"{done} done", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return [row for row in kept.values() if row["seeds"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="200,1000", help="sizes, with commas")
    add_seeds(parser, 200)
    parser.add_argument("--cases", default="", help="only those whose names have this in them")
    parser.add_argument("--steps", type=int, default=None, help="of the training; the default's without")
    parser.add_argument("--jobs", type=int, default=1, help="estimates at a time, a core each")
    options = parser.parse_args()
    one_thread()
    cases = [name for name in COVERED if options.cases in name]
    sizes = [int(size) for size in options.rows.split(",")]
    rows = run(cases, sizes, options.steps, options.seeds, options.jobs)
    print(page({"rows": rows}, record.cpu_name()))


if __name__ == "__main__":
    main()
