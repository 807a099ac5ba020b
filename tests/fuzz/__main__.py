"""Run fuzz cases from the command line: all targets, or one case again to look at it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .run import Outcome, run, run_case, targets

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0, help="other seeds, other cases")
    parser.add_argument("--target", action="append", help="only this one (several times: these)")
    parser.add_argument("--case", type=int, help="run this case of the target in this process, and show its error")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/fuzz.json")
    options = parser.parse_args()
    names = options.target or list(targets())
    if options.case is not None:
        print("refused" if run_case(targets()[names[0]], names[0], options.seed, options.case) else "done")
        return 0
    rows, failures = [], 0
    for name, share in zip(names, _shares(options.cases, len(names)), strict=True):
        started = time.monotonic()
        outcome = run(name, options.seed, range(share))
        rows.append({"target": name, **_row(outcome), "seconds": round(time.monotonic() - started, 1)})
        failures += len(outcome.failures)
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        for number, what in outcome.failures[:20]:
            print(f"--- {name}, case {number}\n{what}", flush=True)
    if options.record:
        sys.path.insert(0, str(RESULTS))
        import record

        total = {"cases": options.cases, "failures": failures, "seconds": round(sum(row["seconds"] for row in rows), 1)}
        record.write("fuzz", rows, what="random arguments of ops and engine, damaged files", seed=options.seed, **total)
    return int(failures > 0)


def _row(outcome: Outcome) -> dict[str, int]:
    return {"cases": outcome.cases, "refused": outcome.refused, "failures": len(outcome.failures)}


def _shares(cases: int, count: int) -> list[int]:
    return [cases // count + (i < cases % count) for i in range(count)]


if __name__ == "__main__":
    sys.exit(main())
