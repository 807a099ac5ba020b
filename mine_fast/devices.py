"""Whether torch can compute on a device here."""

from __future__ import annotations

import torch

__all__ = ["usable_device"]


def usable_device(device: torch.device | str, name: str = "device") -> torch.device:
    """Check a device by computing on it.

    Args:
        device: what the caller named.
        name: what error messages call the argument.

    Raises:
        ValueError: no device, one that holds no values (meta), or one that this torch or machine has not.

    >>> usable_device("cpu")
    device(type='cpu')
    >>> usable_device("meta")
    Traceback (most recent call last):
    ...
    ValueError: device must be one that holds values, such as cpu or cuda, got 'meta'
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name} must be a torch device such as cpu or cuda, got {device!r}") from error
    if found.type == "meta":
        raise ValueError(f"{name} must be one that holds values, such as cpu or cuda, got {str(device)!r}")
    try:
        torch.zeros(1, device=found).add(1).item()
    except Exception as error:  # each backend has its own way to say that it is not there, bare AssertionErrors too
        reason = str(error).split("\n")[0].split(". ")[0] or type(error).__name__  # some go on to list all they know
        raise ValueError(
            f"{name} must be one that torch can use, got {str(device)!r}: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices here, and says: {reason}"
        ) from error
    return found
