"""Write the tables of docs/experiments*.md from benchmarks/results/experiments/NAME/metrics.json, between its markers.

    python benchmarks/experiment_tables.py [--check]

Results of the preset `paper` are in benchmarks/results/experiments/paper/NAME, and their place is <!-- NAME paper -->.

With --check nothing is written, and a file that says something else is an error. An experiment without results keeps
what stands between its markers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import record
from prose import wrapped

from mine_fast.experiments.ib_mnist import ARMS

RESULTS = record.RESULTS / "experiments"
PAGES = sorted((record.ROOT / "docs").glob("experiments*.md"))


def number(value: Any, digits: int = 3) -> str:
    """A number of one run, or mean and standard deviation of several.

    >>> number(1.5, 1), number({"mean": 1.5, "sd": 0.25, "values": []}, 2), number(None)
    ('1.5', '1.50 ± 0.25', '')
    """
    if value is None:
        return ""
    if isinstance(value, dict):
        spread = f" ± {value['sd']:.{digits}f}" if value.get("sd") is not None else ""
        return f"{value['mean']:.{digits}f}{spread}" if "mean" in value else ""
    return f"{value:.{digits}f}"


def series(value: Any) -> list[Any]:
    """A list of numbers, of one run or the mean of several."""
    return value["mean"] if isinstance(value, dict) else value


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def about(document: dict[str, Any], result: str) -> str:
    """The line over a table: what was run and what it cost."""
    seeds = document.get("seeds", [document.get("seed")])
    cost = document["cpu_seconds"]
    cost = sum(cost) / len(cost) if isinstance(cost, list) else cost
    count = f"seeds {listed(seeds)}, mean ± sd" if len(seeds) > 1 else f"seed {seeds[0]} alone"
    return f"{result} (preset {document['preset']}, {count}, {cost / 60:.1f} CPU minutes a seed):"


def listed(seeds: Sequence[int]) -> str:
    """As on the command line.

    >>> listed([0, 1, 2]), listed([0, 3, 7])
    ('0-2', '0,3,7')
    """
    in_a_row = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]}-{seeds[-1]}" if in_a_row else ",".join(map(str, seeds))


def total(value: Any) -> int:
    """A count of one run, or of several together."""
    return round(sum(value["values"])) if isinstance(value, dict) else int(value)


def gaussian(document: dict[str, Any]) -> str:
    blocks = []
    for name, found in document["metrics"].items():
        errors = found["mean absolute error"]
        head = [name, *(f"rho {rho:g}" for rho in series(found["rho"])), "mean absolute error"]
        rows = [["truth", *(number(v, 2) for v in series(found["truth"])), ""]]
        rows += [[key, *(number(v, 2) for v in series(found[key])), number(errors[key])] for key in errors]
        blocks.append(table(head, rows))
    return about(document, "Nats") + "\n\n" + "\n\n".join(blocks)


def equitability(document: dict[str, Any]) -> str:
    found = document["metrics"]
    rows = [
        [kind, number(found["mean absolute error"].get(kind)), number(spread)]
        for kind, spread in found["spread over functions"].items()
    ]
    head = ["", "mean absolute error", "largest difference between two functions, mean over sigma"]
    return about(document, "Nats") + "\n\n" + table(head, rows)


def ib_mnist(document: dict[str, Any]) -> str:
    keys = ("error", "averaged error", "noise to signal", "I(X;Z), exact", "I(X;Z), MINE")
    head = ["", "last weights", "averaged weights", "published", "noise / signal", "I(X;Z) exact", "by its critic"]
    rows = []
    for arm, result in document["metrics"].items():
        cells = [number(result.get(key), 2) for key in keys]
        rows.append([arm, *cells[:2], number(ARMS.get(arm), 2), *cells[2:]])
    return about(document, "Test error in percent, information in nats") + "\n\n" + table(head, rows)


def information_plane(document: dict[str, Any]) -> str:
    found = document["metrics"]
    rows = [
        [of, number(found["mean absolute error, bits"][of]), number(found["worst error, bits"][of])]
        for of in found["mean absolute error, bits"]
    ]
    readings = len(document.get("seeds", [0])) * sum(
        len(moment["layers"]) for history in found["networks"].values() for moment in history
    )
    order = found["share of layers that hold less of X than the one before"]
    planes = "\n\n".join(plane(name, history) for name, history in found["networks"].items())
    return (
        about(document, "Estimates against exact values, bits")
        + "\n\n"
        + table(["", "mean absolute error", "worst error"], rows)
        + "\n\n"
        + wrapped(
            f"Readings with I(Y;T) above I(X;T): {total(found['I(Y;T) above I(X;T)'])} of {readings} exact ones, "
            f"{total(found['estimates out of order'])} of {readings} estimates by three standard errors. Layers that "
            f"hold no more of X than the layer before, exact: {number(order, 2)} of all."
        )
        + "\n\nExact value / MINE, bits"
        + (", means" if "seeds" in document else "")
        + ":\n\n"
        + planes
    )


def plane(name: str, history: Sequence[dict[str, Any]]) -> str:
    """What the layers of a network hold, epoch by epoch."""

    def mean(value: Any) -> float:
        found = value["mean"] if isinstance(value, dict) else value
        return float(found)

    rows = []
    for of, digits in (("I(X;T)", 2), ("I(Y;T)", 3)):
        for layer in range(len(history[0]["layers"])):
            readings = [moment["layers"][layer] for moment in history]
            pairs = [(mean(reading[of]), mean(reading[f"{of}, MINE"]["bits"])) for reading in readings]
            rows.append([f"{of}, layer {layer + 1}", *(f"{a:.{digits}f} / {b:.{digits}f}" for a, b in pairs)])
    return table([name, *(f"epoch {mean(moment['epoch']):.0f}" for moment in history)], rows)


def gan_plane(document: dict[str, Any]) -> str:
    blocks = [about(document, "Of 2500 samples")]
    for target, arms in document["metrics"].items():
        rows = [
            [arm, number(found["modes"], 1), number(found["share"]), number(found["reverse KL"])]
            for arm, found in arms.items()
        ]
        blocks.append(table([target, "modes", "share within 3 sigma", "reverse KL"], rows))
    return "\n\n".join(blocks)


def gan_stacked_mnist(document: dict[str, Any]) -> str:
    rows = [
        [arm, number(found["modes"], 1), number(found["KL"], 2)]
        for arm, found in document["metrics"].items()
        if arm != "classifier error"
    ]
    settings = document["settings"]
    said = f"{settings['steps']:,} steps at width {settings['width']}"
    return about(document, said) + "\n\n" + table(["", "modes of 1000", "KL from uniform"], rows)


def bigan(document: dict[str, Any]) -> str:
    arms = {arm: found for arm, found in document["metrics"].items() if arm.startswith("beta")}
    names = [name for name in next(iter(arms.values())) if name not in ("step", "curve")]
    rows = [[arm, *(number(found[name], 2) for name in names)] for arm, found in arms.items()]
    return about(document, f"{document['settings']['steps']:,} steps") + "\n\n" + table(["", *names], rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "gaussian": gaussian,
    "equitability": equitability,
    "gan-spiral": gan_plane,
    "gan-25gaussians": gan_plane,
    "gan-stacked-mnist": gan_stacked_mnist,
    "bigan-25gaussians": bigan,
    "bigan-mnist": bigan,
    "ib-mnist": ib_mnist,
    "information-plane": information_plane,
}


def filled(page: str) -> str:
    """The page with the tables of all results that it has a place for."""
    for name, render in TABLES.items():
        for place, folder in ((name, RESULTS / name), (f"{name} paper", RESULTS / "paper" / name)):
            path, start, end = folder / "metrics.json", f"<!-- {place} -->\n", f"<!-- /{place} -->"
            if path.is_file() and start in page:
                before, _, rest = page.partition(start)
                _, found, after = rest.partition(end)
                if not found:
                    sys.exit(f"<!-- {place} --> has no <!-- /{place} -->")
                page = f"{before}{start}{render(json.loads(path.read_text()))}\n{end}{after}"
    return page


def main() -> None:
    pages = {path: path.read_text() for path in PAGES}
    lost = [name for name in TABLES if not any(f"<!-- {name} -->" in page for page in pages.values())]
    if lost:
        sys.exit(f"no page has a place for {', '.join(lost)}: <!-- NAME --> ... <!-- /NAME -->")
    for path, page in pages.items():
        wanted = filled(page)
        if "--check" not in sys.argv:
            path.write_text(wanted)
        elif page != wanted:
            sys.exit(f"{path} is not what the results say: run {sys.argv[0]}")


if __name__ == "__main__":
    main()
