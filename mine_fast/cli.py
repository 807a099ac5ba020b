"""The command `mine-fast`: estimates from files, the experiments, and what a bug report needs.

torch is imported by the commands that compute, not by this file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mine_fast._version import __version__
from mine_fast.errors import DivergenceError
from mine_fast.files import save_figure
from mine_fast.progress_bar import ProgressBar

__all__ = ["main"]

_EXAMPLES = """
examples:
  mine-fast estimate data.csv --x height,weight --y age
  mine-fast estimate data.csv --x 0:10 --y -1 --json
  mine-fast estimate data.csv --x dose --y outcome --given age,sex --bits
  mine-fast estimate arrays.npz --x images --y labels --plot result.png
  mine-fast pairwise data.csv --out matrix.csv --plot matrix.png
  mine-fast experiment gaussian --preset quick --out runs/gaussian
"""

_COLUMNS = """
columns: comma-separated names, numbers from 0 (negative ones from the end), and ranges: a:c by names includes c, 0:3 by
numbers is 0, 1, 2; a name goes before a number. In an npz file: the name of an array, or NAME:COLUMNS. Columns of text
are read as categories.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        The exit status: 0 done, 1 training diverged, 2 bad usage or bad input, 130 interrupted.

    Raises:
        SystemExit: by argparse, after --help and --version (0) and on bad usage (2).
    """
    try:
        options = _parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
        status = int(options.run(options))
        sys.stdout.flush()  # a full disk or a reader that left shows here, and not in a traceback at exit
        return status
    except KeyboardInterrupt:
        print("mine-fast: interrupted", file=sys.stderr)
        return 130
    except DivergenceError as error:
        return _fail(error, 1)
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        return _fail(error, 2)
    finally:
        _discard_unwritten()


def _discard_unwritten() -> None:
    """Let go of output that nobody takes, which Python would try to write again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--x -2,-1` as `--x=-2,-1`: argparse would take columns from the end for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in ("--x", "--y", "--given", "--columns") and re.match(r"-\d", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _fail(error: Exception, status: int) -> int:
    message = " ".join(str(error).split())
    print(f"mine-fast: error: {message or type(error).__name__}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"mine-fast: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mine-fast",
        description="Mutual information estimation with neural critics (MINE).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mine-fast {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    estimate = commands.add_parser(
        "estimate",
        help="estimate I(X;Y) or I(X;Y|Z) between columns of a file",
        description="Estimate the mutual information between columns of a file, with its standard error.",
        epilog=_COLUMNS,
    )
    estimate.set_defaults(run=_estimate)
    estimate.add_argument(
        "file", metavar="FILE", type=Path, help="csv (or tsv, txt), npy or npz file, a row per sample"
    )
    estimate.add_argument("--x", metavar="COLS", required=True, help="columns of x, see below")
    estimate.add_argument("--y", metavar="COLS", required=True, help="columns of y")
    estimate.add_argument("--given", metavar="COLS", help="columns of z: estimate I(X;Y|Z), what y tells beyond them")
    estimate.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")
    estimate.add_argument("--bits", action="store_true", help="print bits first instead of nats (JSON has both)")
    estimate.add_argument("--plot", metavar="OUT.png", type=Path, help="draw the training curves and scores to a file")
    estimate.add_argument("--n-seeds", type=int, default=1, metavar="N", help="average N trainings (default: 1)")
    _add_run_options(estimate)
    _add_pairwise(commands)

    experiment = commands.add_parser(
        "experiment",
        help="run an experiment of the MINE paper",
        description="Run an experiment. The same command goes on with one that was interrupted.",
    )
    experiment.set_defaults(run=_experiment)
    experiment.add_argument("name", metavar="NAME", nargs="?", help="which; see --list")
    experiment.add_argument("--list", action="store_true", help="print what there is")
    experiment.add_argument(
        "--preset",
        default="quick",
        help="quick (minutes; gan-stacked-mnist an hour), paper (the published scale) or smoke (seconds)",
    )
    experiment.add_argument("--out", metavar="DIR", type=Path, help="folder of results (default: runs/NAME-PRESET)")
    seeds = experiment.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    seeds.add_argument(
        "--seeds", metavar="A-B", type=_seeds, help="several, such as 0-4 or 0,3,7: their mean and spread"
    )
    experiment.add_argument(
        "--jobs", type=int, metavar="N", help="of --seeds, how many at a time, each a process (default: 1)"
    )
    experiment.add_argument("--set", metavar="FIELD=VALUE", action="append", default=[], help="change a setting")
    experiment.add_argument("--settings", action="store_true", help="print what --set can change, and run nothing")
    experiment.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    experiment.add_argument("--no-progress", action="store_true", help="no progress bar (there is none off a terminal)")

    info = commands.add_parser(
        "info", help="versions, build and devices, for bug reports", description="Print what a bug report needs."
    )
    info.set_defaults(run=_info)
    info.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_pairwise(commands: Any) -> None:
    pairwise = commands.add_parser(
        "pairwise",
        help="estimate the mutual information of every two columns of a file",
        description="Estimate the mutual information of every two columns of a file, with errors and q-values.",
        epilog=_COLUMNS,
    )
    pairwise.set_defaults(run=_pairwise)
    pairwise.add_argument(
        "file", metavar="FILE", type=Path, help="csv (or tsv, txt), npy or npz file, a row per sample"
    )
    pairwise.add_argument("--columns", metavar="COLS", help="the columns to pair, see below (default: all)")
    pairwise.add_argument("--out", metavar="OUT.csv", type=Path, help="write the matrix to a file")
    pairwise.add_argument("--pairs", metavar="OUT.csv", type=Path, help="write a row per pair: mi, stderr, q, ...")
    pairwise.add_argument("--plot", metavar="OUT.png", type=Path, help="draw a clustered heat map to a file")
    pairwise.add_argument("--top", type=int, default=20, metavar="N", help="how many pairs to print (default: 20)")
    _add_run_options(pairwise)


def _add_run_options(command: argparse.ArgumentParser) -> None:
    """How to train, on what, and whether to show it."""
    command.add_argument("--seed", type=int, default=0, help="the same seed gives the same result (default: 0)")
    command.add_argument("--folds", type=int, help="parts of the rows; each is held out once")
    command.add_argument("--steps", type=int, help="training steps per fold and network")
    command.add_argument("--batch-size", type=int, metavar="ROWS", help="rows per training step")
    command.add_argument("--learning-rate", type=float, metavar="RATE", help="peak learning rate")
    command.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cpu)")
    command.add_argument("--no-progress", action="store_true", help="no progress bar (there is none off a terminal)")


# --- estimate ---------------------------------------------------------------------------------------------------------


def _estimate(options: argparse.Namespace) -> int:
    from mine_fast.tables import read_table

    if options.plot is not None:
        _check_plot(options.plot)
    table = read_table(options.file, options.x, options.y, options.given)
    if not options.json:
        _say(table.notes)
    device = _device(options.device)

    import mine_fast

    estimate: Any = mine_fast.estimate
    samples = [table.x, table.y]
    settings = _run_settings(options, device)
    if table.given is not None:
        if options.n_seeds != 1:
            raise ValueError("--n-seeds does not go with --given: a conditional estimate has one training")
        estimate = mine_fast.conditional
        samples.append(table.given)
    elif options.n_seeds != 1:
        settings["n_seeds"] = options.n_seeds
    with _progress_bar(options) as bar:
        result = estimate(*samples, **settings, progress=bar)
    if options.plot is not None:
        from matplotlib.figure import Figure

        # Not by pyplot, which would look for a screen.
        save_figure(options.plot, result.plot(figure=Figure(figsize=(10, 4), layout="constrained")), dpi=150)
    if options.json:
        source = {
            "file": str(options.file),
            "x_columns": table.x_names,
            "y_columns": table.y_names,
            "given_columns": table.given_names,
            "notes": table.notes,
        }
        print(json.dumps({**result.to_dict(), **source}, indent=2, allow_nan=False))
    else:
        print(result.summary("bits" if options.bits else "nats"))
    return 0


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"mine-fast: note: {note}", file=sys.stderr)


def _run_settings(options: argparse.Namespace, device: str | None) -> dict[str, Any]:
    names = ("seed", "folds", "steps", "batch_size", "learning_rate")
    return {**{name: getattr(options, name) for name in names}, "device": device}


@contextlib.contextmanager
def _progress_bar(options: argparse.Namespace) -> Iterator[ProgressBar | None]:
    """A bar while something runs, on a terminal."""
    bar = ProgressBar(sys.stderr) if sys.stderr.isatty() and not options.no_progress else None
    try:
        yield bar
    finally:
        if bar is not None:
            bar.close()


def _check_plot(path: Path) -> None:
    """Find out before the work that the picture could not be saved."""
    from mine_fast.plotting import needing_matplotlib

    with needing_matplotlib("--plot"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    known = FigureCanvasAgg(Figure()).get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise ValueError(
            f"--plot must end in one of {', '.join(f'.{kind}' for kind in sorted(known))}, got {str(path)!r}"
        )
    if not path.parent.is_dir():
        raise ValueError(f"--plot: there is no directory {str(path.parent)!r}")


def _device(name: str | None) -> str | None:
    if name is None:
        return None
    from mine_fast.devices import usable_device

    usable_device(name, "--device")
    return name


# --- pairwise ---------------------------------------------------------------------------------------------------------


def _pairwise(options: argparse.Namespace) -> int:
    if options.plot is not None:
        _check_plot(options.plot)
    for name in ("out", "pairs"):
        path = getattr(options, name)
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"--{name}: there is no directory {str(path.parent)!r}")
    device = _device(options.device)

    import mine_fast

    with _progress_bar(options) as bar:
        matrix = mine_fast.pairwise(
            options.file, columns=options.columns, **_run_settings(options, device), progress=bar
        )
    _say(matrix.notes)
    for path, what in ((options.out, "mi"), (options.pairs, "pairs")):
        if path is not None:
            matrix.save(path, what)
    if options.plot is not None:
        from matplotlib.figure import Figure

        size = 3 + 0.32 * len(matrix.names)
        save_figure(options.plot, matrix.plot(figure=Figure(figsize=(size + 1, size), layout="constrained")), dpi=150)
    print(matrix.summary(options.top))
    return 0


# --- experiment -------------------------------------------------------------------------------------------------------


def _seeds(text: str) -> list[int]:
    """Seeds from "0-4" or "0,3,7".

    >>> _seeds("0-2,7")
    [0, 1, 2, 7]
    """
    seeds: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", item.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise argparse.ArgumentTypeError(f"must be such as 0-4 or 0,3,7, got {text!r}")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(seeds))


def _experiment(options: argparse.Namespace) -> int:
    from mine_fast import experiments

    if options.list:
        width = max(map(len, experiments.SUMMARIES))
        print("\n".join(f"{name:{width}}  {summary}" for name, summary in experiments.SUMMARIES.items()))
        return 0
    if options.name is None:
        raise ValueError("experiment needs a NAME, or --list")
    experiment = experiments.load(options.name)
    if options.settings:
        from mine_fast.experiments.experiment import as_overrides

        print("\n".join(as_overrides(experiment.settings(options.preset, options.set))))
        return 0
    from mine_fast.experiments.runner import run_seed, run_seeds

    folder = options.out or Path("runs") / f"{options.name}-{options.preset}"
    about: dict[str, Any] = {
        "overrides": options.set,
        "device": options.device,
        "progress": False if options.no_progress else None,
    }
    if options.seeds is not None:
        jobs = 1 if options.jobs is None else options.jobs
        run_seeds(experiment, options.preset, folder, options.seeds, jobs=jobs, **about)
    elif options.jobs is not None:
        raise ValueError("--jobs needs --seeds: it is seeds that run beside each other")
    else:
        run_seed(experiment, options.preset, folder, options.seed, **about)
    print(folder / "metrics.json")
    return 0


# --- info -------------------------------------------------------------------------------------------------------------


def _info(options: argparse.Namespace) -> int:
    from mine_fast.info import collect

    facts = collect()
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        _print_facts(facts)
    return 0


def _print_facts(facts: dict[str, Any]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        items = value.items() if isinstance(value, dict) else [(None, value)]
        text = "; ".join(f"{key} {item}" if key else str(item) for key, item in items if item is not None)
        print(f"{name:{width}}  {text}")
