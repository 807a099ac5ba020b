"""`mine_fast.estimate` and `MINE.fit`: accuracy, honesty of the split, inputs, reproducibility, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import mine_fast

#: Enough to train on a small problem, for tests of everything but accuracy.
QUICK = {"steps": 60, "folds": 2, "evaluate_every": 20}


def gaussian(rows, rho, seed, width=1):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((rows, width))
    y = rho * x + math.sqrt(1 - rho**2) * generator.standard_normal((rows, width))
    return x, y, -0.5 * width * math.log(1 - rho**2)


@pytest.mark.parametrize("seed", range(5))
def test_gaussian_within_five_percent_and_two_standard_errors(seed):
    x, y, truth = gaussian(3000, 0.9, seed)
    r = mine_fast.estimate(x, y, seed=seed)
    assert abs(r.mi - truth) < 0.05 * truth
    assert abs(r.mi - truth) < 2 * r.stderr
    assert r.lower(0.99) < truth
    assert r.p_value < 0.01
    assert r.n == 3000


@pytest.mark.parametrize("seed", range(3))
def test_independent_columns_have_none(seed):
    x, y, _ = gaussian(3000, 0.0, seed)
    r = mine_fast.estimate(x, y, seed=seed)
    assert abs(r.mi) < 0.02
    assert r.lower() <= 0.01


def test_heavy_tails_scales_and_offsets_do_not_matter():
    """Cauchy-distributed marginals, one column with an offset that float32 cannot resolve the rest beside."""
    x, y, truth = gaussian(3000, 0.9, 11)
    uniform = np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))
    r = mine_fast.estimate(np.tan(np.pi * (uniform(x) - 0.5)), 1e9 + 1e-3 * y, steps=300)
    assert abs(r.mi - truth) < 0.1 * truth


def test_a_discrete_variable_is_a_code():
    """I(X; Y) = H(Y) = ln 4 where y tells the cluster of x; the codes' order means nothing."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 4, 2000)
    x = np.array([3.0, -3.0, 9.0, -9.0])[y] + generator.standard_normal(2000) * 0.1
    r = mine_fast.estimate(x, y, steps=300)
    assert abs(r.mi - math.log(4)) < 0.05
    relabelled = mine_fast.estimate(x, np.array([70, 3, 11, -5])[y], steps=300)
    assert abs(relabelled.mi - math.log(4)) < 0.05


@pytest.mark.parametrize("default", [True, False])
def test_the_p_value_knows_critics_that_were_trained_on_each_others_folds(default, monkeypatch):
    """A stack of critics drops what says nothing; a critic of one's own, trained by itself, counts some of it twice."""
    from mine_fast import cross_fitting

    asked = []
    true_p_value = cross_fitting.permutation_p_value
    monkeypatch.setattr(
        cross_fitting,
        "permutation_p_value",
        lambda folds, groups, cross_trained: asked.append(cross_trained) or true_p_value(folds, groups, cross_trained),
    )
    x, y, _ = gaussian(100, 0.5, 0)
    mine = mine_fast.MINE() if default else mine_fast.MINE(nn.Sequential(nn.Linear(2, 1)), method="concat")
    r = mine.fit(x, y, steps=5, folds=2)
    assert asked == [not default]
    assert 0 < r.p_value <= 1


