"""How far estimators are from known mutual information: every case x size x seed x estimator of `distributions`.

    python benchmarks/accuracy.py [--rows 10000] [--seeds 1000-1004] [--split report] [--estimators mine_fast,ksg]
                                  [--cases spiral] [--jobs 2] [--fresh]

Estimates are added to benchmarks/results/accuracy.json as they come, so an interrupted run goes on where it was; those
of another version of an estimator are replaced. Defaults are chosen on tuned cases with seeds below 1000; figures to
report are of seeds from 1000 on. This file keeps the two apart: lower seeds run on tuned cases alone, and are recorded
in accuracy_tuning.json, which git ignores.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import accuracy_rows
import numpy as np
import record
from accuracy_rows import Row
from contenders import CONTENDERS, Estimate
from distributions import CASES
from sampling import REPORT_SEEDS, add_seeds, one_thread, seed_range

Key = tuple[str, int, str]


def measure(case: str, rows: int, seed: int, estimator: str) -> tuple[Estimate | None, float, str]:
    """An estimate, the CPU seconds that it took, and what was raised instead of it."""
    x, y = CASES[case].draw(np.random.default_rng(seed), rows)
    start, estimate, message = time.process_time(), None, ""
    try:
        estimate = CONTENDERS[estimator].estimate(x, y, seed)
    except Exception as error:  # a contender that gives up on a sample has failed on it, and the benchmark goes on
        message = f"{type(error).__name__}: {error}"
    return estimate, time.process_time() - start, message


def warm_up(estimators: list[str]) -> None:
    """Import and compile what the contenders use, so that no case is charged for it."""
    import torch

    torch.set_num_threads(1)
    x, y = np.random.default_rng(0).standard_normal((2, 300, 1))
    for name in estimators:
        if name not in ("mine_pytorch", "torch_mist"):  # whose trainings are long whatever the rows, and imports small
            CONTENDERS[name].estimate(x, y, 0)


def stored(name: str, versions: dict[str, str], fresh: bool) -> dict[Key, Row]:
    """The rows of earlier runs, less those that this run replaces and those of cases that have changed since."""
    path = record.RESULTS / f"{name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = [r for r in rows if r["case"] in CASES and r["truth"] == round(CASES[r["case"]].truth, 5)]
    replaced = [n for n in versions if fresh or any(r["estimator"] == n and r["version"] != versions[n] for r in rows)]
    for n in replaced:
        print(f"{n}: measured anew")
    return {(r["case"], r["rows"], r["estimator"]): r for r in rows if r["estimator"] not in replaced}


def run(name: str, cases: list[str], sizes: list[int], seeds: list[int], options: argparse.Namespace) -> list[Row]:
    versions = {}
    for estimator in options.estimators:
        version = CONTENDERS[estimator].version()
        if version is None:
            print(f"{estimator}: skipped, {CONTENDERS[estimator].package} is not installed")
        else:
            versions[estimator] = version
    kept = stored(name, versions, options.fresh)
    cpu = record.cpu_name()
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), warm_up, (list(versions),)) as pool:
        waiting: dict[Future, tuple[Key, int]] = {}
        for case in cases:
            width = max(v.shape[1] for v in CASES[case].draw(np.random.default_rng(0), 2))
            for rows in sizes:
                for estimator, version in versions.items():
                    if width > CONTENDERS[estimator].columns:
                        continue
                    key = (case, rows, estimator)
                    about = {"version": version, "cpu": cpu}
                    new = accuracy_rows.new_row(*key, CASES[case].truth, CASES[case].tuned, **about)
                    for seed in seeds:
                        if seed not in kept.setdefault(key, new)["seeds"]:
                            waiting[pool.submit(measure, case, rows, seed, estimator)] = key, seed
        print(f"{len(waiting)} estimates to make", flush=True)
        try:
            for future in as_completed(list(waiting)):
                key, seed = waiting.pop(future)
                estimate, seconds, message = future.result()
                accuracy_rows.add(kept[key], seed, estimate, seconds)
                done = [row for row in kept.values() if row["seeds"]]
                record.write(name, done, about="accuracy against known truths, defaults, one thread; nats")
                report(kept[key], seed, message, any(key == other for other, _ in waiting.values()))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return [row for key, row in kept.items() if row["seeds"] and key[1] in sizes]


def report(row: Row, seed: int, message: str, more_to_come: bool) -> None:
    """A line per finished case, and one per failure."""
    if message:
        print(f"  {row['case']}, {row['estimator']}, seed {seed}: {message[:200]}", flush=True)
    if not more_to_come:
        error = "failed" if row["mean_error"] is None else f"{row['mean_error']:+.3f}"
        print(
            f"{row['estimator']:14s} {row['case']:34s} N={row['rows']} truth {row['truth']:.3f} error {error}"
            f" {row['mean_cpu_seconds']:.1f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="10000", help="sizes, with commas")
    add_seeds(parser, 5, seed_range)
    parser.add_argument(
        "--split", choices=("report", "tune", "all"), default="report", help="untuned cases, tuned, all"
    )
    parser.add_argument("--estimators", default="mine_fast", help=f"of {', '.join(CONTENDERS)}, with commas")
    parser.add_argument("--cases", default="", help="only those whose names have this in them")
    parser.add_argument("--jobs", type=int, default=1, help="estimates at a time, a core each")
    parser.add_argument("--fresh", action="store_true", help="measure again what is recorded of these estimators")
    options = parser.parse_args()
    options.estimators = options.estimators.split(",")
    if unknown := set(options.estimators) - set(CONTENDERS):
        parser.error(f"unknown estimators {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    seeds = list(options.seeds)
    tuning = min(seeds) < REPORT_SEEDS
    if tuning and (options.split != "tune" or max(seeds) >= REPORT_SEEDS):
        parser.error(f"seeds below {REPORT_SEEDS} are for tuning: use them by themselves, with --split tune")
    wanted = {"report": (False,), "tune": (True,), "all": (False, True)}[options.split]
    cases = [name for name, case in CASES.items() if case.tuned in wanted and options.cases in name]
    name = "accuracy_tuning" if tuning else "accuracy"
    one_thread()
    rows = run(name, cases, [int(size) for size in options.rows.split(",")], seeds, options)
    for summary in accuracy_rows.summarise(rows, cases):
        print(accuracy_rows.describe(summary))


if __name__ == "__main__":
    main()
