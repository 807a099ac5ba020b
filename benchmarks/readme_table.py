"""Write the tables of the README from the rows under results/, between its markers, and the tables in docs/.

    python benchmarks/readme_table.py [--check]

With --check nothing is written, and a file that says something else is an error.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import accuracy_tables
import coverage
import repeats
from prose import wrapped
from record import RESULTS, ROOT

START, END = "<!-- results -->\n", "<!-- /results -->"


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def accuracy_table(document: dict[str, Any]) -> str:
    lines = [
        wrapped(
            f"**Accuracy** of `mine_fast.estimate(x, y)`, no arguments, {document['rows'][0]['runs']} fresh samples "
            f"each (nats, one thread; {machine(document)}):"
        ),
        "",
        "| data | truth | mean error | sd of the estimate | mean stderr | within 2 stderr "
        "| lower(0.95) below the truth | p < 0.05 | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        cells = [
            row["case"],
            f"{row['truth'] + 0.0:.3f}",
            f"{row['mean_error']:+.3f}",
            f"{row['sd_of_estimate']:.3f}",
            f"{row['mean_stderr']:.3f}",
            f"{row['within_2_stderr']:.0%}",
            f"{row['lower_95_below_truth']:.0%}",
            f"{row['p_below_0.05']:.0%}",
            f"{row['cpu_seconds']['median']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def engine_table(document: dict[str, Any]) -> str:
    lines = [
        wrapped(
            "**A training step by the native engine**, which `fit`, `estimate` and `optimize` use by themselves (CPU "
            f"ms, one thread; sampling, shuffle and Adam included; {machine(document)}). The last three columns are "
            "how many times as long the same step takes by clean eager torch, by mine-pytorch's way with anomaly "
            "detection on as it ships, and by the step's matrix products alone (`torch.mm`, first layer split):"
        ),
        "",
        "| critic | weights | engine | eager | mine-pytorch | products alone |",
        "|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        ratios = [f"{1 / row[f'engine/{name}']:.2f} x" for name in ("eager", "mine-pytorch", "products")]
        lines.append(f"| {label(row['size'])} | {row['state']} | {row['engine_ms']:.2f} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def label(size: list[int]) -> str:
    x_width, y_width, hidden, layers, rows = size
    return f"{x_width}+{y_width} -> {hidden} x {layers} -> 1, {rows} rows"


def step_table(document: dict[str, Any]) -> str:
    sizes: dict[str, dict[str, float]] = {}
    for row in document["rows"]:
        sizes.setdefault(label(row["size"]), {})[row["contender"]] = row["cpu_ms"]["median"]
    contenders = list(next(iter(sizes.values())))
    lines = [
        wrapped(
            f"**A training step** with `MINE` as the loss in a Python loop (CPU ms, one thread, {machine(document)}; "
            "medians of contenders that alternate in one run, in brackets the median of the rounds' ratios to ours):"
        ),
        "",
        f"| critic | {' | '.join(contenders)} |",
        "|---|" + "---|" * len(contenders),
    ]
    for name_of_size, medians in sizes.items():
        ours = medians[contenders[0]]
        cells = [f"{medians[contenders[0]]:.2f}"]
        cells += [f"{medians[name]:.2f} ({medians[name] / ours:.2f})" for name in contenders[1:]]
        lines.append(f"| {name_of_size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def many_table(document: dict[str, Any]) -> str:
    counts = sorted({row["pairs"] for row in document["rows"]})
    found = {(row["contender"], row["pairs"]): row for row in document["rows"]}
    contenders = list(dict.fromkeys(row["contender"] for row in document["rows"]))
    lines = [
        wrapped(
            "**Many estimates**: wall seconds of `estimate_many` on K pairs of one column each, 2000 rows, beside ways "
            f"to make as many optimiser steps ({document['threads']} threads, loops on one; {machine(document)}; in "
            "brackets the median of the rounds' ratios to ours; what is slow, ours at K = 512 too, was timed on part "
            "of the work and scaled up, see benchmarks/estimate_many.py). Ours alone also scores held-out rows and "
            "tests:"
        ),
        "",
        f"| K | {' | '.join(map(str, counts))} |",
        "|---|" + "---|" * len(counts),
    ]
    for name in contenders:
        cells = []
        for count in counts:
            row = found[name, count]
            ratio = "" if name == contenders[0] else f" ({row['wall_over_ours']:.1f})"
            cells.append(f"{row['wall_s']:.3g}{ratio}" if row["wall_s"] < 100 else f"{row['wall_s']:.0f}{ratio}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def machine(document: dict[str, Any]) -> str:
    environment = document["environment"]
    return f"{environment['cpu']}, torch {environment['torch']}, commit {environment['commit']}"


def written() -> dict[str, str]:
    """What each file should say."""
    accuracy = load("accuracy")
    tables = [accuracy_table(load("calibration"))]
    if accuracy_tables.is_complete(accuracy):
        tables.append(accuracy_tables.readme_table(accuracy, machine(accuracy)))
    tables += [engine_table(load("engine_step")), step_table(load("training_step"))]
    tables.append(many_table(load("estimate_many")))
    head, rest = (ROOT / "README.md").read_text().split(START)
    body = "\n\n".join(tables)
    files = {
        "README.md": f"{head}{START}{body}\n{END}{rest.split(END)[1]}",
        "docs/accuracy.md": accuracy_tables.page(accuracy, machine(accuracy)),
    }
    if (RESULTS / "coverage.json").exists():
        covered = load("coverage")
        repeated = load("repeats")
        files["docs/coverage.md"] = "\n".join(
            [coverage.page(covered, machine(covered)), repeats.section(repeated, machine(repeated))]
        )
    return files


def main() -> int:
    differ = []
    for name, after in written().items():
        path = ROOT / name
        if not path.exists() or path.read_text() != after:
            differ.append(name)
            if "--check" not in sys.argv:
                path.write_text(after)
    if "--check" in sys.argv and differ:
        print(f"{' and '.join(differ)}: not what benchmarks/results/ holds; run benchmarks/readme_table.py")
    return int("--check" in sys.argv and bool(differ))


if __name__ == "__main__":
    sys.exit(main())