def test_held_out_rows_train_and_select_nothing(monkeypatch, restore_threads):
    """Follow the row numbers: a fold's scores come from rows that neither its batches nor its validation saw."""
    from mine_fast import fold_fitting

    seen = []
    true_prepare, true_train = fold_fitting.Fold.fitting_rows, fold_fitting.train_critic
    true_weigh, true_held_out = fold_fitting._weigh, fold_fitting._held_out
    true_pairs = fold_fitting.HeldOutPairs

    def prepare(fold):
        seen.append({"used": set(fold.train.tolist())})
        return true_prepare(fold)

    def train(mine, score, source, train_rows, validation_rows, *rest):
        fetch = source.rows
        monkeypatch.setattr(source, "rows", lambda index: seen[-1]["used"].update(index.tolist()) or fetch(index))
        return true_train(mine, score, source, train_rows, validation_rows, *rest)

    def weigh(critic, members, features, fold):
        seen[-1]["used"].update(fold.validation.tolist())
        return true_weigh(critic, members, features, fold)

    def held_out(*arguments):
        def pairs(source, rows, *rest):
            seen[-1]["held_out"] = set(rows.tolist())  # those that are scored
            return true_pairs(source, rows, *rest)

        with monkeypatch.context() as within:
            within.setattr(fold_fitting, "HeldOutPairs", pairs)
            return true_held_out(*arguments)

    monkeypatch.setattr(fold_fitting.Fold, "fitting_rows", prepare)
    monkeypatch.setattr(fold_fitting, "train_critic", train)
    monkeypatch.setattr(fold_fitting, "_weigh", weigh)
    monkeypatch.setattr(fold_fitting, "_held_out", held_out)
    torch.set_num_threads(1)  # one fold after the other
    mine_fast.estimate(*gaussian(203, 0.5, 0)[:2], steps=40, folds=4, batch_size=32)
    assert len(seen) == 4
    for fold in seen:
        assert fold["used"]
        assert not fold["used"] & fold["held_out"]
    assert sorted(row for fold in seen for row in fold["held_out"]) == list(range(203))


