"""What an experiment is: settings per preset, a function that runs one seed, and one that draws several together."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from mine_fast.experiments.run import Run

__all__ = ["PRESETS", "Experiment", "Metrics"]

#: smoke: seconds, for tests. quick: minutes on 2 cores, a result that means something. paper: the published scale.
PRESETS = ("smoke", "quick", "paper")

#: What a run leaves: numbers, texts, and dicts and lists of them.
Metrics = dict[str, Any]

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Experiment(Generic[Settings]):
    """An experiment by name.

    Attributes:
        name: as on the command line.
        presets: a frozen dataclass of settings for each of `PRESETS`.
        run: one seed: reads `run.settings`, leaves pictures in `run.folder`, returns its metrics.
        compare: draws the metrics of several seeds, one dict per seed, into the folder above theirs.
    """

    name: str
    presets: Mapping[str, Settings]
    run: Callable[[Run[Settings]], Metrics]
    compare: Callable[[Path, Sequence[Metrics]], None] | None = None

    def settings(self, preset: str, overrides: Sequence[str] = ()) -> Settings:
        """The settings of a preset, with some replaced.

        Args:
            preset: one of `PRESETS`.
            overrides: "field=value", the value written as in Python.

        Raises:
            ValueError: no such preset or field, or a value of another type than the preset's.
        """
        if preset not in self.presets:
            raise ValueError(f"preset must be one of {', '.join(self.presets)}, got {preset!r}")
        settings: Any = self.presets[preset]
        known = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
        changes = {}
        for text in overrides:
            name, equals, value = text.partition("=")
            if not equals or name not in known:
                raise ValueError(f"--set must be field=value of a field in {', '.join(known)}, got {text!r}")
            changes[name] = _parsed(name, value, known[name])
        return dataclasses.replace(settings, **changes)


def _parsed(name: str, text: str, like: Any) -> Any:
    """A value written in Python, of the type of another one."""
    value: Any = text
    if not isinstance(like, str):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"--set {name}: {text!r} is no Python value") from error
    if isinstance(like, tuple) and not isinstance(value, tuple):
        value = tuple(value) if isinstance(value, list) else (value,)
    if isinstance(like, float) and type(value) is int:
        value = float(value)
    if like is not None and type(value) is not type(like):
        raise ValueError(f"--set {name} must be a {type(like).__name__} such as {like!r}, got {text!r}")
    return value
