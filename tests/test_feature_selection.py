"""`MutualInfoSelector`: scikit-learn's own checks, which features it keeps, and what it says of bad ones."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import mine_fast
from mine_fast import MutualInfoSelector

QUICK = {"steps": 60, "folds": 2, "evaluation_shuffles": 20}
#: Enough to run every line; what the checks look at does not depend on the values.
SHORTEST = {"steps": 2, "folds": 2, "evaluation_shuffles": 2}


@parametrize_with_checks([MutualInfoSelector(settings=SHORTEST)])
@pytest.mark.filterwarnings("ignore:No features were selected", "ignore:.*could not be estimated")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def wave():
    """Column 2 gives y but for noise, without correlation; column 0 weakly; 1 and 3 not."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 4))
    y = X[:, 2] ** 2 + 0.5 * X[:, 0] + 0.3 * rng.standard_normal(400)
    return X, y


@pytest.fixture(scope="module")
def fitted(wave):
    return MutualInfoSelector(settings=QUICK).fit(*wave)


def with_scores(scores, qvalues=None, **criteria):
    """A selector that was fitted, with scores that are known."""
    selector = MutualInfoSelector(**criteria)
    selector.scores_ = np.array(scores, dtype=float)
    selector.qvalues_ = np.zeros(len(scores)) if qvalues is None else np.array(qvalues, dtype=float)
    return selector


def test_scores_are_those_of_estimate(wave, fitted):
    X, y = wave
    alone = mine_fast.estimate(X[:, 2], y, batch_size=128, **QUICK)
    assert fitted.scores_[2] == alone.mi
    assert fitted.stderr_[2] == alone.stderr
    assert fitted.pvalues_[2] == alone.p_value
    assert fitted.results_[2].fold_mi == alone.fold_mi
    other = MutualInfoSelector(settings=QUICK, random_state=5).fit(*wave)
    assert other.scores_[2] == mine_fast.estimate(X[:, 2], y, batch_size=128, seed=5, **QUICK).mi
    assert other.scores_[2] != fitted.scores_[2]


def test_it_finds_what_correlation_does_not(wave, fitted):
    X, y = wave
    assert abs(np.corrcoef(X[:, 2], y)[0, 1]) < 0.2
    assert fitted.scores_.argmax() == 2
    assert fitted.get_support()[2]
    assert not fitted.get_support()[[1, 3]].any()
    assert fitted.qvalues_ == pytest.approx(mine_fast.multiple_testing.q_values(fitted.pvalues_))


def test_criteria_are_read_after_fit(fitted):
    selector = pickle.loads(pickle.dumps(fitted))
    assert selector.set_params(n_features_to_select=1).get_support(indices=True).tolist() == [2]
    assert selector.set_params(n_features_to_select=None, threshold=-9.0).get_support().all()
    assert clone(selector).threshold == -9.0


NAN = float("nan")
KEPT = [
    ({}, [0.1, 0.3, 0.2], [0.05, 0.0501, 0.01], [1, 0, 1]),
    ({"alpha": 0.01}, [0.1, 0.3, 0.2], [0.05, 0.06, 0.01], [0, 0, 1]),
    ({"alpha": 0.0}, [0.1, 0.3], [0.0, 1e-9], [1, 0]),
    ({"threshold": 0.2}, [0.1, 0.3, 0.2], [1, 1, 1], [0, 1, 1]),  # a criterion of one's own replaces the default one
    ({"n_features_to_select": 2}, [0.1, 0.3, 0.2], [1, 1, 1], [0, 1, 1]),
    ({"n_features_to_select": 2}, [0.2, 0.2, 0.2], None, [1, 1, 0]),
    ({"n_features_to_select": 9}, [0.1, 0.3], None, [1, 1]),
    ({"n_features_to_select": 0.5}, [0.1, 0.3, 0.2, 0.4], None, [0, 1, 0, 1]),
    ({"n_features_to_select": 0.01}, [0.1, 0.3, 0.2], None, [0, 1, 0]),
    ({"n_features_to_select": 1.0}, [0.1, 0.3, 0.2], None, [1, 1, 1]),
    ({"n_features_to_select": 1, "threshold": 0.5}, [0.1, 0.3], None, [0, 0]),
    ({"n_features_to_select": 1, "alpha": 0.05}, [0.9, 0.3], [0.2, 0.01], [0, 1]),
    ({}, [NAN, 0.2], [NAN, 0.01], [0, 1]),
    ({"n_features_to_select": 2}, [NAN, -0.2], [NAN, 0.9], [0, 1]),
    ({"threshold": -5.0}, [NAN, -0.2], [NAN, 0.9], [0, 1]),
]


@pytest.mark.parametrize(("criteria", "scores", "qvalues", "kept"), KEPT)
def test_which_are_kept(criteria, scores, qvalues, kept):
    assert with_scores(scores, qvalues, **criteria).get_support().astype(int).tolist() == kept


def test_names_and_frames(wave):
    X, y = wave
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    selector = MutualInfoSelector(1, settings=SHORTEST).set_output(transform="pandas")
    kept = selector.fit_transform(frame, pd.Series(y))
    assert selector.get_feature_names_out().tolist() == kept.columns.tolist()
    assert kept.equals(frame[kept.columns])


LABELS = {
    "text": lambda group: np.array(["ash", "elm", "oak"])[group],
    "objects": lambda group: np.array(["ash", "elm", "oak"], dtype=object)[group],
    "codes": lambda group: group,
    "booleans": lambda group: group == 1,
    "list": lambda group: group.tolist(),
}


