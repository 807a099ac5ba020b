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


def save_checkpoint(fabric: Fabric, path: Path, step: int, state: Mapping[str, Any]) -> None:
    """Write what a loop has come to, whole or not at all.

    Args:
        fabric: writes it.
        path: of the file.
        step: steps made.
        state: modules, optimisers, schedulers, generators of torch and numpy, lists and dicts of numbers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    saved = {
        "step": step,
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "state": {name: _state_of(item) for name, item in state.items()},
    }
    with atomic_path(path) as temporary:
        fabric.save(temporary, saved)


def load_checkpoint(fabric: Fabric, path: Path, state: Mapping[str, Any]) -> int:
    """Give everything the state that it had; returns the steps made, 0 where there is no file."""
    if not path.is_file():
        return 0
    saved = fabric.load(path, weights_only=True)
    for name, item in state.items():
        _restore(item, saved["state"][name])
    torch.set_rng_state(saved["torch"].cpu())
    if saved["cuda"]:
        torch.cuda.set_rng_state_all([cuda.cpu() for cuda in saved["cuda"]])
    return int(saved["step"])


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
