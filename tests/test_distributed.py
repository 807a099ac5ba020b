"""`MINE` and `estimate_many` over several processes: the numbers of one process, and what happens when one is lost."""

from __future__ import annotations

import pytest
import torch
from distributed_jobs import (
    EXTREMES,
    SIZES,
    Case,
    Product,
    batch,
    extreme_rows,
    in_one_process,
    make_critic,
    oddities,
    spread,
    start,
)

import mine_fast
from mine_fast import bounds, reference
from mine_fast.bounds import LOSSES
from mine_fast.ops import shuffle_key

CASES = [
    *(
        Case(loss, marginals, shuffles=None if marginals == "all" else 2)
        for loss in LOSSES
        for marginals in ("shuffle", "global", "all")
    ),
    *(
        Case(loss, marginals, "opaque", "float64", 1)
        for loss in ("mine", "smile")
        for marginals in ("shuffle", "global")
    ),
    *(Case(loss, "all", "opaque", "float64") for loss in ("mine", "js", "infonce")),
    *(
        Case(loss, marginals, "separable", shuffles=1)
        for loss in ("mine", "infonce")
        for marginals in ("shuffle", "global")
    ),
]


@pytest.fixture(scope="module", params=[2, 3])
def world(request):
    return request.param


@pytest.fixture(scope="module")
def found(world, tmp_path_factory):
    outcomes = start(world, spread, tmp_path_factory.mktemp("cases"), CASES)
    assert [outcome.exit_code for outcome in outcomes] == [0] * world
    return [outcome.result for outcome in outcomes]


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: "-".join(str(v) for v in CASES[n] if v is not None))
def test_processes_give_the_numbers_of_one(number, world, found):
    """Value, moving average, gradients of parameters and inputs, and where three steps lead, also of uneven batches."""
    case = CASES[number]
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if case.dtype == "float32" else {"rtol": 1e-10, "atol": 1e-12}
    expected = in_one_process(case, world)
    for rank in range(world):
        one = found[rank][number]
        torch.testing.assert_close(one["loss"], expected["loss"], **tolerance)
        torch.testing.assert_close(one["log_ema"], expected["log_ema"], **tolerance, check_dtype=False)
        for step, sizes in enumerate(SIZES[world]):
            for side in ("x", "z"):
                torch.testing.assert_close(one[side][step], expected[side][step].split(sizes)[rank], **tolerance)
            torch.testing.assert_close(one["gradient"][step], expected["gradient"][step], **tolerance)
        torch.testing.assert_close(one["parameters"], expected["parameters"], **tolerance)
        # The same bits everywhere, or the processes drift apart.
        for name in ("loss", "log_ema", "parameters"):
            assert all(map(torch.equal, one[name], found[0][number][name]))


# What may go wrong ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    outcomes = start(3, oddities, tmp_path_factory.mktemp("oddities"))
    assert [outcome.exit_code for outcome in outcomes] == [0, 0, 0]
    return [outcome.result for outcome in outcomes]


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("loss", ["mine", "mine_biased", "smile", "infonce"])
def test_scores_of_one_process_that_exp_cannot_take(loss, extreme, odd):
    """The numbers of one process in float64; where those are not finite, it shows, and nobody is left waiting."""
    critic = Product()
    rows = [[side.double().requires_grad_() for side in extreme_rows(rank, extreme)] for rank in range(3)]
    partners = reference.shuffle_index(shuffle_key(3), 4, 3 if loss == "infonce" else 1)
    joint = torch.cat([critic(x, z) for x, z in rows])
    marginal = torch.cat([critic(x, z[p]) for p in partners for x, z in rows])
    scores, log_ema = torch.cat([joint, marginal]), torch.tensor(-torch.inf, dtype=torch.float64)
    fused = bounds.fused_name(loss)
    if fused:
        expected, new_log_ema, _ = reference.dv_term(scores, 12, log_ema, 0.1, fused)
        log_ema = new_log_ema if loss == "mine" else log_ema
    else:
        expected = bounds.loss_of_scores(scores, 12, loss, 5.0)
    expected.backward()
    same = {"rtol": 1e-5, "atol": 1e-5, "check_dtype": False}
    for rank, (x, z) in enumerate(rows):
        found = odd[rank][loss, extreme]
        torch.testing.assert_close(found["log_ema"], log_ema, **same)
        assert torch.isfinite(found["loss"]) == torch.isfinite(expected)
        if torch.isfinite(expected):
            torch.testing.assert_close(found["loss"], expected.detach(), **same)
            torch.testing.assert_close(found["x"] / 3, x.grad, **same)
            torch.testing.assert_close(found["z"] / 3, z.grad, **same)


def test_a_process_whose_marginal_scores_weigh_nothing(odd):
    for rank in range(3):
        found = odd[rank]["no weight"]
        torch.testing.assert_close(found["loss"], torch.tensor(2 / 3).log())
        torch.testing.assert_close(found["joint"] / 3, torch.full((4,), -1 / 12))
        torch.testing.assert_close(found["levels"] / 3, torch.full((4,), 0.0 if rank == 1 else 1 / 8))


@pytest.mark.parametrize("rank", range(3))
def test_a_batch_without_pairs_is_refused_by_all(rank, odd):
    for marginals in ("shuffle", "all", "global"):
        wanted = "in all processes together, got 0" if marginals == "global" else "spread over 3 processes"
        assert wanted in odd[rank][f"no rows, {marginals}"]
    for marginals in ("shuffle", "all"):  # two rows make a pair, if they may meet
        assert "need at least 2 rows in a process" in odd[rank][f"no pairs, {marginals}"]
    assert torch.isfinite(odd[rank]["no pairs, global"])
    assert "z must have the same columns in all processes, got [1, 2, 1]" in odd[rank]["columns"]


def test_processes_use_the_shuffle_of_the_first(odd):
    critic, method = make_critic("stack")
    mine = mine_fast.MINE(critic, "mine", 0.1, method, seed=0)
    x, z = batch(24, 0)
    x = x[:, :2]
    expected = mine(x, z).detach()
    for found in odd:
        torch.testing.assert_close(found["loss"], expected)
        torch.testing.assert_close(found["mi"], [mine.mi(x, z)] * 2)
        torch.testing.assert_close(found["z_marg"], mine.mi(x, z, torch.cat([part.flip(0) for part in z.split(8)])))
        assert found["state is kept"]


def test_autocast_keeps_the_loss_in_float32(odd):
    critic, method = make_critic("stack")
    mine = mine_fast.MINE(critic, "mine", 0.1, method, seed=0)
    x, z = batch(24, 0)
    mine(x[:, :2], z)
    expected = mine(x[:, :2], z)
    expected.backward()
    gradient = torch.cat([p.grad.flatten() for p in critic.parameters()])
    for found in odd:
        assert found["autocast"].dtype == torch.float32
        assert abs(found["autocast"] - expected.detach()) < 0.02  # bfloat16 has 8 bits
        assert torch.nn.functional.cosine_similarity(found["autocast gradient"], gradient, dim=0) > 0.99


def test_what_a_process_weighs_counts_for_all(odd):
    for found in odd:
        for side in ("x", "z"):
            torch.testing.assert_close(found["weights"][side], 2 * found["weight 1"][side])


def test_what_is_not_for_several_processes_says_so(odd):
    for found in odd:
        assert "optimize trains in one process" in found["optimize"]
        assert "fit trains in one process" in found["fit"]
        assert "can be differentiated once" in found["second derivative"]
