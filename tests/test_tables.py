"""Which columns of a file, and the reader of csv files, on awkward files above all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mine_fast.columns import column_numbers
from mine_fast.tables import read_table

NAMES = ["age", "height", "weight", "sex", "first,last", "a:b", "7", "city", "city"]


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


# --- which columns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "columns"),
    [
        ("age", [0]),
        ("weight,age", [2, 0]),
        (" weight , age ", [2, 0]),
        ("0", [0]),
        ("-1", [8]),
        ("0:3", [0, 1, 2]),
        (":2", [0, 1]),
        ("7:", [6, 7, 8]),  # starts at the column called 7
        (":", list(range(9))),
        ("-3:-1", [6, 7]),
        ("age:weight", [0, 1, 2]),
        ("height:3", [1, 2]),
        (":height", [0, 1]),
        ("weight:", [2, 3, 4, 5, 6, 7, 8]),
        ("sex,0:2,-1", [3, 0, 1, 8]),
        ("first,last", [4]),
        ('"first,last",age', [4, 0]),
        ("a:b", [5]),
        ("age,a:b", [0, 5]),
        ("7", [6]),  # a name before a number
        ("8", [8]),
    ],
)
def test_columns_by_name_number_and_range(spec, columns):
    assert column_numbers(spec, NAMES, 9, "x") == columns


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", r"separated by commas, got ''"),
        (",", r"separated by commas, got ','"),
        ("age,,sex", r"separated by commas"),
        ("wieght", r"no column 'wieght'; did you mean 'weight'\? it has age, height, weight, sex"),
        ("zzz", r"no column 'zzz'; it has age"),
        ("9", r"no column 9; the columns are 0 to 8"),
        ("-10", r"no column -10"),
        ("0:10", r"'0:10' goes beyond the 9 columns"),
        ("age:zzz", r"no column 'zzz'"),
        ("zzz:age", r"no column 'zzz'"),
        ("weight:age", r"'weight:age' chooses no column"),
        ("3:3", r"'3:3' chooses no column"),
        ("age,0", r"chooses column 'age' twice"),
        ("0:3,1", r"chooses column 'height' twice"),
        ("city", r"2 columns are called 'city'; say which by number: 7, 8"),
    ],
)
def test_bad_columns(spec, message):
    with pytest.raises(ValueError, match=rf"^y: file: .*{message}"):
        column_numbers(spec, NAMES, 9, "y: file")


def test_names_where_there_are_none():
    with pytest.raises(ValueError, match=r"no column 'age': the columns have no names; use their numbers, 0 to 3"):
        column_numbers("age", None, 4, "x")


def test_many_names_are_not_all_listed():
    with pytest.raises(ValueError, match=r"c0, c1, .*c19, \.\.\. \(500 in all\)$"):
        column_numbers("zzz", [f"c{i}" for i in range(500)], 500, "x")


@given(st.integers(1, 9), st.integers(-12, 12), st.integers(-12, 12))
def test_numeric_ranges_are_pythons(width, start, stop):
    expected = list(range(width))[start:stop]
    if -width <= start < width and -width <= stop <= width and expected:
        assert column_numbers(f"{start}:{stop}", None, width, "x") == expected
    else:
        with pytest.raises(ValueError, match=r"^x: "):
            column_numbers(f"{start}:{stop}", None, width, "x")


@pytest.mark.parametrize("spec", ["a\nb", "\r", "x" * 200_000], ids=["line break", "return", "longer than a csv field"])
def test_columns_that_the_csv_module_cannot_split_are_the_callers_mistake(write, tmp_path, spec):
    np.savez(tmp_path / "a.npz", u=np.eye(2))
    for path in (write("a,b\n1,2\n3,4\n"), tmp_path / "a.npz"):
        with pytest.raises(ValueError, match=r"columns must be names|no column|no array"):
            read_table(path, spec, "0")


# --- csv --------------------------------------------------------------------------------------------------------------

PLAIN = "a,b,c\n1,2,3\n4,5,6.5\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.rstrip("\n"),
        PLAIN + "\n\n",
        "\n" + PLAIN.replace("\n", "\n\n"),
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        '"a","b","c"\r\n"1","2","3"\r\n"4","5","6.5"\r\n',
        "a, b, c\n 1, 2, 3\n 4, 5, 6.5\n",
        "a,b,c\n1e0,+2,3.\n4,5,.65e1\n",
    ],
    ids=["plain", "crlf", "cr", "no_end", "blank_end", "blank_lines", "bom", ";", "tab", "quoted", "spaces", "forms"],
)
def test_csv_dialects(write, content):
    table = read_table(write(content), "a,c", "b")
    assert table.x.tolist() == [[1, 3], [4, 6.5]]
    assert table.y.tolist() == [[2], [5]]
    assert (table.x_names, table.y_names, table.notes) == (("a", "c"), ("b",), ())


def test_semicolons_with_commas_in_the_cells(write):
    path = write('a;b;"c, d"\n1;2;"x, y"\n3;4;"z"\n')
    assert read_table(path, '"c, d"', "a").x.tolist() == [[0], [1]]


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("header", ["", "T, C;p, bar\n"])
def test_decimal_commas_are_refused_and_not_taken_for_delimiters(write, delimiter, header):
    content = header + "0,126;0,913\n1,5;-2,25\n"
    with pytest.raises(
        ValueError, match=r"line \d, column '.*': '(0,126|1,5)' is not a number; write decimals as 3\.14"
    ):
        read_table(write(content.replace(";", delimiter)), "0", "1")


def test_quoted_fields_with_newlines_keep_their_line_numbers(write):
    content = 'a,text\n1,"two\nlines"\n2,"say ""hi"""\nthree,x\n'
    with pytest.raises(ValueError, match=r"line 5, column 'a': 'three' is not a finite number"):
        read_table(write(content), "a", "text")
    table = read_table(write(content.replace("three", "3")), "a", "text")
    assert table.y.tolist() == [[1], [0], [2]]


