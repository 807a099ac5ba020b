"""What an experiment is: settings per preset, a function that runs one seed, and one that draws several together."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from mine_fast.experiments.run import Run

__all__ = ["PRESETS", "Experiment", "Metrics", "as_overrides", "check_among", "check_at_least"]

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


def as_overrides(settings: Any) -> list[str]:
    """Settings as `Experiment.settings` reads them: a "field=value" of each."""
    return [f"{field.name}={getattr(settings, field.name)}" for field in dataclasses.fields(settings)]


def check_among(name: str, values: Collection[Any], known: Collection[Any]) -> None:
    """Refuse a setting that lists nothing, something twice, or what is not known."""
    if not values or len(set(values)) < len(values) or not set(values) <= set(known):
        among = ", ".join(map(repr, known))
        raise ValueError(f"{name} must be some of {among}, each once, got {values!r}")


def check_at_least(settings: Any, **least: int) -> None:
    """Refuse settings that are too small to work with; each of `least` is a field and the least that it may be."""
    for name, lowest in least.items():
        value = getattr(settings, name)
        if not value >= lowest:
            raise ValueError(f"{name} must be at least {lowest}, got {value}")


def _parsed(name: str, text: str, like: Any) -> Any:
    """A value written in Python, of the type of another one; a text needs no quotes."""
    value: Any = text
    if not isinstance(like, str):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            if not (isinstance(like, tuple) and like and isinstance(like[0], str)) or set("()[]'\"") & set(text):
                raise ValueError(f"--set {name}: {text!r} is no Python value such as {like!r}") from error
            value = tuple(item.strip() for item in text.split(","))
    if isinstance(like, tuple) and not isinstance(value, tuple):
        value = tuple(value) if isinstance(value, list) else (value,)
    if isinstance(like, float) and type(value) is int:
        value = float(value)
    if like is not None and type(value) is not type(like):
        raise ValueError(f"--set {name} must be a {type(like).__name__} such as {like!r}, got {text!r}")
    return value
