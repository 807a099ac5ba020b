"""MIResult, Flag, History: their arithmetic, their text, their JSON and their picture."""

import builtins
import copy
import json
import math
import pickle
import re
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from mine_fast.result import Flag, History, MIResult

NAN = float("nan")


def result(**changes):
    rng = np.random.default_rng(0)
    values = {
        "mi": 0.829,
        "stderr": 0.016,
        "p_value": 0.005,
        "n": 3000,
        "flags": (Flag("few_rows", "few rows were held out"),),
        "history": History([[0, 50, 100]] * 2, [[NAN, 0.6, 0.8]] * 2, [[0.0, 0.7, 0.9], [0.0, 0.5, 0.85]]),
        "seed": 7,
        "settings": {"steps": 100, "folds": 2},
        "fold_mi": (0.82, 0.838),
        "joint_scores": rng.normal(1, 1, 500),
        "marginal_scores": rng.normal(-3, 3, 1500),
        "seconds": 1.5,
    }
    return MIResult(**{**values, **changes})


# --- Flag and History -------------------------------------------------------------------------------------------------


def test_flag_is_its_message():
    flag = Flag("few_rows", "few rows")
    assert flag == "few rows"
    assert flag.code == "few_rows"
    assert flag.level == "warning"
    assert repr(flag) == "Flag('few_rows', 'few rows')"
    assert repr(Flag("discrete", "y is", "note")) == "Flag('discrete', 'y is', 'note')"


def test_flag_levels_are_two():
    with pytest.raises(ValueError, match=r"^level must be 'warning' or 'note', got 'alarm'"):
        Flag("few_rows", "few rows", "alarm")


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda flag: pickle.loads(pickle.dumps(flag))])
def test_flag_survives_copies(clone):
    flag = clone(Flag("few_rows", "few rows", "note"))
    assert (flag, flag.code, flag.level) == ("few rows", "few_rows", "note")


@pytest.mark.parametrize("code", ["", "Few", "few rows", "few-rows", "_few", "few_", "few__rows", "1few", "few\n"])
def test_flag_codes_are_snake_case(code):
    with pytest.raises(ValueError, match=r"^code must be"):
        Flag(code, "message")


@pytest.mark.parametrize(
    "curves", [([[0, 1]], [[0.0]], [[0.0, 1.0]]), ([[0]], [[0.0]], [[0.0], [1.0]]), ([[0]], [[0.0]], [[]])]
)
def test_history_curves_have_one_length(curves):
    with pytest.raises(ValueError, match=r"^steps, train and validation must have as many readings"):
        History(*curves)


def test_histories_are_equal_by_their_curves():
    def history(first, last=0.9):
        return History([[0, 50]], [[first, 0.5]], [[0.0, last]])

    assert history(NAN) == history(float("nan"))  # another object: nothing was trained before step 0
    assert history(NAN) != history(0.0)
    assert history(NAN) != history(NAN, last=0.8)
    assert history(NAN) != History([[0]], [[NAN]], [[0.0]])
    assert history(NAN) != History([[0, 50]] * 2, [[NAN, 0.5]] * 2, [[0.0, 0.9]] * 2)
    assert history(NAN) != "history"


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_units():
    r = result(mi=math.log(8), stderr=math.log(2) / 10)
    assert r.bits == pytest.approx(3)
    assert r.stderr_bits == pytest.approx(0.1)
    assert float(r) == r.mi
    assert f"{r:.2f}" == "2.08"
    assert f"{r}" == str(r)


@pytest.mark.parametrize(
    ("confidence", "z"), [(0.5, 0.0), (0.95, 1.6448536), (0.975, 1.9599640), (0.999, 3.0902323), (0.05, -1.6448536)]
)
def test_lower_is_one_sided(confidence, z):
    assert result(mi=1.0, stderr=0.1).lower(confidence) == pytest.approx(1 - 0.1 * z, abs=1e-7)