def test_text_columns_become_codes_in_sorted_order_and_a_note(write):
    table = read_table(write("n,kind\n1,dog\n2,cat\n3,dog\n4,a_1\n5,NA\n"), "kind", "n")
    assert table.x.tolist() == [[3], [2], [3], [1], [0]]
    assert table.notes == (
        "column 'kind' is text: 4 categories, coded 0 to 3 in sorted order",
        "column 'kind': 'NA' is a category of it, not a missing value",
    )


def test_identifiers_are_refused(write):
    days = [f"{i},2024-01-{i:02}" for i in range(1, 23)]
    path = write("\n".join(["n,day", *days, *days[:10]]))
    with pytest.raises(
        ValueError, match=r"data\.csv: text must repeat .* 22 different values in 32 rows in column 'day'"
    ):
        read_table(path, "day", "n")
    path = write("\n".join(["n,day", *days, *days]))  # each twice
    assert read_table(path, "day", "n").x.flatten().tolist() == [*range(22), *range(22)]


@pytest.mark.parametrize(
    ("content", "rows", "header"),
    [
        ("1,2\n3,4\n", 2, False),
        ("0,1\n3,4\n", 1, True),
        ("a,1\n3,4\n", 1, True),
        (",0\n0,5\n", 1, True),  # as pandas writes an index
        ("1,2,\n3,4,5\n", 2, False),
        ("1,2,NA\n3,4,5\n", 2, False),
        ("1,2,NAN\n3,4,5\n", 2, False),
        (",,a\n3,4,5\n", 1, True),
    ],
)
def test_with_or_without_header(write, content, rows, header):
    table = read_table(write(content), "0", "1")
    assert len(table.x) == rows
    assert any("no header line" in note for note in table.notes) == (not header)


def test_a_missing_number_in_the_first_line_is_named(write):
    with pytest.raises(ValueError, match=r"line 1, column '2': the cell is empty"):
        read_table(write("1,2,\n3,4,5\n"), "2", "0")


def test_a_column_on_both_sides_is_remarked_on(write, tmp_path):
    table = read_table(write(PLAIN), "a,b", "b")
    assert table.x[:, 1].tolist() == table.y[:, 0].tolist()
    assert table.notes == ("in both x and y: b; the mutual information of a variable with itself may be infinite",)
    np.save(tmp_path / "a.npy", np.eye(3))
    assert "in both x and y: 1, 2;" in read_table(tmp_path / "a.npy", ":", "1:").notes[0]


def test_two_columns_of_one_name_are_two_columns(write):
    assert read_table(write("a,a,b\n1,2,3\n4,5,6\n"), "0", "1").notes == ()


def test_a_name_goes_before_a_number(write):
    path = write("3,2020,1,a\n1,2,3,4\n5,6,7,8\n")
    table = read_table(path, "1", "2020")
    assert (table.x.tolist(), table.y.tolist()) == ([[3], [7]], [[2], [6]])
    assert table.notes == (
        "'1' is read as the name of column 2, not as the number of column '2020'; -3 is that column",
    )
    assert read_table(path, "-3,0", "a").notes == ()  # numbers that are no name
    assert len(read_table(path, "3:2020", "a").notes) == 1


def test_integers_beyond_2_to_the_53_stay_different(write):
    start = 2**62 + 1
    path = write("id,n,hash,float\n" + "".join(f"{start + i},{i},{i * 2**61 + i * i},{i}e30\n" for i in range(4)))
    table = read_table(path, "id,float", "n")
    assert table.x.tolist() == [[i, float(f"{i}e30")] for i in range(4)]
    with pytest.raises(ValueError, match=r"data\.csv: must hold integers within 2\^53 .* in column 'hash'"):
        read_table(path, "hash", "n")


def test_integers_beyond_2_to_the_53_without_header(write):
    assert read_table(write(f"{2**60 + 5},1\n\n{2**60 + 2},3\n"), "0", "1").x.tolist() == [[3], [0]]


def test_a_huge_number_of_columns(write):
    width = 20_000
    values = np.arange(3 * width).reshape(3, width)
    lines = [",".join(f"c{i}" for i in range(width)), *(",".join(map(str, row)) for row in values)]
    table = read_table(write("\n".join(lines)), "0:19999", "c19999")
    assert np.array_equal(table.x, values[:, :-1])
    assert np.array_equal(table.y, values[:, -1:])


