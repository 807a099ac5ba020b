"""MNIST, from its four IDX files or from OpenML."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Digits", "mnist", "read_idx"]

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_COUNTS = {"train": 60_000, "test": 10_000}


class Digits(NamedTuple):
    """Images uint8 [N, 28, 28] and labels int64 [N]."""

    images: Tensor
    labels: Tensor


def mnist(split: str) -> Digits:
    """The handwritten digits of LeCun, Cortes and Burges.

    Read from the folder that the environment variable MINE_FAST_DATA names (or mnist/ in it), where the four IDX files
    are, gzipped or not; without the variable, by scikit-learn's `fetch_openml`, which downloads once and keeps.

    Args:
        split: "train" (60,000 rows) or "test" (10,000).

    Raises:
        ValueError: another split.
        FileNotFoundError: neither is there; the message says what to do.
    """
    if split not in _FILES:
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    named = os.environ.get("MINE_FAST_DATA")
    if named:
        images, labels = (read_idx(_found(Path(named), name)) for name in _FILES[split])
    else:
        images, labels = _from_openml(split)
    digits = Digits(torch.from_numpy(images), torch.from_numpy(labels).long())
    if digits.images.shape != (_COUNTS[split], 28, 28) or len(digits.labels) != _COUNTS[split]:
        raise ValueError(
            f"MNIST's {split} split must be {_COUNTS[split]} images of 28 x 28 with a label each, "
            f"got {list(digits.images.shape)} and {len(digits.labels)} labels"
        )
    return digits


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes from an IDX file, gzipped if its name ends in .gz.

    The format: two zero bytes, the type (8: unsigned byte), the number of dimensions, each of them as a big-endian
    32-bit integer, the values.

    Raises:
        ValueError: no such file, or one cut short.
    """
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no IDX file of unsigned bytes: it starts with {content[:4]!r}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path} is cut short: {len(content)} bytes")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != int(np.prod(shape)):
        raise ValueError(f"{path} must hold {shape} bytes, got {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _found(folder: Path, name: str) -> Path:
    tried = [place / (name + end) for place in (folder, folder / "mnist") for end in ("", ".gz")]
    for path in tried:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"MNIST's file {name} (or {name}.gz) is neither in MINE_FAST_DATA={folder} nor in its folder mnist/: put the "
        "four IDX files there, or unset MINE_FAST_DATA to download MNIST from OpenML"
    )


def _from_openml(split: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import fetch_openml

    try:
        fetched = fetch_openml("mnist_784", version=1, as_frame=False, parser="liac-arff")
    except OSError as error:
        raise FileNotFoundError(
            f"MNIST could not be downloaded from OpenML ({error}): set MINE_FAST_DATA to a folder with its four IDX "
            f"files {', '.join(name for names in _FILES.values() for name in names)} (.gz as they are distributed)"
        ) from error
    # In its order of distribution: the training rows come first.
    rows = slice(None, _COUNTS["train"]) if split == "train" else slice(_COUNTS["train"], None)
    return fetched.data[rows].astype(np.uint8).reshape(-1, 28, 28), fetched.target[rows].astype(np.int64)
