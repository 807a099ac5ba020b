"""The command `mine-fast`: an estimate from a file, the experiments, and what a bug report needs.

torch is imported by the commands that compute, not by this file.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from mine_fast._version import __version__

__all__ = ["main"]

_EXAMPLES = """
examples:
  mine-fast estimate data.csv --x height,weight --y age
  mine-fast estimate data.csv --x 0:10 --y -1 --json
  mine-fast estimate data.csv --x dose --y outcome --given age,sex --bits
  mine-fast estimate arrays.npz --x images --y labels --plot result.png
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
    options = _parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        print("mine-fast: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError) as error:
        return _fail(error, 2)


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--x -2,-1` as `--x=-2,-1`: argparse would take columns from the end for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in ("--x", "--y", "--given") and re.match(r"-\d", argument):
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
    estimate.add_argument("--seed", type=int, default=0, help="the same seed gives the same result (default: 0)")
    estimate.add_argument("--folds", type=int, help="parts of the rows; each is held out once")
    estimate.add_argument("--steps", type=int, help="training steps per fold")
    estimate.add_argument("--batch-size", type=int, metavar="ROWS", help="rows per training step")
    estimate.add_argument("--learning-rate", type=float, metavar="RATE", help="peak learning rate")
    estimate.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cpu)")
    estimate.add_argument("--no-progress", action="store_true", help="no progress bar (there is none off a terminal)")

    experiment = commands.add_parser(
        "experiment",
        help="run an experiment of the MINE paper",
        description="Run an experiment. The same command goes on with one that was interrupted.",
    )
    experiment.set_defaults(run=_experiment)
    experiment.add_argument("name", metavar="NAME", nargs="?", help="which; see --list")
    experiment.add_argument("--list", action="store_true", help="print what there is")
    experiment.add_argument(
        "--preset", default="quick", help="quick (minutes), paper (as published) or smoke (seconds)"
    )
    experiment.add_argument("--out", metavar="DIR", type=Path, help="folder of results (default: runs/NAME-PRESET)")
    seeds = experiment.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    seeds.add_argument(
        "--seeds", metavar="A-B", type=_seeds, help="several, such as 0-4 or 0,3,7: their mean and spread"
    )
    experiment.add_argument("--set", metavar="FIELD=VALUE", action="append", default=[], help="change a setting")
    experiment.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    experiment.add_argument("--no-progress", action="store_true", help="no progress bar (there is none off a terminal)")

    info = commands.add_parser(
        "info", help="versions, build and devices, for bug reports", description="Print what a bug report needs."
    )
    info.set_defaults(run=_info)
    info.add_argument("--json", action="store_true", help="print JSON")
    return parser


# --- estimate ---------------------------------------------------------------------------------------------------------


def _estimate(options: argparse.Namespace) -> int:
    from mine_fast.tables import read_table

    if options.plot is not None:
        _check_plot(options.plot)
    table = read_table(options.file, options.x, options.y, options.given)
    if not options.json:
        for note in table.notes:
            print(f"mine-fast: note: {note}", file=sys.stderr)
    device = _device(options.device)

    import mine_fast
    from mine_fast.errors import DivergenceError

    bar = ProgressBar(sys.stderr) if sys.stderr.isatty() and not options.no_progress else None
    estimate: Any = mine_fast.estimate
    samples = [table.x, table.y]
    if table.given is not None:
        estimate = mine_fast.conditional
        samples.append(table.given)
    try:
        result = estimate(
            *samples,
            seed=options.seed,
            device=device,
            folds=options.folds,
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            progress=bar,
        )
    except DivergenceError as error:
        return _fail(error, 1)
    finally:
        if bar is not None:
            bar.close()
    if options.plot is not None:
        from matplotlib.figure import Figure

        # Not by pyplot, which would look for a screen.
        result.plot(figure=Figure(figsize=(10, 4), layout="constrained")).savefig(options.plot, dpi=150)
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


def _check_plot(path: Path) -> None:
    """Find out before the work that the picture could not be saved."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("--plot needs matplotlib: pip install mine-fast[plot]") from error
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


class ProgressBar:
    """A line on a terminal that shows the share done, the time left and the latest validation value.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.started = time.monotonic()
        self._next_draw = 0.0
        self._drawn = False

    def __call__(self, done: int, total: int, mi: float) -> None:
        """Draw, at most ten times a second: done of total steps, mi in nats (NaN before the first value)."""
        now = time.monotonic()
        if now < self._next_draw and done < total:
            return
        self._next_draw = now + 0.1
        self.stream.write("\r\x1b[K" + self.line(done, total, mi, now - self.started)[: self._width()])
        self.stream.flush()
        self._drawn = True

    @staticmethod
    def line(done: int, total: int, mi: float, elapsed: float) -> str:
        """The text of the bar.

        >>> ProgressBar.line(300, 1200, 0.8123, elapsed=20.0)
        '[####------------]  25%  300/1200 steps, 1:00 left, validation 0.812 nats'
        """
        share = done / total if total else 1.0
        filled = int(16 * share)
        left = elapsed * (1 - share) / share if share else 0.0
        time_left = f", {int(left) // 60}:{int(left) % 60:02d} left" if share else ""
        value = f", validation {mi:.3f} nats" if mi == mi else ""
        return f"[{'#' * filled}{'-' * (16 - filled)}] {share:4.0%}  {done}/{total} steps{time_left}{value}"

    def close(self) -> None:
        """Take the line off the terminal."""
        if self._drawn:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    @staticmethod
    def _width() -> int:
        return shutil.get_terminal_size().columns - 1


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
    from mine_fast.experiments.runner import run_seed, run_seeds

    folder = options.out or Path("runs") / f"{options.name}-{options.preset}"
    about: dict[str, Any] = {
        "overrides": options.set,
        "device": options.device,
        "progress": False if options.no_progress else None,
    }
    if options.seeds is not None:
        run_seeds(experiment, options.preset, folder, options.seeds, **about)
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
