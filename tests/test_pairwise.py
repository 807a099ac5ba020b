"""The matrix of a table: which columns, symmetric, as estimated alone, its q-values, its picture and its command."""

from __future__ import annotations

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch

import mine_fast
from mine_fast.cli import main
from mine_fast.clustering import average_linkage
from mine_fast.column_pairs import SINGLE_COLUMNS
from mine_fast.multiple_testing import q_values
from mine_fast.settings import default_steps
from mine_fast.variables import table_variables

QUICK = dict(steps=15, folds=2, evaluate_every=5, batch_size=64)


def table(rows=90, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, 4))
    values[:, 2] += 2 * values[:, 0]
    return values


NAMES = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def matrix():
    return mine_fast.pairwise(dict(zip(NAMES, table().T, strict=True)), **QUICK)


def test_symmetric_and_each_pair_as_estimated_alone(matrix):
    assert matrix.names == tuple(NAMES)
    for name in ("mi", "stderr", "p_value", "q_value"):
        values = getattr(matrix, name)
        assert values.shape == (4, 4)
        assert np.array_equal(values, values.T, equal_nan=True)
        assert np.isnan(values.diagonal()).all()
        assert np.isfinite(values[np.triu_indices(4, 1)]).all()
    x = table()
    alone = mine_fast.estimate(x[:, 0], x[:, 2], evaluation_shuffles=100, **QUICK)
    assert matrix["c", "a"] is matrix.results[0][2] is matrix.results[2][0]
    assert matrix["a", "c"].mi == alone.mi == matrix.mi[2, 0]
    assert matrix["a", "c"].p_value == alone.p_value
    assert matrix["a", "c"].joint_scores.size == 0  # thousands of them would fill the memory
    assert matrix.results[1][1] is None
    with pytest.raises(KeyError, match="not paired with itself"):
        matrix["a", "a"]
    with pytest.raises(KeyError, match="the variables are a, b, c, d"):
        matrix["a", "e"]


def test_q_values_of_the_matrix(matrix):
    upper = np.triu_indices(4, 1)
    assert np.array_equal(matrix.q_value[upper], q_values(matrix.p_value[upper]))
    assert matrix.q_value[0, 2] < 0.05


def test_q_values_by_the_definition():
    """The smallest level at which Benjamini and Hochberg's step-up rejects, found by trying them all."""
    p = np.array([0.03, 0.001, 0.2, 0.04, 0.04, 0.9, 0.012])
    order = np.sort(p)
    levels = np.concatenate([p * len(p) / k for k in range(1, len(p) + 1)])

    def rejects(level):
        passing = [k for k in range(1, len(p) + 1) if order[k - 1] <= level * k / len(p) + 1e-15]
        return p <= order[max(passing) - 1] if passing else np.zeros(len(p), bool)

    expected = [min(level for level in levels if rejects(level)[i]) for i in range(len(p))]
    assert q_values(p) == pytest.approx(np.minimum(expected, 1.0))
    assert q_values(np.array([])).size == 0
    assert np.isnan(q_values(np.full(2, np.nan))).all()
    assert q_values(np.array([0.5, np.nan, 0.01])) == pytest.approx([0.5, np.nan, 0.02], nan_ok=True)


def test_defaults_of_single_columns_and_of_groups(monkeypatch):
    x = table(60)
    seen = []

    class Caught(Exception):
        pass

    def run(tasks, **options):
        seen.extend(task.steps for task in tasks)
        raise Caught

    monkeypatch.setattr("mine_fast.column_pairs.run_tasks", run)
    groups = {"one": [0], "two": 1, "wide": [2, 3]}
    for settings in ({}, {"steps": 7}):
        with pytest.raises(Caught):
            mine_fast.pairwise(x, groups, folds=2, **settings)
    defaults = default_steps(60)
    networks = seen[3] // (2 * 7)
    assert seen[:3] == [2 * networks * steps for steps in (SINGLE_COLUMNS["steps"], defaults, defaults)]
    assert seen[3:] == [2 * networks * 7] * 3


