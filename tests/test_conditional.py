"""`mine_fast.conditional` against Gaussian closed forms, its paired errors, and what it says of degenerate data."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import mine_fast
from mine_fast.evaluation import HeldOutScores, over_folds
from mine_fast.result import MIResult

# Rows: x, y, z as combinations of three independent noises.
STRUCTURES = {
    "chain": [[1, 0, 0], [1, 1, 1], [1, 1, 0]],
    "common cause": [[1, 1, 0], [1, 0, 1], [1, 0, 0]],
    "collider": [[1, 0, 0], [0, 1, 0], [1, 1, 0.5]],
    "direct": [[1, 1, 0], [2, 1, 1], [1, 0, 0]],
}


def samples(kind, rows, seed, width=1):
    noise = np.random.default_rng(seed).standard_normal((3, rows, width))
    return np.einsum("ij,jnd->ind", np.array(STRUCTURES[kind], dtype=float), noise)


def truth(kind, width=1):
    mix = np.array(STRUCTURES[kind], dtype=float)
    covariance = mix @ mix.T

    def entropy(*columns):
        return 0.5 * np.linalg.slogdet(covariance[np.ix_(columns, columns)])[1]

    return width * (entropy(0, 2) + entropy(1, 2) - entropy(2) - entropy(0, 1, 2))


def test_closed_forms():
    assert truth("chain") == pytest.approx(0)
    assert truth("common cause") == pytest.approx(0)
    assert truth("direct") == pytest.approx(math.log(2) / 2)  # y - 2z = x - z + noise
    assert truth("collider") == pytest.approx(math.log(25 / 9) / 2)  # given z, their correlation is -0.8


@pytest.mark.parametrize(("kind", "width", "seed"), [("collider", 1, 0), ("collider", 2, 1), ("direct", 1, 2)])
def test_information_beyond_z(kind, width, seed):
    x, y, z = samples(kind, 2000, seed, width)
    r = mine_fast.conditional(x, y, z, seed=seed, steps=200)
    assert abs(r.mi - truth(kind, width)) < 3 * r.stderr
    assert r.lower(0.999) < truth(kind, width)
    assert r.lower() > 0.5 * truth(kind, width)
    assert r.p_value < 1e-6
    assert r.stderr < 0.8 * math.hypot(r.parts[0].stderr, r.parts[1].stderr)  # the errors are paired


@pytest.mark.parametrize(("kind", "width", "seed"), [("chain", 1, 0), ("common cause", 1, 1), ("chain", 2, 2)])
def test_no_information_beyond_z(kind, width, seed):
    """Not above 0 by its error; below 0 by what the critic of more columns misses, a few hundredths of a nat."""
    x, y, z = samples(kind, 2000, seed, width)
    r = mine_fast.conditional(x, y, z, seed=seed, steps=200)
    assert -0.03 < r.mi < 3 * r.stderr
    assert r.parts[1].mi > 0.25
    assert r.p_value > 0.001
    assert r.flags == ()


@pytest.fixture(scope="module")
def direct():
    x, y, z = samples("direct", 400, 0)
    return mine_fast.conditional(x, y, z, steps=60, folds=3), (x, y, z)


def test_the_parts_and_their_difference(direct):
    r, (x, y, z) = direct
    whole, known = r.parts
    assert (r.quantity, whole.quantity, known.quantity) == ("I(X;Y|Z)", "I(X;Y,Z)", "I(X;Z)")
    assert r.mi == pytest.approx(whole.mi - known.mi)
    assert r.fold_mi == pytest.approx([a - b for a, b in zip(whole.fold_mi, known.fold_mi, strict=True)])
    assert len(r.fold_mi) == 3
    assert r.certifiable == whole.certifiable - known.mi
    assert r.p_value == pytest.approx(0.5 * math.erfc(r.mi / r.stderr / math.sqrt(2)))
    assert r.history.validation[0][-1] == pytest.approx(
        whole.history.validation[0][-1] - known.history.validation[0][-1]
    )
    # Each part is what estimate gives by itself.
    assert whole.mi == mine_fast.estimate(x, np.hstack([y, z]), steps=60, folds=3).mi
    assert known.mi == mine_fast.estimate(x, z, steps=60, folds=3).mi


def test_what_it_prints(direct):
    r, _ = direct
    lines = str(r).splitlines()
    assert lines[0].startswith("I(X;Y|Z) = ")
    assert lines[1].split() == ["I(X;Y,Z)", f"{r.parts[0].mi:.3f}", "nats"]
    assert lines[2].split() == ["I(X;Z)", f"{r.parts[1].mi:.3f}", "nats"]
    assert r.summary("bits").splitlines()[2].split() == ["I(X;Z)", f"{r.parts[1].bits:.3f}", "bits"]
    values = json.loads(json.dumps(r.to_dict()))
    assert values["quantity"] == "I(X;Y|Z)"
    assert values["parts"]["I(X;Z)"] == {"mi": r.parts[1].mi, "stderr": r.parts[1].stderr}
    assert str(MIResult(mi=0.5, stderr=0.1, p_value=0.01, n=100)).startswith("I(X;Y) = ")


def test_plots(direct):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    r, _ = direct
    figure = r.plot(truth=0.35, figure=Figure())
    figure.canvas.draw()
    curves, scores = figure.axes
    assert (curves.get_title(), curves.get_xlabel()) == ("Training, 3 folds", "training step")
    assert curves.get_ylabel() == "mutual information (nats)"
    marks = [text.get_text() for text in curves.get_legend().get_texts()][2:]
    assert marks == [f"estimate {r.mi:.3f} ± {r.stderr:.3f} (band: 95%)", "truth 0.350"]
    assert [text.get_text() for text in scores.texts] == ["no scores kept"]  # those of the parts are other critics'


def test_paired_error_of_known_scores():
    """Of exact critics, over fresh samples: the variance of the difference, and what unpaired errors would say."""
    kind, rows, runs = "direct", 300, 200
    mix = np.array(STRUCTURES[kind], dtype=float)
    covariance = torch.from_numpy(mix @ mix.T)
    generator = torch.Generator().manual_seed(0)

    def log_ratio(x, others, columns):
        """Log p(x, others) - log p(x) - log p(others) up to a constant, which moves no bound."""
        both = [0, *columns]
        joint = torch.cat([x, others], -1)

        def quadratic(v, c):
            return torch.einsum("...i,ij,...j->...", v, torch.linalg.inv(covariance[c][:, c]), v)

        return 0.5 * (quadratic(x, [0]) + quadratic(others, columns) - quadratic(joint, both))

    def scores(data, columns):
        x, others = data[:, :1], data[:, columns]
        n = torch.arange(rows)
        partner = torch.stack([(n + k) % rows for k in range(1, 41)])
        owner = torch.stack([(n - k) % rows for k in range(1, 41)])
        marginal = log_ratio(x.expand(40, rows, 1), others[partner], columns)
        return HeldOutScores(log_ratio(x, others, columns), marginal, marginal.gather(1, owner))

    estimates, variances, unpaired = [], [], []
    for _ in range(runs):
        data = torch.randn(rows, 3, generator=generator, dtype=torch.float64) @ torch.from_numpy(mix).T
        whole, known = scores(data, [1, 2]), scores(data, [2])
        mi, stderr = over_folds([whole], [None], [known])
        estimates.append(mi)
        variances.append(stderr**2)
        unpaired.append(whole.variance() + known.variance())
    spread = np.var(estimates, ddof=1)
    assert abs(np.mean(estimates) - truth(kind)) < 4 * math.sqrt(spread / runs) + 0.01
    assert 0.7 < np.mean(variances) / spread < 1.4  # the variance of 200 runs is known to 10%
    assert np.mean(unpaired) > 1.6 * spread


def test_the_known_part_counts_as_it_was_estimated():
    """What is subtracted is cut where the estimate of it is, from the estimate and from the lower bound alike."""
    from mine_fast.conditioning import _difference
    from mine_fast.cross_fitting import CrossFit
    from mine_fast.evaluation import CERTIFIED_TAIL_ROWS, ESTIMATE_TAIL_ROWS

    generator = torch.Generator().manual_seed(0)

    def fold(outlier):
        joint, marginal = torch.randn(40, generator=generator), torch.randn(30, 40, generator=generator)
        marginal[0, 0] = outlier
        return HeldOutScores(*(s.double() for s in (1 + joint, marginal, marginal.roll(1, 1))))

    def fitted(folds):
        mi = over_folds([one.limited(ESTIMATE_TAIL_ROWS) for one in folds], [None, None])[0]
        result = MIResult(mi=mi, stderr=0.1, p_value=0.5, n=80, certifiable=1.4, fold_mi=(mi, mi))
        return CrossFit(result, None, torch.zeros(()), folds, [None, None], [])

    whole, known = fitted([fold(3.0), fold(3.0)]), fitted([fold(30.0), fold(3.0)])
    r = _difference(whole, known)
    assert r.mi == pytest.approx(whole.result.mi - known.result.mi)
    certified = over_folds([one.limited(CERTIFIED_TAIL_ROWS) for one in whole.scores], [None, None])[0]
    assert r.certified_mi == pytest.approx(certified - known.result.mi)
    assert known.result.mi > over_folds(known.scores, [None, None])[0] + 1  # the cut mattered


# Degenerate and bad data. ---------------------------------------------------------------------------------------------


def test_a_constant_z_leaves_the_plain_information():
    x, y, _ = samples("direct", 300, 0)
    r = mine_fast.conditional(x, y, np.ones(300), steps=40)
    assert r.parts[1].mi == 0
    assert (r.mi, r.stderr) == (r.parts[0].mi, r.parts[0].stderr)
    assert {str(flag) for flag in r.flags} == {
        "of I(X;Y,Z): (y, z) has 1 constant column(s) (1)",
        "of I(X;Z): z has 1 constant column(s) (0)",
    }


@pytest.mark.parametrize("which", [0, 1])
def test_a_constant_x_or_y_is_independent(which):
    data = list(samples("direct", 100, 0))
    data[which] = np.ones(100)
    r = mine_fast.conditional(*data)
    assert (r.mi, r.stderr, r.p_value, r.quantity) == (0, 0, 1, "I(X;Y|Z)")
    assert mine_fast.conditional(*data, seed=r.seed, **r.settings).settings == r.settings
    assert r.settings["steps"] == 300


@pytest.mark.parametrize(
    ("rows", "settings", "error", "message"),
    [
        (100, {"stepz": 3}, TypeError, "stepz is no setting"),
        (100, {"steps": -4}, ValueError, "steps must be at least 1"),
        (5, {}, ValueError, "at least 20 rows"),
        (24, {"folds": 7}, ValueError, "at least 4 rows in each"),
    ],
)
def test_a_constant_hides_no_mistake(rows, settings, error, message):
    x, _, z = samples("direct", rows, 0)
    with pytest.raises(error, match=message):
        mine_fast.conditional(x, np.zeros(rows), z, **settings)


@pytest.mark.parametrize(("rows_per_code", "flagged"), [(8, True), (25, False)])
def test_codes_of_few_rows_in_z(rows_per_code, flagged):
    """x and y depend on 40 codes and on nothing else: read as a quantity, z left 0.3 to 0.4 nats between them."""
    rng = np.random.default_rng(200)
    code = np.repeat(np.arange(40), rows_per_code)
    effect = rng.standard_normal(40)
    x, y = (effect[code] + 0.3 * rng.standard_normal(len(code)) for _ in "xy")
    r = mine_fast.conditional(x, y, np.array([f"s{one:02d}" for one in code]))
    assert r.mi < 0.1
    assert r.p_value > 0.01
    assert ("rare_codes" in [flag.code for flag in r.flags]) is flagged


def test_progress_reaches_its_end_with_a_constant_z():
    x, y, _ = samples("direct", 100, 0)
    seen = []
    mine_fast.conditional(x, y, np.zeros(100), steps=5, folds=2, progress=lambda *step: seen.append(step[:2]))
    assert seen[-1] == (40, 40)


def test_copies_stay_in_one_fold_for_both_parts():
    x, y, z = (np.concatenate([v, v]) for v in samples("direct", 600, 0))
    r = mine_fast.conditional(x, y, z, steps=40)
    once = mine_fast.conditional(*samples("direct", 600, 0), steps=40)
    assert [flag.code for flag in r.flags].count("duplicate_rows") == 1  # both parts say the same
    assert r.stderr == pytest.approx(once.stderr, rel=0.3)


def test_text_and_lists_and_progress():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, 400)
    x, y = rng.standard_normal((2, 400)) + group
    seen = []
    r = mine_fast.conditional(
        x.tolist(), y, np.array(list("abc"))[group], steps=50, folds=2, progress=lambda *step: seen.append(step[:2])
    )
    assert r.n == 400
    assert seen[-1] == (400, 400)  # two terms of two folds of two networks of 50 steps
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


X = np.arange(40.0)
BAD = [
    ((X, X[:-1], X), {}, ValueError, "x and y must have the same number of rows, got 40 rows in x and 39 in y"),
    ((X, X, X[:-1]), {}, ValueError, "x and z must have the same number of rows, got 40 rows in x and 39 in z"),
    ((X, X, np.where(X == 3, np.nan, X)), {}, ValueError, "z must be finite"),
    ((X, X, None), {}, TypeError, "z must be"),
    ((X, X, X), {"loss": "kl"}, ValueError, "loss must be one of"),
    ((X, X, X), {"widths": 3}, TypeError, "widths is no setting"),
    ((X, X, X), {"progress": 3}, TypeError, "progress must be callable"),
    ((X[:10], X[:10], X[:10] ** 2), {}, ValueError, "need at least 20 rows"),
]


@pytest.mark.parametrize(("arguments", "settings", "error", "message"), BAD)
def test_bad_arguments(arguments, settings, error, message):
    with pytest.raises(error, match=message):
        mine_fast.conditional(*arguments, **settings)
