"""`MINE` and `estimate_many` over several processes: the numbers of one process, and what happens when one is lost."""

from __future__ import annotations

import copy
import signal

import pytest
import torch
import torch.distributed as dist
from distributed_jobs import (
    EXTREMES,
    KILLED_AFTER,
    QUICK,
    SAVE_EVERY,
    SIZES,
    STEPS,
    Case,
    Product,
    absent,
    as_saved,
    batch,
    example_training,
    extreme_rows,
    in_one_process,
    make_critic,
    many_pairs,
    oddities,
    shared_estimates,
    spread,
    start,
    wrappers,
)

import mine_fast
from mine_fast import bounds, reference
from mine_fast.bounds import LOSSES
from mine_fast.ops import shuffle_key

EVERY_CASE = [
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
#: By the number of processes.
CASES = {2: EVERY_CASE[::2], 3: EVERY_CASE}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What two processes found, by job."""
    folder = tmp_path_factory.mktemp("two")
    jobs = [
        (spread, (CASES[2],)),
        (shared_estimates, ()),
        (wrappers, ()),
        (example_training, (folder / "example",)),
        (absent, (folder,)),
    ]
    return results(start(2, jobs, folder / "processes"))


@pytest.fixture(scope="module")
def of_three(tmp_path_factory):
    """What three processes found, by job."""
    return results(start(3, [(spread, (CASES[3],)), (oddities, ())], tmp_path_factory.mktemp("three")))


def results(outcomes):
    """By job, then by rank."""
    assert [outcome.exit_code for outcome in outcomes] == [0] * len(outcomes)
    return {job: [outcome.results[job] for outcome in outcomes] for job in outcomes[0].results}


@pytest.fixture
def odd(of_three):
    return of_three["oddities"]


@pytest.mark.parametrize(
    ("world", "case"),
    [(world, case) for world, cases in CASES.items() for case in cases],
    ids=lambda value: "-".join(str(part) for part in value if part is not None) if isinstance(value, Case) else value,
)
def test_processes_give_the_numbers_of_one(world, case, request):
    """Value, moving average, gradients of parameters and inputs, and where three steps lead, also of uneven batches."""
    found, number = request.getfixturevalue("of_two" if world == 2 else "of_three")["spread"], CASES[world].index(case)
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


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("loss", ["mine", "smile", "infonce"])
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
        log_ema = new_log_ema
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
    torch.testing.assert_close(odd[rank]["z_marg without rows"], odd[0]["z_marg without rows"])
    assert torch.isfinite(odd[rank]["z_marg without rows"])
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


def test_fabric_and_compile_change_nothing(of_two):
    for found in of_two["wrappers"]:
        for name in ("fabric", "compiled"):
            torch.testing.assert_close(found[name], found["ddp"], rtol=1e-6, atol=1e-7)
        assert "torch.compiler.disable" in found["whole graph"]


# Estimates shared between processes -----------------------------------------------------------------------------------


def test_shared_estimates_are_those_of_one_process(of_two):
    pairs = many_pairs()
    many = as_saved(mine_fast.estimate_many(pairs, **QUICK))
    seeds = as_saved([mine_fast.estimate(*pairs[0], n_seeds=3, **QUICK)])
    one = as_saved([mine_fast.estimate(*pairs[0], **QUICK)])
    for found in of_two["shared_estimates"]:
        assert found["many"][:-1] == many[:-1]
        assert many[-1] == "pair 5 failed: LongError: these are unreadable"
        assert found["many"][-1].endswith("LongError: these are unreadable")
        assert found["seeds"] == found["three seeds"] == seeds
        assert found["one seed"] == one


def test_progress_counts_the_share_of_a_process(of_two):
    for found in of_two["shared_estimates"]:
        done, steps = zip(*found["progress"], strict=True)
        assert len(set(steps)) == 1
        assert done[-1] == steps[-1] > 0
        assert list(done) == sorted(done)


def test_a_process_that_fails_tells_the_others(of_two):
    first, second = of_two["shared_estimates"]
    assert first["failed"] == "rank 1 of 2 failed: RuntimeError: LongError: enough of it"
    assert second["failed"] == "enough of it"
    for found in (first, second):
        assert found["unequal"] == "every process of process_group must be given the same pairs, got [1, 2] of them"


# Training that loses a process ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    """What came of a training that lost its second process, and of the one that went on with it."""
    folder = tmp_path_factory.mktemp("lost")
    interrupted = start(2, [(example_training, (folder / "example", 1))], folder / "first", timeout=20)
    resumed = start(2, [(example_training, (folder / "example",))], folder / "second")
    return interrupted, results(resumed)["example_training"]


def test_a_killed_process_ends_the_others_with_an_error(lost):
    survivor, killed = lost[0]
    assert killed.exit_code == -signal.SIGKILL
    found = survivor.results["example_training"]
    # And not that it timed out.
    assert "Connection closed by peer" in found["error"] or "Connection reset by peer" in found["error"]
    assert list(found["losses"]) == list(range(KILLED_AFTER + 1))


def test_training_goes_on_from_its_checkpoint_with_the_same_numbers(lost, of_two):
    for rank, found in enumerate(lost[1]):
        whole = of_two["example_training"][rank]
        assert list(found["losses"]) == list(range(KILLED_AFTER + 1 - (KILLED_AFTER + 1) % SAVE_EVERY, STEPS))
        assert found["losses"] == {step: whole["losses"][step] for step in found["losses"]}
        for name, value in whole["state"].items():
            assert torch.equal(found["state"][name], value), name


def test_a_process_that_does_not_come_is_missed_within_the_timeout(of_two):
    assert of_two["absent"][0].startswith("rank 0 of 2 could not meet the other processes: one of them has ended, or")
    assert "Timed out" in of_two["absent"][0]


# In one process -------------------------------------------------------------------------------------------------------


def test_the_world_of_one_process_is_that_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    x, z = batch(20, 0)
    x = x[:, :2]
    critic, method = make_critic("stack")
    alone = mine_fast.MINE(critic, "mine", 0.1, method, seed=3)
    for marginals in ("shuffle", "global"):
        mine = mine_fast.MINE(critic, "mine", 0.1, method, seed=3, marginals=marginals, process_group="world")
        alone.load_state_dict(mine.state_dict())
        assert torch.equal(mine(x, z), alone(x, z))
        copied = copy.deepcopy(mine)
        assert torch.equal(copied.mi(x, z), alone.mi(x, z))
        with pytest.raises(ValueError, match="at least 2 rows: a batch of 0"):
            mine(x[:0], z[:0])
    assert "marginals='global', shuffles=1, process_group='world'" in repr(mine)
    assert copied.fit(x, z, **QUICK).mi == alone.fit(x, z, **QUICK).mi
    pairs = many_pairs()[:1]
    shared = as_saved(mine_fast.estimate_many(pairs, process_group="world", **QUICK))
    assert shared == as_saved(mine_fast.estimate_many(pairs, **QUICK))


def test_a_launched_process_that_has_not_joined_is_told_to(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    mine = mine_fast.MINE(Product(), seed=3, process_group="world")
    with pytest.raises(RuntimeError, match=r"WORLD_SIZE=4 needs torch\.distributed\.init_process_group"):
        mine(*extreme_rows(0, "high"))
    with pytest.raises(RuntimeError, match="WORLD_SIZE=4"):
        mine_fast.estimate_many(many_pairs()[:1], process_group="world")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"process_group": "auto"}, ValueError, "process_group must be None, 'world' or a ProcessGroup, got 'auto'"),
        ({"process_group": 3}, TypeError, "or a ProcessGroup, got int"),
        ({"process_group": dist.GroupMember.NON_GROUP_MEMBER}, ValueError, "is a member of, got one of others"),
        ({"marginals": "global"}, ValueError, "it needs a process_group, got None"),
        ({"marginals": "local"}, ValueError, "marginals must be one of shuffle, global, all, got 'local'"),
    ],
)
def test_bad_groups(arguments, error, message):
    with pytest.raises(error, match=message):
        mine_fast.MINE(Product(), **arguments)
