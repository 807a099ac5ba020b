"""Values as JSON has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """A value of JSON's kinds: arrays and tensors as lists, what is not finite as None, keys and anything else as text.

    >>> import numpy as np, torch
    >>> plain({"loss": np.float32(0.5), "curve": torch.arange(2), 3: float("nan"), "device": torch.device("cpu")})
    {'loss': 0.5, 'curve': [0, 1], '3': None, 'device': 'cpu'}
    """
    if hasattr(value, "tolist"):  # numpy's and torch's
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str | type(None)) else str(value)
