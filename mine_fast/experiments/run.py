"""One seed of an experiment at work: its folder, device, progress, logs, pictures, and what lets it go on later."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from matplotlib.figure import Figure
from tqdm import tqdm

from mine_fast.experiments.checkpoint import load_checkpoint, save_checkpoint
from mine_fast.experiments.records import read_json, write_json
from mine_fast.files import save_figure
from mine_fast.plain_json import plain

__all__ = ["Run", "drawing_from", "seeded"]

Settings = TypeVar("Settings")
Item = TypeVar("Item")


class Run(Generic[Settings]):
    """What an experiment's `run` is given.

    An interrupted run is gone through again from the top: parts that were finished give the value that they gave, and
    the loop that was under way goes on from its last checkpoint, so that the numbers come out as if it had not stopped.
    For that, everything random comes from torch's own generator, which `part` seeds and a loop's checkpoint holds, or
    from `run.generator(...)`.

    Args:
        settings: of the experiment.
        seed: of everything random.
        folder: where all files go; made if it is not there.
        device: "cpu", "cuda", "auto", ...: an accelerator of Lightning Fabric.
        checkpoint_seconds: time between the checkpoints of a loop; 0 makes one at every step.
        progress: whether to draw progress bars; None: on a terminal.

    Attributes:
        fabric: Lightning Fabric, on one device, with CSV and TensorBoard loggers in `folder`/logs.
    """

    def __init__(
        self,
        settings: Settings,
        seed: int,
        folder: Path,
        *,
        device: str = "cpu",
        checkpoint_seconds: float = 60.0,
        progress: bool | None = None,
    ) -> None:
        self.settings = settings
        self.seed = seed
        self.folder = folder
        self.checkpoint_seconds = checkpoint_seconds
        folder.mkdir(parents=True, exist_ok=True)
        loggers = [CSVLogger(folder, name="logs"), TensorBoardLogger(folder, name="logs", sub_dir="tensorboard")]
        self.fabric = Fabric(accelerator=device, devices=1, loggers=loggers)
        self._hide_bars = None if progress is None else not progress
        self._part: str | None = None
        self._asked: set[str] = set()
        self._records = read_json(folder / "parts.json") or {"cpu_seconds": 0.0, "parts": {}}
        self._clock = time.process_time()

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.fabric.device

    def on_device(self, item: Item) -> Item:
        """A module (moved as it is) or a tensor (a copy, if it is elsewhere), on the device."""
        moved: Item = self.fabric.to_device(item)
        return moved

    @property
    def cpu_seconds(self) -> float:
        """CPU time spent on what the run now consists of, earlier attempts included."""
        return float(self._records["cpu_seconds"]) + time.process_time() - self._clock

    def generator(self, *key: int) -> np.random.Generator:
        """A generator for data: the same at every call with the same key (and seed)."""
        return np.random.default_rng([self.seed, *key])

    def stream(self) -> torch.Generator:
        """A generator on the device, of the run's seed, for `drawing_from`."""
        return torch.Generator(self.device if self.device.type == "cuda" else "cpu").manual_seed(self.seed)

    # --- work that an interruption does not lose ----------------------------------------------------------------------

    def part(self, name: str, compute: Callable[[], Any]) -> Any:
        """The value of a part of the work, computed at most once.

        torch is seeded with the seed of the run for each part, and afterwards goes on from where it was: a part does
        not depend on those before it, and arms that differ in a setting start from the same weights.

        Args:
            name: unique in the run.
            compute: gives the value: what JSON can hold, tensors and arrays as lists.

        Raises:
            ValueError: a name that was asked for before, such as that of two settings which differ too little to show.
        """
        parts = self._records["parts"]
        if name in self._asked:
            raise ValueError(f"two parts of the run are called {name!r}: settings that are listed twice?")
        self._asked.add(name)
        if name not in parts:
            if self._part is not None:
                raise RuntimeError(f"part {name!r} is inside part {self._part!r}: parts do not nest")
            self._part = name
            try:
                with seeded(self.seed):
                    value = plain(compute())
            finally:
                self._part = None
            parts[name] = value
            self._write_records()
            shutil.rmtree(self._checkpoints(name), ignore_errors=True)
        return parts[name]

    def loop(self, steps: int, name: str = "train", **state: Any) -> Iterator[int]:
        """Step numbers from 0 (or from where an interrupted run goes on) to `steps`, with a bar and checkpoints.

        Args:
            steps: how many in all.
            name: unique among the loops of a part.
            state: all that the loop changes: modules (a MINE holds its moving average and its shuffle), optimisers,
                schedulers, generators, and lists or dicts of numbers that it collects. torch's generator is included.

        Yields:
            The number of the step to make.
        """
        path = self._checkpoints(self._part) / f"{_file_name(name)}.pt"
        first = load_checkpoint(self.fabric, path, state)
        saved_at = time.monotonic()
        with self._bar(total=steps, initial=first, desc=self._part or name) as bar:
            for step in range(first, steps):
                yield step
                bar.update()
                due = time.monotonic() - saved_at >= self.checkpoint_seconds
                if due or step + 1 == steps:
                    save_checkpoint(self.fabric, path, step + 1, state)
                    self._write_records()
                    saved_at = time.monotonic()

    def bar(self, items: Sequence[Item] | Iterable[Item], text: str) -> Iterable[Item]:
        """The items, with a bar that shows how many are through."""
        return self._bar(items, desc=text)

    # --- what it leaves -----------------------------------------------------------------------------------------------

    def log(self, step: int, **values: Any) -> None:
        """Write numbers of a step to the loggers (those of a part under its name)."""
        prefix = f"{self._part}/" if self._part is not None else ""
        self.fabric.log_dict({prefix + name: float(plain(value)) for name, value in values.items()}, step=step)

    def save_figure(self, name: str, figure: Figure) -> Path:
        """Write a figure to `folder`/name.png and let go of what it drew."""
        path = self.folder / f"{name}.png"
        save_figure(path, figure, dpi=120)
        figure.clear()
        return path

    def close(self) -> None:
        """Let the loggers write what they hold."""
        for logger in self.fabric.loggers:
            logger.finalize("success")

    def discard_checkpoints(self) -> None:
        """Delete what only an unfinished run needs."""
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        (self.folder / "parts.json").unlink(missing_ok=True)

    def _checkpoints(self, part: str | None) -> Path:
        return self.folder / "checkpoints" / (_file_name(part) if part is not None else ".")

    def _write_records(self) -> None:
        self._records["cpu_seconds"] = self.cpu_seconds
        self._clock = time.process_time()
        write_json(self.folder / "parts.json", self._records)

    def _bar(self, *arguments: Any, **options: Any) -> Any:
        return tqdm(*arguments, disable=self._hide_bars, leave=False, dynamic_ncols=True, **options)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generators within, and give them back as they were."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let what draws from torch's own generator draw from another one within, which goes on from there next time.

    For what one arm has and its twin has not: the draws that both make come out the same.

    Args:
        generator: on the device whose draws it replaces, see `Run.stream`.
    """
    device = generator.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        _set_state(device, generator.get_state())
        yield
        generator.set_state(torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state())


def _set_state(device: torch.device, state: torch.Tensor) -> None:
    torch.cuda.set_rng_state(state, device) if device.type == "cuda" else torch.set_rng_state(state)


def _file_name(text: str) -> str:
    """A part's name as a file's."""
    return "".join(letter if letter.isalnum() or letter in "-_.=+" else f"%{ord(letter):x}" for letter in text)