def test_noise_cannot_be_fitted_into_information():
    """A critic that can memorise its training rows reads zero on held-out rows of independent data."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 30, generator=generator), torch.randn(200, 30, generator=generator)
    critic = nn.Sequential(nn.Linear(60, 256), nn.ReLU(), nn.Linear(256, 1))
    r = mine_fast.MINE(critic, method="concat").fit(x, y, steps=200, learning_rate=1e-3, folds=2)
    assert r.mi < 0.05
    assert max(r.history.train[0][1:]) > 1.0  # it did memorise


def test_same_seed_same_result_and_no_trace_left():
    x, y, _ = gaussian(300, 0.8, 0)
    state = torch.get_rng_state()
    threads = torch.get_num_threads()
    a = mine_fast.estimate(x, y, seed=3, **QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(99)
    b = mine_fast.estimate(x, y, seed=3, **QUICK)
    assert a.mi == b.mi
    assert a.stderr == b.stderr
    assert a.history == b.history
    assert mine_fast.estimate(x, y, seed=4, **QUICK).mi != a.mi


def test_every_kind_of_input_gives_the_same_number():
    pd = pytest.importorskip("pandas")
    x, y, _ = gaussian(300, 0.8, 0, width=2)
    expected = mine_fast.estimate(x, y, **QUICK).mi
    dataset = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    kinds = {
        "torch": (torch.tensor(x), torch.tensor(y)),
        "pandas": (pd.DataFrame(x, columns=["a", "b"]), pd.DataFrame(y)),
        "lists": (x.tolist(), y.tolist()),
        "fortran order": (np.asfortranarray(x), y[::-1][::-1]),
        "dataset": (dataset, None),
        "loader": (torch.utils.data.DataLoader(dataset, batch_size=7, shuffle=True), None),
    }
    for name, (a, b) in kinds.items():
        mi = mine_fast.estimate(a, b, **QUICK).mi
        # To rounding where the rows are in memory; a dataset trains in torch, the others by the engine.
        assert mi == pytest.approx(expected, abs=2e-3 if name in ("dataset", "loader") else 1e-6), name


def test_fit_of_a_critic_of_ones_own():
    x, y, truth = gaussian(2000, 0.9, 1)
    critic = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    mine = mine_fast.MINE(critic, method="concat")
    r = mine.fit(x, y, steps=300)
    assert abs(r.mi - truth) < 0.1
    assert mine.T is critic  # an optimiser made before still trains it
    assert abs(float(mine.mi(x, y)) - truth) < 0.15  # T is a trained critic now
    for loss in ("mine_biased", "fdiv"):
        other = mine_fast.MINE(critic, loss, method="concat").fit(x, y, steps=300)
        assert abs(other.mi - truth) < 0.12, loss


def test_fit_of_images_without_concat():
    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(17, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))

        def forward(self, image, z):
            return self.layers(torch.cat([image.flatten(1), z], 1))

    z = torch.randn(400, 1)
    images = z[:, :, None] + 0.1 * torch.randn(400, 4, 4)
    a = mine_fast.MINE(Critic()).fit(images, z, **QUICK)
    assert a.mi > 0.3


def test_constant_columns():
    x, y, _ = gaussian(300, 0.8, 0)
    r = mine_fast.estimate(np.ones(300), y, **QUICK)
    assert (r.mi, r.stderr, r.p_value) == (0.0, 0.0, 1.0)
    assert [flag.code for flag in r.flags] == ["constant_column"]
    mixed = mine_fast.estimate(np.column_stack([np.zeros(300), x]), y, **QUICK)
    assert mixed.mi > 0.1
    assert "constant_column" in [flag.code for flag in mixed.flags]
    assert "constant_column" not in [flag.code for flag in mine_fast.estimate(x, y, **QUICK).flags]


def test_what_the_rows_cannot_certify():
    """An information beyond reach: the estimate stays at or below the ln(n) of a fold, its bound below ln(n / 10)."""
    x = np.random.default_rng(0).integers(0, 2, (200, 20))
    r = mine_fast.estimate(x, x, steps=100)  # 13.9 nats
    assert "not_certifiable" in [flag.code for flag in r.flags]
    assert r.mi <= math.log(50) + 1e-9
    assert 0.5 < r.lower() < r.certifiable
    assert r.certifiable == pytest.approx(math.log(5))
    assert not mine_fast.estimate(*gaussian(1000, 0.5, 0)[:2], **QUICK).flags


def test_copies_stay_on_one_side_of_the_split(monkeypatch):
    """Of independent rows in four copies, a critic that memorises scores copies high unless they are kept together."""
    from mine_fast import estimator

    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 100, 10, generator=generator).repeat(1, 4, 1)
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 1))
    settings = {"steps": 200, "learning_rate": 3e-3}

    def fit():
        return mine_fast.MINE(critic, method="concat", seed=0).fit(x, y, **settings)

    kept = fit()
    monkeypatch.setattr(estimator, "duplicate_groups", lambda source: None)
    leaky = fit()
    assert leaky.mi > 0.3  # what the split has to prevent
    assert kept.mi < 0.05
    assert "duplicate_rows" in [flag.code for flag in kept.flags]


def test_progress_counts_every_fold_and_can_stop_the_work():
    calls = []
    x, y, _ = gaussian(200, 0.8, 0)
    mine_fast.estimate(x, y, progress=lambda *call: calls.append(call), **QUICK)
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert calls[-1][:2] == (240, 240)  # two networks a fold
    assert all(math.isfinite(call[2]) for call in calls)

    def stop(done, total, bound):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine_fast.estimate(x, y, progress=stop, **QUICK)


def test_divergence_is_an_error_not_a_number():
    x, y, _ = gaussian(200, 0.8, 0)
    critic = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    with pytest.raises(mine_fast.DivergenceError, match="lower learning_rate"):
        mine_fast.MINE(critic, method="concat").fit(x, y, learning_rate=1e30, max_grad_norm=1e30, steps=40)


GOOD = np.random.default_rng(0).standard_normal((50, 2))
BAD_DATA = [
    ({"x": GOOD[:, 0] * math.nan}, ValueError, "x"),
    ({"y": np.full(50, np.inf)}, ValueError, "y"),
    ({"y": GOOD[:-1]}, ValueError, "50.*49|49.*50"),
    ({"x": GOOD[:0], "y": GOOD[:0]}, ValueError, "x"),
    ({"x": GOOD[:1], "y": GOOD[:1]}, ValueError, "row"),
    ({"x": GOOD[:19], "y": GOOD[:19]}, ValueError, "at least 20 rows"),
    ({"x": np.array([f"id{i}" for i in range(50)])}, ValueError, "x must repeat its categories"),
    ({"x": GOOD.astype(complex)}, TypeError, "x.*complex"),
    ({"y": np.array([object()] * 50)}, TypeError, "y"),
    ({"x": None}, TypeError, "x"),
    ({"y": None}, TypeError, "y"),
    ({"x": GOOD[:, :0]}, ValueError, "x"),
    ({"x": GOOD[:, :, None]}, ValueError, "x"),
    ({"x": torch.randn(50), "y": torch.randn(50).double()}, TypeError, "float64"),
    ({"x": torch.randn(50), "y": torch.randn(50, device="meta")}, ValueError, "device|meta"),
    ({"loss": "kl"}, ValueError, "loss"),
    ({"alpha": 0}, ValueError, "alpha"),
    ({"steps": 0}, ValueError, "steps must be at least 1"),
    ({"steps": 1.5}, TypeError, "steps must be an int"),
    ({"batch_size": 1}, ValueError, "batch_size must be at least 2"),
    ({"folds": 1}, ValueError, "folds must be at least 2"),
    ({"folds": 20}, ValueError, "folds must leave"),
    ({"learning_rate": -1.0}, ValueError, "learning_rate"),
    ({"validation_fraction": 1.0}, ValueError, "validation_fraction"),
    ({"epochs": 3}, TypeError, "epochs is no setting.*batch_size"),
    ({"seed": 1.5}, TypeError, "seed must be an int"),
    ({"device": "nonsense"}, ValueError, "device"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_DATA)
def test_bad_input_names_the_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        mine_fast.estimate(**{"x": GOOD, "y": GOOD, **arguments})


def test_a_critic_that_cannot_be_trained():
    with pytest.raises(TypeError, match="T must be a torch"):
        mine_fast.MINE(lambda x, z: (x * z).sum(1)).fit(GOOD, GOOD)
    with pytest.raises(ValueError, match="T does not fit the data"):
        mine_fast.MINE(nn.Sequential(nn.Linear(3, 1)), method="concat").fit(GOOD, GOOD)
    frozen = nn.Sequential(nn.Linear(4, 1)).requires_grad_(False)
    with pytest.raises(ValueError, match="T has no trainable parameters"):
        mine_fast.MINE(frozen, method="concat").fit(GOOD, GOOD)


def test_numpy_numbers_are_numbers():
    x, y, _ = gaussian(100, 0.5, 0)
    settings = {"steps": np.int64(20), "folds": np.int32(2), "learning_rate": np.float32(1e-2), "seed": np.int64(3)}
    assert (
        mine_fast.estimate(x, y, **settings).mi
        == mine_fast.estimate(x, y, **{k: v.item() for k, v in settings.items()}).mi
    )
    assert mine_fast.MINE(alpha=np.float32(0.5)).alpha == 0.5


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_fits_whatever_mode_the_caller_is_in(mode, engine):
    x, y, _ = gaussian(200, 0.9, 0)
    expected = mine_fast.estimate(x, y, engine=engine, **QUICK).mi
    with mode():
        assert mine_fast.estimate(torch.tensor(x), torch.tensor(y), engine=engine, **QUICK).mi == expected


def test_values_at_the_edge_of_float64():
    x, y, truth = gaussian(2000, 0.9, 0)
    edge = np.finfo(np.float64).max / 5
    assert abs(mine_fast.estimate(x * edge / abs(x).max(), y, steps=80).mi - truth) < 0.15
    signs = mine_fast.estimate(np.where(x > 0, edge * 4.9, -edge * 4.9), y, steps=80).mi
    assert 0.3 < signs < math.log(2)
    assert abs(mine_fast.estimate(x * 1e-308, y, steps=80).mi - truth) < 0.15


def test_rows_that_the_critics_dtype_cannot_hold_are_an_error():
    critic = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    mine = mine_fast.MINE(critic, method="concat")
    for call in (mine.mi, mine.optimize, mine.fit):
        with pytest.raises(ValueError, match=r"[xX] has values beyond torch"):
            call(GOOD * 1e300, GOOD)
    with pytest.raises(mine_fast.DivergenceError, match="bound is"):
        mine_fast.MINE(lambda x, z: x[:, 0] * math.inf).mi(GOOD, GOOD)


def test_a_critic_worse_than_a_constant_is_flagged():
    critic = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    r = mine_fast.MINE(critic, method="concat").fit(GOOD * 1e20, GOOD * 1e20, **QUICK)
    assert r.mi < 0
    assert "below_zero" in [flag.code for flag in r.flags]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"progress": 3}, TypeError, "progress must be callable"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be a number"),
        ({"averaging": None, "weight_decay": "a"}, TypeError, "weight_decay must be a number"),
    ],
)
def test_more_bad_settings(arguments, error, message):
    with pytest.raises(error, match=message):
        mine_fast.estimate(GOOD, GOOD, **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="device must be one that torch can use"):
        mine_fast.estimate(GOOD, GOOD, device="cuda")


def test_an_optimiser_of_something_else_is_refused():
    critic = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    with pytest.raises(ValueError, match="opt must hold parameters of T"):
        mine_fast.MINE(critic, method="concat").optimize(GOOD, GOOD, opt=torch.optim.Adam(nn.Linear(2, 2).parameters()))


@pytest.mark.parametrize("default", [False, True])
def test_training_before_a_fit_does_not_leak_into_it(default):
    """Of independent rows that T has memorised before, and of several fits in a row."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 5, generator=generator), torch.randn(200, 5, generator=generator)
    torch.manual_seed(0)
    critic = None if default else nn.Sequential(nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 1))
    mine = mine_fast.MINE(critic, method=None if default else "concat", seed=0)
    if not default:
        opt = torch.optim.Adam(mine.parameters(), lr=5e-3)
        assert mine.optimize(x, y, iters=300, batch_size=100, opt=opt) > 0.5  # memorised
    first = mine.fit(x, y, seed=1, **QUICK)
    assert first.mi < 0.05
    mine.fit(x, y, seed=2, **QUICK)
    assert mine.fit(x, y, seed=1, **QUICK).mi == first.mi


