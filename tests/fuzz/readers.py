"""Files of every kind of damage, and specifications of columns, for the readers of the command line."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mine_fast.data import pair_source
from mine_fast.tables import read_table

from .draw import Draw, Target, check

SPECS = ("0", "1", "-1", "a", "b", "c", "0:2", ":", "a:c", "a,b", "0,0", "", ",", '"', '"a', 'a"b"', "\n", "a\nb",
         "\x00", ":,:", "9", "-9", "2:1", "1" * 5000, "a" * 200_000, "x", "x:0", "x:", "y:0:1", "x:9", "x,y", "é",
         "\u0663", "0x1", "1e3", " 1 ", "b:", "--", "1:-1", "\ud800")  # fmt: skip
CELLS = ("0", "1", "-2.5", "1e3", "1e999", "nan", "inf", "", " ", "NA", "?", "yes", "no", '"a,b"', '"', '""', "1_000",
         "1,5", "1.000,5", "9007199254740993", "9" * 400, "9" * 5000, "\u0663", "é", "\x00", "\ufeff", "0x10", "1e-400",
         "2020-01-01", "'", "\r", "a" * 140_000, "-0", "+1", ".5", "5.", "True", "\U0001f600")  # fmt: skip
NOISE = (b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"\r", b"\n\n\n", b",", b";", b"\t", b"\xc3", b"PK\x03\x04",
         b"\x93NUMPY", b"(", b"'descr'", b"99999999999999999999", b"-1", b"O", b"\x1a", b"x" * 5000)  # fmt: skip
KINDS = ("f8", "f8", "f4", "f2", "i8", "u1", "?", "U3", "S3", "c16", "O", "M8[s]", "m8[s]", "V4", "f8,i4", ">f8", "g",
         "U0")  # fmt: skip


def _damaged(draw: Draw, content: bytes) -> bytes:
    """The bytes after a few accidents."""
    data = bytearray(content)
    for _ in range(draw.of((0, 1, 1, 2, 5))):
        if not data:
            break
        place = draw.between(0, len(data) - 1)
        kind = draw.between(0, 5)
        if kind == 0:
            data[place] = draw.between(0, 255)
        elif kind == 1:
            data[place] ^= 1 << draw.between(0, 7)
        elif kind == 2:
            data[place:place] = draw.of(NOISE)
        elif kind == 3:
            del data[place : place + draw.of((1, 4, 100))]
        elif kind == 4:
            del data[place:]
        else:
            end = draw.between(place, min(len(data), place + 50))
            data[place:place] = data[place:end]
    return bytes(data)


def _csv(draw: Draw) -> bytes:
    delimiter, columns = draw.of((",", ";", "\t", ",", ",")), draw.between(1, 4)
    lines = [delimiter.join("abcd"[:columns])] if draw.chance(0.7) else []
    odd = draw.of((0.0, 0.0, 0.05, 0.3))
    for _ in range(draw.of((0, 1, 2, 5, 12))):
        cells = [draw.of(CELLS) if draw.chance(odd) else f"{draw.between(-99, 99) / 8}" for _ in range(columns)]
        lines.append(delimiter.join(cells))
    return draw.of(("\n", "\r\n", "\n", "\r")).join(lines).encode(draw.of(("utf-8", "utf-8", "utf-16", "utf-8-sig")))


def _array(draw: Draw) -> np.ndarray:
    shape = [draw.of((1, 2, 2, 9, 9, 0)) for _ in range(draw.of((1, 2, 2, 2, 2, 3, 0)))]
    kind = draw.of(KINDS)
    values = np.random.default_rng(draw.seed()).normal(size=shape) * draw.of((1, 1e300, 1e18))
    with np.errstate(all="ignore"):
        made = np.zeros(shape, kind) if kind in ("V4", "f8,i4", "O") else values.astype(kind)
    return np.asfortranarray(made) if draw.chance(0.3) else made


def _npy(draw: Draw) -> bytes:
    file = io.BytesIO()
    np.save(file, _array(draw), allow_pickle=True)
    content = file.getvalue()
    if draw.chance(0.3):  # another header of the same length, where it fits
        header = draw.of((b"(9999999999, 2)", b"(-1, 2)", b"(2, 2", b"(True,)", b"((((((((", b"(1e9,)", b"None"))
        return re.sub(rb"\([0-9, ]*\)", lambda found: header.ljust(len(found[0]))[: len(found[0])], content, count=1)
    return content


def _npz(draw: Draw) -> bytes:
    file = io.BytesIO()
    kind = draw.of((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name in draw.of((["x", "y"], ["x", "y", "z"], ["x", "y:0"], ["x"], [])):
            content = _damaged(draw, _npy(draw)) if draw.chance(0.3) else _npy(draw)
            archive.writestr(draw.of((f"{name}.npy", f"{name}.npy", f"{name}.npy", name)), content)
    content = bytearray(file.getvalue())
    if len(content) > 40 and draw.chance(0.1):
        content[draw.of((6, 8))] |= draw.of((1, 9, 99))  # flags (encrypted) or method of the first member
    return bytes(content)


def _reader(suffix: str, make: Callable[[Draw], bytes]) -> Target:
    def target(draw: Draw) -> None:
        content = make(draw)
        if draw.chance(0.5):
            content = _damaged(draw, content)
        usual = ("x", "y", "x:0") if suffix == ".npz" else ("0", "0", "-1", ":")
        specs = [draw.of(usual) if draw.chance(0.8) else draw.of(SPECS) for _ in range(3)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"file{suffix}"
            path.write_bytes(content)
            table = read_table(path, *specs[:2], draw.of((None, None, specs[2])))
            path.write_bytes(b"")  # what was read stays what it is
        for values, names in ((table.x, table.x_names), (table.y, table.y_names)):
            check(values.ndim == 2 and values.dtype.kind in "biuf", f"read {values.dtype} {list(values.shape)}")
            check(values.shape[1] == len(names), f"{values.shape[1]} columns and {len(names)} names")
            check(suffix != ".csv" or bool(np.isfinite(values).all()), "a csv file gave what is not finite")
        x, y = pair_source(table.x, table.y).rows(torch.arange(2))
        check(bool(torch.isfinite(x).all() and torch.isfinite(y).all()), "samples are not finite")

    return target


TARGETS: dict[str, Target] = {
    "readers.csv": _reader(".csv", _csv),
    "readers.npy": _reader(".npy", _npy),
    "readers.npz": _reader(".npz", _npz),
}
