"""From a command to finished files: the settings, one run per seed, what several seeds come to together."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mine_fast._version import __version__
from mine_fast.experiments.experiment import Experiment, Metrics
from mine_fast.experiments.records import aggregate, read_json, write_json
from mine_fast.experiments.run import Run, seeded
from mine_fast.experiments.side_by_side import run_side_by_side
from mine_fast.plain_json import plain

__all__ = ["run_seed", "run_seeds"]


def run_seed(
    experiment: Experiment[Any],
    preset: str,
    folder: Path,
    seed: int = 0,
    *,
    overrides: Sequence[str] = (),
    **options: Any,
) -> Metrics:
    """Run one seed of an experiment, or go on with it, or read what it came to.

    Leaves in the folder config.json, metrics.json, pictures and logs.

    Args:
        experiment: which.
        preset: smoke, quick or paper.
        folder: of all files.
        seed: of everything random.
        overrides: "field=value" settings.
        options: of `Run`.

    Returns:
        What metrics.json holds under "metrics".

    Raises:
        ValueError: the folder holds a run of other settings.
    """
    settings = experiment.settings(preset, overrides)
    config = {"experiment": experiment.name, "preset": preset, "seed": seed, "settings": dataclasses.asdict(settings)}
    _claim(folder, config)
    finished = read_json(folder / "metrics.json")
    if finished is not None:
        return finished["metrics"]
    with seeded(seed):
        run = Run(settings, seed, folder, **options)
        try:
            metrics = plain(experiment.run(run))
        finally:
            run.close()
        spent = {"device": str(run.device), "cpu_seconds": round(run.cpu_seconds, 1)}
        write_json(folder / "metrics.json", {**config, **spent, "metrics": metrics})
        run.discard_checkpoints()
    return metrics


def run_seeds(
    experiment: Experiment[Any],
    preset: str,
    folder: Path,
    seeds: Sequence[int],
    *,
    overrides: Sequence[str] = (),
    jobs: int = 1,
    **options: Any,
) -> Metrics:
    """Run several seeds, each in folder/seed-S, and write their mean and spread to folder/metrics.json.

    Args:
        experiment: which.
        preset: smoke, quick or paper.
        folder: of all files.
        seeds: of everything random.
        overrides: "field=value" settings.
        jobs: seeds at a time, each in a process of its own where there are several: torch's threads are shared out,
            and numbers are those of a run on so many threads.
        options: of `Run`.

    Returns:
        Mean, standard deviation and values of every number, as `records.aggregate` puts them.

    Raises:
        ValueError: the folder holds a run of other settings; jobs below 1.
        ChildProcessError: a seed failed in a process of its own.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    settings = dataclasses.asdict(experiment.settings(preset, overrides))
    config = {"experiment": experiment.name, "preset": preset, "seeds": list(seeds), "settings": settings}
    # Further seeds may join a folder; metrics.json is of those that were named last.
    _claim(folder, {key: value for key, value in config.items() if key != "seeds"})
    if jobs > 1:
        alone = partial(run_seed, experiment, preset, overrides=overrides, **{**options, "progress": False})
        run_side_by_side(alone, folder, seeds, jobs, progress=options.get("progress"))
    runs = [
        run_seed(experiment, preset, folder / f"seed-{seed}", seed, overrides=overrides, **options) for seed in seeds
    ]
    cpu_seconds = [read_json(folder / f"seed-{seed}" / "metrics.json")["cpu_seconds"] for seed in seeds]
    metrics = aggregate(runs)
    write_json(folder / "metrics.json", {**config, "cpu_seconds": cpu_seconds, "metrics": metrics})
    if experiment.compare is not None:
        experiment.compare(folder, runs)
    return metrics


def _claim(folder: Path, config: dict[str, Any]) -> None:
    """Write config.json, or check that the one that is there is of the same run."""
    path, config = folder / "config.json", plain(config)
    there = read_json(path)
    if there is not None:
        wanted = {**config, "seed": config.get("seed")}  # none of a folder of several, each in its own
        differing = [key for key in wanted if there.get(key) != wanted[key]]
        if differing:
            changes = "; ".join(f"{key} {there.get(key)!r} there, {wanted[key]!r} wanted" for key in differing)
            raise ValueError(f"{folder} holds another run ({changes}): give another --out, or delete it")
        return
    folder.mkdir(parents=True, exist_ok=True)
    versions = {"mine_fast": __version__, "torch": torch.__version__, "python": platform.python_version()}
    write_json(path, {**config, "versions": versions})
