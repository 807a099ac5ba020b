"""Loads the compiled libraries, whose static initialisers register the `torch.ops.mine_fast` kernels."""

from __future__ import annotations

import importlib

import torch

try:
    importlib.import_module("mine_fast._C")
except ImportError as error:
    raise ImportError(
        f"mine_fast's compiled library could not be loaded ({error}). "
        "Install the package with `pip install .` from the repository root; "
        "a source folder that was not built cannot be imported from within itself."
    ) from error


def _load_cuda() -> str | None:
    """Load the CUDA kernels; return why there are none, or None when they are loaded.

    Kept apart from `_C`: a library linked to CUDA does not load beside a CPU build of torch.
    """
    if not torch.version.cuda:
        return f"torch {torch.__version__} is a CPU build"
    try:
        importlib.import_module("mine_fast._C_cuda")
    except ImportError as error:
        return str(error)
    return None


#: Why the CUDA kernels are missing, or None. CUDA tensors then run on the plain-torch reference, with one warning.
CUDA_MISSING: str | None = _load_cuda()
