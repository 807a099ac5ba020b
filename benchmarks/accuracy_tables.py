"""The tables of the accuracy benchmark: estimators compared, for the README, and every case, for docs/accuracy.md."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from accuracy_rows import Row, summarise
from contenders import CONTENDERS
from distributions import BMI, CASES, FAMILIES
from prose import span, wrapped
from sampling import REPORT_SEEDS

#: The size that is compared; a file may hold others.
ROWS = 10_000
OURS = "mine_fast"


def reported(document: dict[str, Any]) -> list[Row]:
    return [row for row in document["rows"] if row["rows"] == ROWS and min(row["seeds"]) >= REPORT_SEEDS]


def is_complete(document: dict[str, Any]) -> bool:
    """Whether our estimator ran on all that is reported: half a benchmark is no figure to show."""
    return {row["case"] for row in reported(document) if row["estimator"] == OURS} >= set(CASES)


def mean_error(rows: Sequence[Row], estimator: str, cases: Collection[str]) -> float | None:
    """Mean absolute error over `cases`; None unless the estimator ran on all of them and never failed."""
    summaries = {summary["estimator"]: summary for summary in summarise(rows, cases)}
    summary = summaries.get(estimator)
    whole = summary and len(summary["cases"]) == len(cases) and not summary["failed"]
    return summary["mean_absolute_error"] if whole else None


def number(value: float | None, form: str = ".3f") -> str:
    """Wild values by their size alone, so that a table keeps its shape."""
    if value is None:
        return ""
    return f"{value:{form}}" if abs(value) < 100 else f"{value:{form[0] if form[0] == '+' else ''}.0f}"


def comparison(document: dict[str, Any]) -> str:
    """One row per estimator, over the cases that no default was chosen on."""
    rows = reported(document)
    untuned = [name for name, case in CASES.items() if not case.tuned]
    lines = [
        "| estimator | cases | failed | mean error | ours, same cases | median error | worst | within 0.1 nats "
        "| mean error, BMI | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    summaries = {summary["estimator"]: summary for summary in summarise(rows, untuned)}
    for name in CONTENDERS:
        if name not in summaries:
            continue
        s = summaries[name]
        cells = [
            CONTENDERS[name].label,
            str(len(s["cases"])),
            str(s["failed"] or ""),
            number(s["mean_absolute_error"]),
            number(mean_error(rows, OURS, s["cases"])) if name != OURS else "",
            number(s["median_absolute_error"]),
            f"{number(s['worst_error'], '+.2f')} ({s['worst_case']})",
            f"{s['within_0.1']:.0%}",
            number(mean_error(rows, name, BMI)),
            f"{s['mean_cpu_seconds']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def by_rows(document: dict[str, Any]) -> str:
    """How our error falls with the rows of a sample: a sentence."""
    said = []
    for size in sorted({row["rows"] for row in document["rows"] if row["estimator"] == OURS}):
        rows = [row for row in document["rows"] if row["rows"] == size and min(row["seeds"]) >= REPORT_SEEDS]
        errors = [mean_error(rows, OURS, names) for names in (list(CASES), [n for n in CASES if not CASES[n].tuned])]
        if errors[0] is not None:
            said.append(f"{number(errors[0])} with {size} rows ({number(errors[1])} over the untuned)")
    return wrapped(f"Mean absolute error of mine_fast over all {len(CASES)} cases, nats: {', '.join(said)}.")


def readme_table(document: dict[str, Any], machine: str) -> str:
    untuned = {name for name, case in CASES.items() if not case.tuned}
    seeds: dict[bool, list[int]] = {True: [], False: []}
    for row in reported(document):
        if row["case"] in untuned:
            seeds[row["estimator"] == OURS].append(len(row["seeds"]))
    ours, theirs = span(seeds[True]), span(seeds[False])
    caption = wrapped(
        f"**Beside others**, on {len(untuned)} distributions of known information that no default was chosen on, "
        f"{ROWS} rows each (mean absolute errors in nats, defaults, one thread; {machine}; case by case in "
        '[docs/accuracy.md](docs/accuracy.md)). "Within 0.1 nats" is a share of all estimates, of '
        f"{ours} seeds a case for ours and {theirs} for the others. BMI: all {len(BMI)} tasks of "
        "[Czyz et al. 2023](https://arxiv.org/abs/2306.11078), those that defaults were chosen on included; blank for "
        "an estimator that cannot run, or failed, on one of them:"
    )
    return f"{caption}\n\n{comparison(document)}\n\n{by_rows(document)}"


def page(document: dict[str, Any], machine: str) -> str:
    """docs/accuracy.md: the comparison, then every case with our figures and the others' mean errors."""
    rows = {(row["case"], row["estimator"]): row for row in reported(document)}
    others = [name for name in CONTENDERS if name != OURS and any(name == estimator for _, estimator in rows)]
    lines = [
        "# How accurate, case by case",
        "",
        wrapped(
            "Written by `python benchmarks/readme_table.py` from `benchmarks/results/accuracy.json`, which "
            "`python benchmarks/accuracy.py` measures. All values are nats; "
            f"{ROWS} rows a sample, one thread; {machine}. The distributions are in `benchmarks/distributions/`."
        ),
        "",
        wrapped(
            "An error is an estimate minus the truth, the mean over seeds. A star marks the cases that the defaults of "
            "`mine_fast` were chosen on, with other seeds. The comparison leaves starred cases out, except in the "
            f'column "mean error, BMI", which covers all {len(BMI)} tasks; it is blank for an estimator that cannot '
            "run, or failed, on one of them. The other neural estimators are read off rows that were held out: their "
            "own way, off training rows, overstates."
        ),
        "",
        comparison(document),
        "",
        by_rows(document),
        "",
        wrapped(f"Seeds of a case, by estimator and version. {seeds_of(rows)}."),
        "",
        "![Errors of every estimator on every case](accuracy.png)",
    ]
    head = ["case", "truth", "error", "sd", "mean stderr", "within 2 stderr", "lower(0.95) above"]
    for family, cases in FAMILIES.items():
        columns = [*head, *(CONTENDERS[name].label for name in others)]
        lines += ["", f"## {family}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for name, case in cases.items():
            ours = rows.get((name, OURS), {})
            cells = [name + (" *" if case.tuned else ""), f"{case.truth:.3f}"]
            cells += [number(ours.get("mean_error"), "+.3f")]
            cells += [number(ours.get(key)) for key in ("sd_of_estimate", "mean_stderr")]
            cells += [share(ours.get(key)) for key in ("within_2_stderr", "lower_95_above_truth")]
            for other in others:
                row = rows.get((name, other))
                cells.append("" if row is None else number(row["mean_error"], "+.3f") or "failed")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def seeds_of(rows: dict[tuple[str, str], Row]) -> str:
    """How many seeds of a case each estimator ran on, and its version."""
    said = []
    for name in CONTENDERS:
        own = [row for (_, estimator), row in rows.items() if estimator == name]
        if own:
            said.append(f"{CONTENDERS[name].label}: {span([len(row['seeds']) for row in own])} ({own[0]['version']})")
    return "; ".join(said)


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
