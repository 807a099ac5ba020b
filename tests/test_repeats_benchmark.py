"""The cases of benchmarks/repeats.py are what they say, and its table is one."""

import math

import numpy as np
import pytest
import repeats


def test_information_of_codes():
    assert repeats.information_of_codes(1) == pytest.approx(0, abs=1e-6)
    # Against a sample: the mean log density ratio.
    code, value = repeats.coded(np.random.default_rng(1), 200_000, 30)
    means = repeats.means(30)
    log_likelihood = -0.5 * ((value[:, None] - means) / repeats.NOISE) ** 2
    ratio = log_likelihood[np.arange(len(code)), code] - np.log(np.exp(log_likelihood).mean(1))
    assert abs(ratio.mean() - repeats.information_of_codes(30)) < 5 * ratio.std() / math.sqrt(len(code))


@pytest.mark.parametrize("name", repeats.CASES)
def test_cases_draw_rows_that_a_seed_names(name):
    case = repeats.CASES[name]
    first, again = (case.draw(np.random.default_rng(5)) for _ in range(2))
    assert len({len(side) for side in first}) == 1
    assert len(first) == (3 if case.kind == repeats.GIVEN else 2)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a, b)


def test_copies_are_copies():
    x, y = repeats.copied(np.random.default_rng(0), 30, 4, "value")
    assert x.shape == (120, 10)
    assert len(np.unique(np.column_stack([x, y]), axis=0)) == 30


def test_table():
    row = {"kind": repeats.GIVEN, "case": "codes", "truth": 0.0, "seeds": [1000, 1001], "flags": {"discrete": 2}}
    row |= {"mean_error": 0.25, "sd_of_estimate": 0.5, "mean_stderr": 0.125}
    row |= {"lower_95_above_truth": 0.5, "p_up_to_0.05": 1.0}
    last = repeats.section({"rows": [row]}, "a machine").splitlines()[-1]
    cells = r"| I(X;Y\|Z), z a code | codes | 0.000 | 0.250 | 0.500 | 0.125 | 1 of 2 | 2 of 2 | `discrete` 2 |"
    assert last == cells
