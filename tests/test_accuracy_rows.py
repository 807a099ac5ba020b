"""What the accuracy benchmark makes of its estimates: means, shares, failures, and who is compared on what."""

from __future__ import annotations

import math
import sys

import accuracy
import accuracy_rows
import accuracy_tables
import pytest
from contenders import Estimate
from distributions import CASES

NAME = "uniform noise 0.75"


def row_of(estimates: list[Estimate | None], estimator: str = "mine_fast", case: str = NAME) -> accuracy_rows.Row:
    row = accuracy_rows.new_row(case, 10_000, estimator, CASES[case].truth, CASES[case].tuned, version="1")
    for seed, estimate in enumerate(estimates, 1000):
        accuracy_rows.add(row, seed, estimate, 2.0)
    return row


def test_figures_of_a_row() -> None:
    row = row_of([Estimate(1 / 3 + 0.05, 0.02, 1 / 3 + 0.01), Estimate(1 / 3 - 0.15, 0.1, 0.0)])
    assert row["mean_error"] == pytest.approx(-0.05, abs=1e-4)
    assert row["mean_absolute_error"] == pytest.approx(0.1, abs=1e-4)
    assert row["sd_of_estimate"] == pytest.approx(0.1 * math.sqrt(2), abs=1e-4)
    assert row["mean_stderr"] == pytest.approx(0.06)
    assert (row["within_0.1"], row["within_2_stderr"], row["lower_95_above_truth"]) == (0.5, 0.5, 0.5)
    assert row["mean_cpu_seconds"] == 2.0


def test_a_failure_is_counted_and_within_nothing() -> None:
    row = row_of([Estimate(1 / 3), Estimate(math.nan), None])
    assert row["failed"] == 2
    assert row["mi"][1:] == [None, None]
    assert row["within_0.1"] == pytest.approx(1 / 3, abs=1e-4)
    assert row["mean_error"] == pytest.approx(0, abs=1e-4)
    assert row_of([None])["mean_absolute_error"] is None


def test_summary_weighs_cases_alike_and_names_the_worst() -> None:
    rows = [row_of([Estimate(1 / 3)] * 9), row_of([Estimate(-1.0)], case="independent coins")]
    (summary,) = accuracy_rows.summarise(rows, list(CASES))
    assert summary["mean_absolute_error"] == pytest.approx(0.5, abs=1e-4)
    assert (summary["worst_case"], summary["worst_error"]) == ("independent coins", -1.0)
    assert summary["within_0.1"] == 0.5
    assert accuracy_rows.summarise(rows, ["circle"]) == []


def test_others_are_compared_on_the_cases_that_they_ran_on() -> None:
    rows = [
        row_of([Estimate(0.4)], "cca"),
        row_of([Estimate(1 / 3)]),
        row_of([Estimate(-1.0)], case="independent coins"),
    ]
    assert accuracy_tables.mean_error(rows, "mine_fast", [NAME]) == pytest.approx(0, abs=1e-4)
    assert accuracy_tables.mean_error(rows, "cca", [NAME, "independent coins"]) is None
    table = accuracy_tables.comparison({"rows": rows})
    assert "| Gaussian (CCA) | 1 |  | 0.067 | 0.000 |" in table
    assert not accuracy_tables.is_complete({"rows": rows})


@pytest.mark.parametrize("arguments", ["--seeds 5", "--seeds 5 --split all", "--seeds 998-1001 --split tune"])
def test_tuning_seeds_are_kept_apart(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *arguments.split()])
    with pytest.raises(SystemExit):
        accuracy.main()
    assert "for tuning" in capsys.readouterr().err
