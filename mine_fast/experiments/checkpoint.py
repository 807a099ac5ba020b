"""A checkpoint of a training loop: all that decides what its next step does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from mine_fast.files import atomic_path

__all__ = ["load_checkpoint", "save_checkpoint"]

#: The number of what a file holds: step, torch, cuda, state. A file without a number is older, and holds the same.
FORMAT = 1


def save_checkpoint(fabric: Fabric, path: Path, step: int, state: Mapping[str, Any]) -> None:
    """Write what a loop has come to, whole or not at all, also where the power fails.

    Args:
        fabric: writes it.
        path: of the file.
        step: steps made.
        state: modules, optimisers, schedulers, generators of torch and numpy, lists and dicts of numbers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    content = {
        "format": FORMAT,
        "step": step,
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "state": {name: _state_of(item) for name, item in state.items()},
    }
    with atomic_path(path) as temporary:
        fabric.save(temporary, content)


def load_checkpoint(fabric: Fabric, path: Path, state: Mapping[str, Any]) -> int:
    """Give everything the state that it had; returns the steps made, 0 where there is no file.

    Raises:
        ValueError: a file of another format, of another loop, or of something else; nothing has been changed then.
    """
    if not path.is_file():
        return 0
    saved = _read(fabric, path)
    if set(saved["state"]) != set(state):
        raise ValueError(
            f"{path} holds the state of {', '.join(saved['state']) or 'nothing'}, this loop has {', '.join(state)}: it "
            "is of another loop, or of another version of this one; delete it to begin again"
        )
    for name, item in state.items():
        _restore(item, saved["state"][name])
    torch.set_rng_state(saved["torch"].cpu())
    if saved["cuda"]:
        torch.cuda.set_rng_state_all([cuda.cpu() for cuda in saved["cuda"]])
    return int(saved["step"])


def _read(fabric: Fabric, path: Path) -> dict[str, Any]:
    try:
        saved = fabric.load(path, weights_only=True)
    except Exception as error:  # of zipfile, pickle or torch, by what the file is instead
        raise ValueError(
            f"{path} is no checkpoint that can be read; delete it to begin again ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(saved, dict) or not {"step", "torch", "cuda", "state"} <= set(saved):
        raise ValueError(f"{path} is no checkpoint of a loop; delete it to begin again")
    if saved.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{path} has format {saved['format']!r}, of another version of mine_fast, this one reads format {FORMAT}; "
            "go on with that version, or delete it to begin again"
        )
    return saved


def _state_of(item: Any) -> Any:
    if hasattr(item, "state_dict"):
        return item.state_dict()
    if isinstance(item, torch.Generator):
        return item.get_state()
    if isinstance(item, np.random.Generator):
        return item.bit_generator.state
    if isinstance(item, (list, dict)):
        return item
    raise TypeError(
        f"a loop's state must be modules, optimisers, generators, lists or dicts, got {type(item).__name__}"
    )


def _restore(item: Any, saved: Any) -> None:
    if hasattr(item, "load_state_dict"):
        item.load_state_dict(saved)
    elif isinstance(item, torch.Generator):
        item.set_state(saved.cpu())
    elif isinstance(item, np.random.Generator):
        item.bit_generator.state = saved
    elif isinstance(item, list):
        item[:] = saved
    else:
        item.clear()
        item.update(saved)
