"""The tables of the experiments' pages: what the committed results say, and what becomes of a broken page."""

from __future__ import annotations

import json

import experiment_tables
import pytest


def test_the_pages_say_what_the_results_say():
    for path in experiment_tables.PAGES:
        page = path.read_text()
        assert experiment_tables.filled(page) == page, f"run benchmarks/experiment_tables.py for {path.name}"


def test_a_place_without_its_end_is_refused_and_not_cut_off():
    with pytest.raises(SystemExit, match=r"<!-- gaussian --> has no <!-- /gaussian -->"):
        experiment_tables.filled("a page\n<!-- gaussian -->\nold\nthe rest")


def test_a_folder_of_results_is_of_the_seeds_that_its_numbers_are_of():
    for path in experiment_tables.RESULTS.rglob("config.json"):
        config, metrics = (json.loads((path.parent / name).read_text()) for name in ("config.json", "metrics.json"))
        for key in ("experiment", "preset", "seed", "settings"):
            assert config.get(key) == metrics.get(key), path


def test_counts_of_several_seeds_are_added_up():
    assert experiment_tables.total({"mean": 0.2, "sd": 0.4, "values": [0, 0, 1, 0, 0]}) == 1
    assert experiment_tables.total(3) == 3
