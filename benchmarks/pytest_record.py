"""Write pytest-benchmark's JSON as rows under results/, one file for each benchmark module.

    python benchmarks/pytest_record.py .benchmarks/latest.json

benchmarks/test_ops.py becomes results/ops.json. A row has the group, the contender and microseconds a call.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from record import write


def row(benchmark: dict[str, Any]) -> dict[str, Any]:
    stats = benchmark["stats"]
    return {
        "group": benchmark["group"],
        "contender": benchmark["extra_info"].get("contender", benchmark["name"]),
        "us": {
            **{name: round(1e6 * stats[key], 3) for name, key in (("median", "median"), ("q25", "q1"), ("q75", "q3"))},
            "rounds": stats["rounds"],
            "calls_per_round": stats["iterations"],
        },
    }


def main() -> None:
    modules: dict[str, list[dict[str, Any]]] = {}
    for benchmark in json.loads(Path(sys.argv[1]).read_text())["benchmarks"]:
        module = Path(benchmark["fullname"].split("::")[0]).stem.removeprefix("test_")
        modules.setdefault(module, []).append(row(benchmark))
    for module, rows in modules.items():
        rows.sort(key=lambda r: r["group"])
        first = {r["group"]: r["us"]["median"] for r in reversed(rows)}
        for r in rows:
            ratio = r["us"]["median"] / first[r["group"]]
            print(f"{r['group']:55s} {r['contender']:25s} {r['us']['median']:10.2f} us {ratio:7.2f} x")
        print(write(module, rows, about="microseconds a call, by pytest-benchmark"))


if __name__ == "__main__":
    main()
