"""`MINE` and `estimate_many` over several processes: the numbers of one process, and what happens when one is lost."""

from __future__ import annotations

import pytest
import torch
from distributed_jobs import SIZES, Case, in_one_process, spread, start

from mine_fast.bounds import LOSSES

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