def test_lower_defaults_to_95_percent_and_is_not_clipped():
    assert result().lower() == result().lower(0.95)
    assert result(mi=0.01, stderr=0.1).lower() < -0.1


def test_lower_is_that_of_the_certified_bound():
    r = result(mi=2.0, stderr=0.5, certified_mi=1.8, certified_stderr=0.1)
    assert r.lower(0.95) == pytest.approx(1.8 - 0.16448536)
    # An estimate below it is no more certain for that.
    assert result(mi=1.0, stderr=0.5, certified_mi=1.8, certified_stderr=0.1).lower(0.5) == 1.0


def test_lower_is_capped_by_what_is_certifiable():
    r = result(mi=2.0, stderr=0.1, certifiable=1.5)
    assert r.lower() == r.lower(0.05) == 1.5
    assert r.lower(1 - 1e-9) < 1.5
    assert r.to_dict()["certifiable"] == 1.5


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.1, 0.0, 1.0, NAN, math.inf])
def test_lower_refuses_what_is_no_probability(confidence):
    with pytest.raises(ValueError, match=rf"^confidence must be in \(0, 1\).*got {confidence}"):
        result().lower(confidence)


@pytest.mark.parametrize("confidence", [None, "0.95", True])
def test_lower_refuses_what_is_no_number(confidence):
    with pytest.raises(TypeError, match=r"^confidence must be a number"):
        result().lower(confidence)


def test_frozen_and_compared_by_identity():
    r = result()
    with pytest.raises(FrozenInstanceError):
        r.mi = 2.0
    assert r == r
    assert r != result()  # arrays inside: no truth value, and no surprise
    assert len({r, result()}) == 2


# --- text -------------------------------------------------------------------------------------------------------------


def test_summary():
    flags = (Flag("few_rows", "few rows were held out"), Flag("heavy_tail", "one pair dominates"))
    assert str(result(flags=flags)).splitlines() == [
        "I(X;Y) = 0.829 +- 0.016 nats (1.196 bits)",
        "  lower bound (95%)  0.803 nats",
        "  p-value, I = 0     0.005",
        "  rows held out      3000",
        "  flags              few rows were held out [few_rows]",
        "                     one pair dominates [heavy_tail]",
    ]


def test_notes_are_no_flags_to_worry_about():
    note = Flag("discrete", "y is discrete", "note")
    assert str(result(flags=(note,))).splitlines()[-2:] == [
        "  flags              none",
        "  notes              y is discrete [discrete]",
    ]
    lines = str(result(flags=(note, Flag("few_rows", "few rows"), note))).splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["flags", "notes", "y"]


def test_summary_in_bits():
    lines = result(flags=()).summary("bits").splitlines()
    assert lines[0] == "I(X;Y) = 1.196 +- 0.023 bits (0.829 nats)"
    assert lines[1] == "  lower bound (95%)  1.158 bits"
    assert lines[-1].split() == ["flags", "none"]


@pytest.mark.parametrize(
    ("stderr", "text"),
    [
        (0.0, "0.500 +- 0.000"),
        (2e-4, "0.50000 +- 0.00020"),
        (1.23e-6, "0.5000000 +- 0.0000012"),
        (2.0, "0.500 +- 2.000"),
    ],
)
def test_summary_shows_the_digits_that_matter(stderr, text):
    assert f"= {text} nats" in str(result(mi=0.5, stderr=stderr))


def test_negative_estimates_are_shown_as_they_are():
    assert "= -0.012 +- 0.016 nats (-0.017 bits)" in str(result(mi=-0.012))


def test_tiny_p_value():
    assert "p-value, I = 0     < 1e-12" in str(result(p_value=0.0))


def test_unknown_unit():
    with pytest.raises(ValueError, match=r"^unit must be 'nats' or 'bits', got 'hartleys'"):
        result().summary("hartleys")