def test_one_bad_pair_does_not_lose_the_others(monkeypatch):
    from mine_fast import estimate_request

    real = estimate_request.plan_cross_fit

    def plan(loss, source, *rest):
        if float(source.x[0]) == x[0, 0] and float(source.y[0]) == x[0, 1]:
            raise mine_fast.DivergenceError("left the numbers")
        return real(loss, source, *rest)

    x = table(60)
    monkeypatch.setattr(estimate_request, "plan_cross_fit", plan)
    m = mine_fast.pairwise(x[:, :3], **QUICK)
    assert np.isnan(m.mi[0, 1])
    assert np.isnan(m.q_value[1, 0])
    assert np.isfinite(m.mi[0, 2])
    assert list(m.errors) == [("0", "1")]
    assert "0, 1: failed, left the numbers" in str(m)
    assert isinstance(m["1", "0"], mine_fast.FailedEstimate)


# Tables. --------------------------------------------------------------------------------------------------------------


def same(variables, expected):
    assert list(variables) == list(expected)
    return all(torch.equal(variables[name], torch.as_tensor(expected[name])) for name in expected)


def test_every_kind_of_table(tmp_path):
    pd = pytest.importorskip("pandas")
    x = table(30).round(3)
    columns = {name: x[:, i : i + 1] for i, name in enumerate(NAMES)}
    numbered = dict(zip("0123", columns.values(), strict=True))
    frame = pd.DataFrame(x, columns=NAMES)
    frame.to_csv(tmp_path / "t.csv", index=False)
    np.save(tmp_path / "t.npy", x)
    assert same(table_variables(x).samples, numbered)
    assert same(table_variables(x.tolist()).samples, numbered)
    assert same(table_variables(torch.from_numpy(x)).samples, numbered)
    assert same(table_variables(frame).samples, columns)
    assert same(table_variables({name: frame[name] for name in NAMES}).samples, columns)
    assert same(table_variables(tmp_path / "t.csv").samples, columns)
    assert same(table_variables(str(tmp_path / "t.csv")).samples, columns)
    assert same(table_variables(tmp_path / "t.npy").samples, numbered)
    np.savez(tmp_path / "t.npz", first=x[:, 0], rest=x[:, 1:])
    found = table_variables(tmp_path / "t.npz").samples
    assert list(found) == ["first:0", *[f"rest:{number}" for number in range(x.shape[1] - 1)]]
    assert same(dict(enumerate(found.values())), dict(enumerate(numbered.values())))
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ValueError, match="damaged or not a numpy file"):
        table_variables(tmp_path / "bad.npz")
    assert same(table_variables(tmp_path / "t.csv", columns="a,-1").samples, {name: columns[name] for name in "ad"})
    assert same(table_variables(frame, columns=["d", 0]).samples, {name: columns[name] for name in "da"})
    groups = {"u": ["a", "d"], "v": "b", "w": [2]}
    expected = {"u": x[:, [0, 3]], "v": x[:, [1]], "w": x[:, [2]]}
    for given in (frame, tmp_path / "t.csv", columns):
        assert same(table_variables(given, groups).samples, expected)


def test_what_one_array_would_change_of_a_table():
    exact = table_variables([[2**60, 0.5], [2**60 + 1, 0.25], [2**60 + 2, 0.75]]).samples
    assert exact["0"].flatten().tolist() == [0, 1, 2]
    mixed = table_variables([[1.5, "a"], [2.5, "b"], [0.5, "a"]]).samples
    assert mixed["0"].flatten().tolist() == [1.5, 2.5, 0.5]
    assert mixed["1"].flatten().tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="table must not have masked values, got 1 masked value, at row 1, column 1"):
        table_variables(np.ma.masked_equal([[1.0, 2.0], [3.0, -999.0], [4.0, 5.0]], -999))


