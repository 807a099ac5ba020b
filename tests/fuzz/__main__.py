"""Run fuzz cases from the command line: all targets, or one case again to look at it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .run import run, run_case, targets

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


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
    outcomes = run(names, options.seed, options.cases)
    rows = [
        {
            "target": name,
            "cases": outcome.cases,
            "refused": outcome.refused,
            "failures": len(outcome.failures),
            "seconds": round(outcome.seconds, 1),
        }
        for name, outcome in outcomes.items()
    ]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    for name, outcome in outcomes.items():
        for number, what in outcome.failures[:20]:
            print(f"--- {name}, case {number}\n{what}", flush=True)
    failures = sum(len(outcome.failures) for outcome in outcomes.values())
    if options.record:
        sys.path.insert(0, str(BENCHMARKS))
        import record

        about = "random arguments of ops and engine, damaged files: a failure is a crash, a hang or a result that lies"
        record.write("fuzz", rows, about=about, seed=options.seed, cases=options.cases, failures=failures)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
