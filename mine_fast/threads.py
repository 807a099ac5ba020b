"""How many threads the native engine may use."""

from __future__ import annotations

import torch

__all__ = ["allowed_threads"]


def allowed_threads() -> int:
    """What to tell the engine: one thread if torch is set to one, else 0, by the work of a step."""
    return 1 if torch.get_num_threads() == 1 else 0