def test_numbers_are_read_to_the_last_bit(write):
    values = np.random.default_rng(0).standard_cauchy((2000, 2)) * 10.0 ** np.arange(-100, 100, 0.1)[:, None]
    content = "a,b\n" + "\n".join(f"{float(a)!r},{float(b)!r}" for a, b in values)
    table = read_table(write(content), "a", "b")
    assert np.array_equal(np.hstack(table[:2]), values)


LATIN_1 = "n,city\n1,Oslo\n2,Malmö\n".encode("latin-1")
BAD_CSV = [
    (b"", r"the file is empty"),
    (b"\xef\xbb\xbf", r"only blank lines"),
    (b"\n \n\n", r"only blank lines"),
    ("a,n\n", r"a header and no rows"),
    ("a,n\n1,2\n3\n", r"line 3: 1 fields, where the first line has 2"),
    ("a,n\n1,2\n3,4,5\n", r"line 3: 3 fields"),
    ("a,n\n1,2\n\n\n3,oops\n", r"line 5, column 'n': 'oops' is not a finite number"),
    ("a,n\n1,2\n3,\n", r"line 3, column 'n': the cell is empty; drop or impute"),
    ("a,n\n1,\n3,4\n", r"line 2, column 'n': the cell is empty"),
    ("a,n\n1,2\n3,NA\n", r"line 3, column 'n': 'NA' is not a finite"),
    ("a,n\n1,NA\n3,4\n", r"line 2, column 'n': 'NA' is not a finite number"),
    ("a,n\n1,NA\n2,b\n3,4\n", r"line 4, column 'n': '4' is a number in a column of text \(line 2 is text\)"),
    ("a,n\n1,2\n3,nan\n", r"line 3, column 'n': 'nan' is not a finite number"),
    ("a,n\n1,2\n3,-inf\n", r"line 3, column 'n': '-inf' is not a finite"),
    ("a,n\n1,2\n3,1e999\n", r"line 3, column 'n': '1e999' is not a finite"),
    ("a,n\n1,2\n3,1_000\n", r"line 3, column 'n': '1_000' is not a finite"),
    ('a,n\n1,"1,5"\n', r"line 2, column 'n': '1,5' is not a number; write decimals as 3\.14"),
    ("a;n\n1;1,5\n2;2,5\n", r"line 2, column 'n': '1,5' is not a number"),
    ("a;n\n1;1.234.567\n", r"no thousands separators"),
    ('a,n\n1,2\n3,"4\n', r"quotation mark left open"),
    ('a,n\n1,"2"x\n', r"not a readable csv file"),
    (LATIN_1, r"line 3, byte 0xf6: not UTF-8 text; save it as UTF-8"),
    (PLAIN.encode("utf-16"), r"\(UTF-16\): not UTF-8 text"),
    ("a,m\n1,2\n", r"^y: .*no column 'n'; .*it has a, m"),
    ("a;b c\n1;2\n", r"^y: .*no column 'n'; it has a, b c"),
    ("n,a,n\n1,2,3\n", r"^y: .*2 columns are called 'n'"),
]


@pytest.mark.parametrize(("content", "message"), BAD_CSV, ids=range(len(BAD_CSV)))
def test_bad_csv(write, content, message):
    path = write(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_table(path, "0", "n")
    assert str(path) in str(caught.value)


def test_latin_1_far_into_the_file(write):
    content = b"n,city\n" + b"1,Oslo\n" * 50_000 + "2,Malmö\n".encode("latin-1")
    with pytest.raises(ValueError, match=r"line 50002, byte 0xf6"):
        read_table(write(content), "n", "city")


def test_missing_file_directory_and_suffix(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv: no such file"):
        read_table(tmp_path / "nowhere.csv", "0", "1")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match=r"folder\.csv: not a file"):
        read_table(tmp_path / "folder.csv", "0", "1")
    with pytest.raises(ValueError, match=r"must end in \.csv, .*\.npz, got '\.parquet'"):
        read_table(write("PAR1", "data.parquet"), "0", "1")


def test_given_columns(write, tmp_path):
    table = read_table(write("a,b,c\n1,2,x\n3,4,y\n"), "a", "b", "c,a")
    assert table.given.tolist() == [[0, 1], [1, 3]]
    assert table.given_names == ("c", "a")
    assert "column 'c' is text" in table.notes[0]
    assert read_table(write("a,b\n1,2\n3,4\n"), "a", "b").given is None
    np.savez(tmp_path / "a.npz", u=np.arange(3.0), v=np.arange(6.0).reshape(3, 2))
    table = read_table(tmp_path / "a.npz", "u", "v:0", "v:1")
    assert (table.given.tolist(), table.given_names) == ([[1], [3], [5]], ("v:1",))
    with pytest.raises(ValueError, match=r"given: .*no column 'q'"):
        read_table(write("a,b\n1,2\n3,4\n"), "a", "b", "q")
    with pytest.raises(ValueError, match=r"given: .*no array 'w'"):
        read_table(tmp_path / "a.npz", "u", "v:0", "w")