def test_a_result_keeps_some_scores_and_the_memory_of_no_others():
    x, y, _ = gaussian(3001, 0.5, 0)
    r = mine_fast.estimate(x, y, **QUICK)
    assert 5000 < r.marginal_scores.size <= 10_000
    assert r.joint_scores.size == 3001
    for scores in (r.joint_scores, r.marginal_scores):
        whole = scores
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        assert whole.nbytes == scores.nbytes
        assert whole.base is None


def test_seeds_beyond_64_bits_are_refused():
    mine = mine_fast.MINE(nn.Sequential(nn.Linear(2, 1)), method="concat")
    for call in (mine_fast.estimate, mine.fit):
        with pytest.raises(ValueError, match=r"seed must fit in 64 bits, in \[-2\^63, 2\^64\), got 368934881474191032"):
            call(GOOD, GOOD, seed=2**65)


def test_a_fitted_default_critic_fits_other_data_and_scores_with_all_digits():
    x, y, _ = gaussian(400, 0.9, 0)
    mine = mine_fast.MINE()
    mine.fit(x, y, **QUICK)
    shifted = 1.7e9 + x
    again = mine.fit(shifted, y, **QUICK)
    assert again.mi == pytest.approx(mine_fast.estimate(shifted, y, **QUICK).mi, abs=1e-6)
    assert float(mine.mi(shifted, y)) > 0.3
    mine.fit(np.column_stack([x, x]), y, **QUICK)  # another width


def test_scores_that_are_not_finite_are_an_error():
    x, y, _ = gaussian(60, 0.5, 0)

    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Linear(2, 1)

        def forward(self, x, z):
            return self.layers(torch.cat([x, z], 1)) + torch.log(torch.clamp(2.0 - x, max=1.0))

    with pytest.raises(mine_fast.DivergenceError):
        mine_fast.MINE(Broken()).fit(x * 3, y, steps=1, batch_size=2, folds=2)
