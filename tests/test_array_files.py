"""The reader of npy and npz files: which columns, what is refused, damaged files."""

import pickle
import re
import zipfile

import numpy as np
import pytest

from mine_fast.tables import read_table

VALUES = np.arange(12.0, dtype=np.float32).reshape(4, 3)


class Harmful:
    """Its unpickling is visible."""

    loaded = False

    def __reduce__(self):
        return setattr, (Harmful, "loaded", True)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "data.npz"
    objects = np.array([Harmful(), 1], dtype=object)
    np.savez(
        path,
        images=np.arange(48).reshape(4, 3, 4),
        labels=np.array([0, 1, 1, 0]),
        table=VALUES,
        objects=objects,
        names=np.array(["b", "a", "b", "b"]),
        ids=np.array([f"id{i}" for i in range(20)]),
        one=np.array(5.0),
        none=np.zeros((0, 3)),
        **{"odd:name": VALUES},
    )
    return path


def test_npy(tmp_path):
    path = tmp_path / "data.NPY"
    np.save(path.with_suffix(".npy"), VALUES)
    path.with_suffix(".npy").rename(path)
    table = read_table(path, "0:2", "-1")
    assert np.array_equal(table.x, VALUES[:, :2])
    assert np.array_equal(table.y, VALUES[:, 2:])
    assert table.x.dtype == np.float32
    assert (table.x_names, table.y_names, table.notes) == (("0", "1"), ("2",), ())


def test_npz(archive):
    table = read_table(archive, "images", "labels")
    assert np.array_equal(table.x, np.arange(48).reshape(4, 12))
    assert table.y.tolist() == [[0], [1], [1], [0]]
    assert table.x_names[:2] == ("images:0", "images:1")
    assert table.notes == ("array 'images' of shape [4, 3, 4] flattened to 12 columns",)
    table = read_table(archive, "table:2,0", "odd:name:1:")
    assert np.array_equal(table.x, VALUES[:, [2, 0]])
    table = read_table(archive, "odd:name", "table:1:")
    assert np.array_equal(table.x, VALUES)
    assert np.array_equal(table.y, VALUES[:, 1:])


def test_npz_arrays_of_text_are_categories(archive):
    table = read_table(archive, "images", "names")
    assert table.y.tolist() == [[1], [0], [1], [1]]
    assert table.notes[1] == "column 'names:0' is text: 2 categories, coded 0 to 1 in sorted order"


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ("lables", r"no array 'lables'; did you mean 'labels'\? it has images, labels, table"),
        ("table:3", r"array 'table': no column 3; the columns are 0 to 2"),
        ("table:age", r"array 'table': no column 'age': the columns have no names"),
        ("labels:0:2", r"array 'labels': '0:2' goes beyond the 1 columns"),
        ("objects", r"array 'objects': holds Python objects \(pickled\), refused"),
        ("ids", r"array 'ids' must repeat its categories, .*20 different values in 20 rows in column 0"),
        ("one", r"array 'one' must be \[N\] or \[N, d\], got a single number"),
        ("none", r"array 'none' has no rows"),
    ],
)
def test_bad_npz_arrays(archive, y, message):
    with pytest.raises(ValueError, match=rf"^y: {re.escape(str(archive))}: {message}"):
        read_table(archive, "images", y)
    assert not Harmful.loaded


def test_pickles_are_refused_and_not_run(tmp_path):
    path = tmp_path / "objects.npy"
    np.save(path, np.array([Harmful()], dtype=object))
    with pytest.raises(ValueError, match=r"objects\.npy: holds Python objects \(pickled\), refused"):
        read_table(path, "0", "0")
    for name in ("plain.npy", "plain.npz"):
        with (tmp_path / name).open("wb") as file:
            pickle.dump(Harmful(), file)
        with pytest.raises(ValueError, match=rf"{name}: not a \.np. file \(a pickle under that name is refused"):
            read_table(tmp_path / name, "0", "0")
    assert not Harmful.loaded


@pytest.mark.parametrize("name", ["data.npy", "data.npz"])
def test_damaged_numpy_files(tmp_path, archive, name):
    whole = tmp_path / "whole.npy"
    np.save(whole, VALUES)
    content = (whole if name.endswith("npy") else archive).read_bytes()
    (tmp_path / "cut").mkdir()
    path = tmp_path / "cut" / name
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"{name}: damaged or not a numpy file"):
        read_table(path, "0", "0")


# --- files that are not what they seem --------------------------------------------------------------------------------


def test_a_member_of_a_zip_file_that_is_no_array(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes", "no numbers")
    with pytest.raises(ValueError, match="'notes' is no array: a member of a zip file that numpy did not write"):
        read_table(path, "notes", "notes")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (6, 1, "password required"),  # the flag of an encrypted member
        (8, 99, "compression method is not supported"),
        (60, None, "damaged or not a numpy file"),  # in the compressed bytes
    ],
    ids=["encrypted", "unknown compression", "broken compression"],
)
def test_whatever_a_zip_file_makes_its_reader_raise_is_one_error(tmp_path, place, value, message):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, u=np.random.default_rng(0).normal(size=(50, 2)))
    content = bytearray(path.read_bytes())
    directory = content.rfind(b"PK\x01\x02")
    if value is None:
        content[place] ^= 0xFF
    else:  # a member and its entry in the directory say the same
        content[place] = content[directory + place + 2] = value
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(path, "u:0", "u:1")


def test_a_header_that_asks_for_more_than_there_is(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, u=np.zeros((9, 2)))
    content = path.read_bytes()
    assert content.count(b"(9, 2), }         ") == 1
    path.write_bytes(content.replace(b"(9, 2), }         ", b"(9000000000000, 2)}"[:18].ljust(18)))
    with pytest.raises(ValueError, match=r"array 'u': (needs more memory than there is|damaged or not a numpy file)"):
        read_table(path, "u:0", "u:1")


def test_what_was_read_is_no_longer_the_file(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(2e6).reshape(-1, 2))
    table = read_table(path, ":", "0")
    path.write_bytes(b"")  # of a mapped file, the next look would end the process
    assert table.x.sum() == np.arange(2e6).sum()