def test_columns_of_no_group_are_not_looked_at(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": np.arange(30.0), "id": [f"id{i}" for i in range(30)], "b,1": np.arange(30.0) ** 2})
    frame["gap"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    for given in (frame, tmp_path / "t.csv"):
        found = table_variables(given, {"u": "a", "v": ["b,1", "a"]}).samples
        assert {name: tuple(values.shape) for name, values in found.items()} == {"u": (30, 1), "v": (30, 2)}
        assert found["v"][:, 0].tolist() == frame["b,1"].tolist()
    assert table_variables(frame, {"u": 0, "v": [-2, 0]}).samples["v"].shape == (30, 2)
    assert list(table_variables(tmp_path / "t.csv", columns=["b,1", "a"]).samples) == ["b,1", "a"]
    np.savez(tmp_path / "t.npz", a=np.arange(6.0), b=np.arange(12.0).reshape(6, 2), texts=[f"id{i}" for i in range(6)])
    assert list(table_variables(tmp_path / "t.npz", columns=["b:1", "a"]).samples) == ["b:1", "a:0"]


def test_the_readers_notes_come_along(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("site,7,level\n" + "north,1,0.5\nsouth,2,0.25\n" * 15)
    assert table_variables(path).notes == ("column 'site' is text: 2 categories, coded 0 to 1 in sorted order",)
    assert table_variables(path, columns="7,level").notes == ()
    m = mine_fast.pairwise(path, steps=5)
    assert m.notes == table_variables(path).notes
    np.savez(tmp_path / "t.npz", a=np.arange(24).reshape(6, 2, 2), b=np.array(["u", "v"] * 3))
    assert [note.split(" ")[1] for note in table_variables(tmp_path / "t.npz").notes] == ["'a'", "'b:0'"]


def test_text_dates_and_integers_of_a_table():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"text": list("ba") * 10, "day": pd.date_range("2026-01-01", periods=20), "n": range(20)})
    found = table_variables(frame).samples
    assert found["text"].flatten().tolist() == [1.0, 0.0] * 10
    assert found["day"].unique().numel() == 20
    assert {values.dtype for values in found.values()} == {torch.float64}


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        (np.zeros(5), {}, ValueError, "table must be"),
        (np.zeros((30, 1)), {}, ValueError, "at least two variables"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]}, {}, ValueError, "column 'b' has 3 rows, column 'a' has 2"),
        ({"a": [1.0, np.nan], "b": [1.0, 2.0]}, {}, ValueError, "column 'a' must be finite"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, {"groups": ["a"]}, TypeError, "groups must be a dict"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, {"groups": {"u": ["a"], "v": ["c"]}}, ValueError, "no column 'c'"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, {"groups": {"u": ["a"], "v": []}}, ValueError, "'v' has no columns"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, {"columns": ["a", 7]}, ValueError, "no column 7"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, {"groups": {}, "columns": "a"}, ValueError, "cannot both be given"),
        ("nowhere.csv", {}, FileNotFoundError, "no such file"),
        ({"a": [1.0] * 30, "b": range(30)}, {"stepz": 1}, TypeError, "stepz is no setting"),
    ],
)
def test_bad_tables(given, options, error, message):
    with pytest.raises(error, match=message):
        mine_fast.pairwise(given, **options)


def test_columns_of_one_name_are_refused():
    pd = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="two columns are called 'a'"):
        table_variables(pd.DataFrame(np.zeros((30, 2)), columns=["a", "a"]))


# What it gives. -------------------------------------------------------------------------------------------------------


