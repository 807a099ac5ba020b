"""MNIST from IDX files, and what is said where there are none."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from mine_fast.experiments.data import mnist, read_idx


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("zipped", [False, True])
def test_an_array_comes_back(tmp_path, zipped):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / ("a.gz" if zipped else "a")
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    np.testing.assert_array_equal(read_idx(path), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file"),
        (b"\0\0\x0d\1\0\0\0\1abcd", "is no IDX file of unsigned bytes"),
        (b"\0\0\x08\3\0\0", "cut short"),
        (idx(np.zeros((2, 2), np.uint8))[:-1], r"must hold \(2, 2\) bytes, got 3"),
    ],
)
def test_what_is_no_such_file(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "a")


def test_a_folder_without_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MINE_FAST_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.*put the four IDX files there, or unset"):
        mnist("train")


def test_no_network(monkeypatch):
    monkeypatch.delenv("MINE_FAST_DATA", raising=False)

    def offline(*arguments, **options):
        raise OSError("no route")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", offline)
    with pytest.raises(FileNotFoundError, match=r"no route.*set MINE_FAST_DATA to a folder"):
        mnist("test")


def test_files_of_something_else(tmp_path, monkeypatch):
    monkeypatch.setenv("MINE_FAST_DATA", str(tmp_path))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((3, 28, 28), np.uint8)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(ValueError, match=r"must be 10000 images of 28 x 28 with a label each, got \[3, 28, 28\] and 3"):
        mnist("test")
    with pytest.raises(ValueError, match="split must be"):
        mnist("validation")


def test_openml_gives_the_same_splits(monkeypatch):
    monkeypatch.delenv("MINE_FAST_DATA", raising=False)

    class Fetched:
        data = np.zeros((70_000, 784))
        target = np.array(["3"] * 60_000 + ["7"] * 10_000, dtype=object)

    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *a, **o: Fetched)
    assert (mnist("train").labels == 3).all()
    assert (mnist("test").labels == 7).all()


@pytest.mark.usefixtures("real_mnist")
def test_the_digits_themselves():
    train, test = mnist("train"), mnist("test")
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # as shown wherever MNIST is
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(train.labels.numpy()).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.images[0].float().mean() > 20
    assert train.images.max() == 255