@pytest.mark.parametrize("kind", LABELS)
def test_class_labels(kind):
    """A class between two others: what a line cannot see."""
    rng = np.random.default_rng(1)
    group = rng.integers(0, 3, 300)
    X = np.column_stack([rng.standard_normal(300), np.array([-2.0, 0.0, 2.0])[group] + rng.standard_normal(300)])
    selector = MutualInfoSelector(settings=QUICK).fit(X, LABELS[kind](group))
    assert selector.get_support().tolist() == [False, True]
    assert 0.1 < selector.scores_[1] < np.log(3)


def test_several_columns_of_y(wave):
    X, y = wave
    rng = np.random.default_rng(0)
    both = np.column_stack([rng.standard_normal(400), y])
    selector = MutualInfoSelector(settings=QUICK).fit(X, both)
    assert selector.scores_.argmax() == 2
    assert selector.scores_[2] == mine_fast.estimate(X[:, 2], both, **QUICK).mi


def test_in_a_pipeline_and_a_grid():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((240, 4))
    y = (X[:, 3] + 0.3 * rng.standard_normal(240) > 0).astype(int)
    pipeline = make_pipeline(MutualInfoSelector(settings=SHORTEST), LogisticRegression())
    grid = {"mutualinfoselector__n_features_to_select": [1, 4], "mutualinfoselector__settings": [QUICK]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert search.best_score_ > 0.85
    assert search.best_estimator_[0].get_support()[3]
    assert len(search.cv_results_["params"]) == 2


def test_random_state(wave):
    X, y = wave[0][:60, :2], wave[1][:60]

    def scores(random_state):
        return MutualInfoSelector(settings=SHORTEST, random_state=random_state).fit(X, y).scores_

    assert np.array_equal(scores(0), scores(np.int64(0)))
    assert np.array_equal(scores(np.random.RandomState(3)), scores(np.random.RandomState(3)))
    state = np.random.RandomState(3)
    assert not np.array_equal(scores(state), scores(state))


def test_a_constant_feature_tells_nothing(wave):
    X, y = wave
    selector = MutualInfoSelector(settings=SHORTEST).fit(np.column_stack([np.ones(400), X[:, 2]]), y)
    assert (selector.scores_[0], selector.pvalues_[0]) == (0, 1)
    assert {flag.code for flag in selector.results_[0].flags} >= {"constant_column"}


def test_too_few_rows_are_said_and_nothing_is_made_up(wave):
    X, y = wave[0][:19], wave[1][:19]
    with pytest.warns(UserWarning, match="4 of 4 features could not be estimated .* need at least 20 rows") as seen:
        selector = MutualInfoSelector(n_features_to_select=2, settings=SHORTEST).fit(X, y)
    assert seen[0].filename == __file__
    assert np.isnan(selector.scores_).all()
    assert np.isnan(selector.qvalues_).all()
    assert not selector.get_support().any()
    assert all(isinstance(result, mine_fast.FailedEstimate) for result in selector.results_)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MutualInfoSelector(settings=SHORTEST).fit(wave[0][:20], wave[1][:20])


X, Y = np.arange(80.0).reshape(40, 2), np.arange(40.0)
BAD = [
    ({}, (X, None), ValueError, "requires y"),
    ({}, (X, Y[:-1]), ValueError, "inconsistent numbers of samples"),
    ({}, (X[:1], Y[:1]), ValueError, "1 sample"),
    ({}, (Y, Y), ValueError, "Expected 2D array"),
    ({}, (np.where(X == 3, np.nan, X), Y), ValueError, "NaN"),
    ({}, (X, np.where(Y == 3, np.nan, Y)), ValueError, "NaN"),
    ({"n_features_to_select": 0}, (X, Y), ValueError, "n_features_to_select must be at least 1"),
    ({"n_features_to_select": 1.5}, (X, Y), ValueError, "a share in"),
    ({"n_features_to_select": NAN}, (X, Y), ValueError, "a share in"),
    ({"n_features_to_select": True}, (X, Y), TypeError, "n_features_to_select"),
    ({"n_features_to_select": "all"}, (X, Y), TypeError, "n_features_to_select"),
    ({"alpha": 1.1}, (X, Y), ValueError, "alpha must be in"),
    ({"alpha": "5%"}, (X, Y), TypeError, "alpha must be a number"),
    ({"threshold": "much"}, (X, Y), TypeError, "threshold must be a number"),
    ({"settings": {"widths": 3}}, (X, Y), TypeError, "widths is no setting"),
    ({"settings": 100}, (X, Y), TypeError, "settings must be a dict"),
    ({"loss": "kl"}, (X, Y), ValueError, "loss must be one of"),
    ({"n_seeds": 0}, (X, Y), ValueError, "n_seeds"),
    ({"settings": {"seed": 3}}, (X, Y), TypeError, "must be training settings, got seed: set random_state itself"),
]


@pytest.mark.parametrize(("parameters", "data", "error", "message"), BAD)
def test_bad_arguments(parameters, data, error, message):
    with pytest.raises(error, match=message):
        MutualInfoSelector(**parameters).fit(*data)


def test_without_scikit_learn_the_rest_works_and_the_error_says_what_to_install():
    code = """
import sys
sys.modules["sklearn"] = None
from mine_fast import *
import mine_fast
mine_fast.estimate, mine_fast.pairwise
assert "MutualInfoSelector" in dir(mine_fast)
try:
    mine_fast.MutualInfoSelector
except ImportError as error:
    assert "pip install '.[sklearn]' in the repository" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[1])