def test_frame_and_files(matrix, tmp_path):
    pytest.importorskip("pandas")
    frame = matrix.to_frame("stderr")
    assert list(frame.index) == list(frame.columns) == NAMES
    assert frame.loc["a", "c"] == matrix.stderr[0, 2]
    with pytest.raises(ValueError, match="what must be"):
        matrix.to_frame("flags")
    matrix.save(tmp_path / "m.csv")
    rows = list(csv.reader((tmp_path / "m.csv").open()))
    assert rows[0] == ["", *NAMES]
    assert [row[0] for row in rows[1:]] == NAMES
    assert rows[1][1] == ""
    assert float(rows[1][3]) == matrix.mi[0, 2]
    matrix.save(tmp_path / "p.csv", "pairs")
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert [(row["a"], row["b"]) for row in rows] == [names for names, _ in matrix.pairs()]
    assert float(rows[1]["q_value"]) == matrix.q_value[0, 2]
    assert float(rows[1]["lower_95"]) == matrix["a", "c"].lower()


def test_summary(matrix):
    first, best, *rest = str(matrix).splitlines()
    assert first.startswith("4 variables, 6 pairs, ")
    assert best.startswith("  a  c  ")
    assert len(rest) == 5
    assert matrix.summary(1).splitlines()[-1] == "  ... and 5 with less"
    assert set(matrix.flags) == {names for names, result in matrix.pairs() if result.flags}


def test_linkage_against_scipy():
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    rng = np.random.default_rng(0)
    for size in (2, 3, 12):
        distance = rng.random((size, size))
        distance = distance + distance.T
        merges = average_linkage(distance)
        expected = hierarchy.linkage(distance[np.triu_indices(size, 1)], "average")
        assert [merge.height for merge in merges] == pytest.approx(expected[:, 2].tolist())
        assert sorted(merges[-1].left + merges[-1].right) == list(range(size))
        assert [len(merge.left + merge.right) for merge in merges] == expected[:, 3].astype(int).tolist()


def test_linkage_puts_groups_together():
    groups = np.array([0, 1, 0, 1, 2, 0])
    distance = np.where(groups[:, None] == groups, 0.1, 1.0)
    merges = average_linkage(distance)
    order = groups[list(merges[-1].left + merges[-1].right)]
    assert (np.diff(order) != 0).sum() == 2


def test_plot(matrix, tmp_path):
    figure_module = pytest.importorskip("matplotlib.figure")
    figure = matrix.plot(figure=figure_module.Figure(layout="constrained"))
    figure.savefig(tmp_path / "m.png")
    labels = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert sorted(labels) == NAMES
    assert abs(labels.index("a") - labels.index("c")) == 1  # what shares most is side by side


def test_command(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "t.csv"
    rows = [*table(60)[:, :2].T, ["u", "v"] * 30]
    path.write_text("\n".join(["a,b,c", *(",".join(map(str, row)) for row in zip(*rows, strict=True))]))
    out, pairs, plot = (tmp_path / name for name in ("m.csv", "p.csv", "m.png"))
    files = ["--out", str(out), "--pairs", str(pairs), "--plot", str(plot)]
    run = ["pairwise", str(path), "--steps", "10", "--folds", "2", "--batch-size", "32"]
    assert main([*run, "--top", "1", *files]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].startswith("3 variables, 3 pairs, ")
    assert printed.err == "mine-fast: note: column 'c' is text: 2 categories, coded 0 to 1 in sorted order\n"
    assert len(out.read_text().splitlines()) == 4
    assert len(pairs.read_text().splitlines()) == 4
    assert plot.stat().st_size > 1000
    assert main([*run, "--columns", "-2,-1"]) == 0
    assert capsys.readouterr().out.startswith("2 variables, 1 pairs")
    assert main([*run, "--out", str(tmp_path / "none" / "m.csv")]) == 2
    assert "--out: there is no directory" in capsys.readouterr().err
    assert main(["pairwise", str(tmp_path / "none.csv")]) == 2


def test_nothing_heavy_is_imported():
    """What only some tables and pictures need stays away."""
    code = (
        "import sys, mine_fast; mine_fast.pairwise; mine_fast.estimate_many;"
        "print([m for m in ('pandas', 'matplotlib', 'scipy', 'sklearn') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