def test_repr_is_short():
    text = repr(result())
    assert text.startswith("MIResult(mi=0.829, stderr=0.016, p_value=0.005, n=3000, flags=(Flag('few_rows', ")
    assert "array" not in text
    assert "history" not in text


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_to_dict_is_strict_json():
    settings = {
        "device": torch.device("cpu"),
        "rate": np.float32(0.5),
        "steps": np.int64(3),
        "flag": np.bool_(True),
        "nested": {"a": (1, None)},
        "infinite": math.inf,
        3: "three",
    }
    values = result(settings=settings, mi=np.float64(0.829), fold_mi=(0.8, NAN)).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["mi"] == 0.829
    assert type(values["mi"]) is float
    assert values["lower_95"] == result().lower(0.95)
    assert values["certifiable"] is None  # infinite: nobody said
    assert values["bits"] == pytest.approx(1.196, abs=1e-3)
    assert values["flags"] == [{"code": "few_rows", "level": "warning", "message": "few rows were held out"}]
    assert type(values["flags"][0]["message"]) is str
    assert values["fold_mi"] == [0.8, None]
    assert values["settings"] == {
        "device": "cpu",
        "rate": 0.5,
        "steps": 3,
        "flag": True,
        "nested": {"a": [1, None]},
        "infinite": None,
        "3": "three",
    }
    assert set(values) == {
        *("mi", "stderr", "lower_95", "bits", "stderr_bits", "p_value", "n", "flags", "fold_mi"),
        *("seed", "settings", "seconds", "certifiable", "quantity", "parts"),
    }


# --- plot -------------------------------------------------------------------------------------------------------------

matplotlib_figure = pytest.importorskip("matplotlib.figure")


def plotted(r, **options):
    figure = matplotlib_figure.Figure()
    assert r.plot(figure=figure, **options) is figure
    figure.canvas.draw()
    return figure.axes


def test_plot_shows_curves_estimate_and_truth():
    curves, scores = plotted(result(), truth=0.83)
    lines = curves.get_lines()
    assert [line.get_ydata()[-1] for line in lines[:4]] == [0.8, 0.9, 0.8, 0.85]  # train and validation of two folds
    assert lines[4].get_ydata()[0] == 0.829
    assert lines[5].get_ydata()[0] == 0.83
    labels = [text.get_text() for text in curves.get_legend().get_texts()]
    assert labels == ["training batches", "validation rows", "estimate 0.829 ± 0.016 (band: 95%)", "truth 0.830"]
    assert [text.get_text() for text in scores.get_legend().get_texts()] == ["pairs as they came", "shuffled pairs"]
    assert "nats" in curves.get_ylabel()


def test_plot_starts_the_training_curve_at_its_first_reading():
    curves = plotted(result())[0]
    assert np.isnan(curves.get_lines()[0].get_ydata()[0])
    low, high = curves.get_ylim()
    assert math.isfinite(low)
    assert low < 0 < 0.9 < high


def test_plot_keeps_the_estimate_in_sight_of_wild_curves():
    history = History([list(range(100))], [[-1e6, NAN, *[0.8] * 98]], [[-math.inf, *[0.8] * 99]])
    low, high = plotted(result(history=history))[0].get_ylim()
    assert -1 < low < 0.8 < 0.829 + 2 * 0.016 < high < 2


@pytest.mark.parametrize(
    "changes",
    [
        {"history": History([], [], [])},
        {"joint_scores": np.empty(0), "marginal_scores": np.empty(0)},
        {"joint_scores": np.array([NAN, math.inf]), "marginal_scores": np.zeros(3)},
        {"mi": 0.0, "stderr": 0.0, "history": History([], [], []), "joint_scores": np.zeros(4)},
        {"history": History([[0]], [[NAN]], [[NAN]])},
    ],
)
def test_plot_of_degenerate_results(changes):
    assert len(plotted(result(**changes))) == 2


def test_plot_makes_a_figure_with_pyplot(monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    figure = result().plot()
    assert pyplot.fignum_exists(figure.number)
    pyplot.close(figure)


def test_plot_without_matplotlib(monkeypatch):
    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    real_import = builtins.__import__
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=re.escape("pip install '.[plot]' in the repository")):
        result().plot()
