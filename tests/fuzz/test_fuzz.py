"""A few thousand cases of `python -m tests.fuzz`, and that it sees what it looks for."""

from __future__ import annotations

from .planted import TARGETS as PLANTED
from .run import run, targets

CASES = 3600


def test_nothing_crashes_hangs_or_lies() -> None:
    names = list(targets())
    outcomes = run(names, seed=0, cases=CASES)
    failures = {name: outcome.failures for name, outcome in outcomes.items() if outcome.failures}
    assert not failures, failures
    assert sum(outcome.cases for outcome in outcomes.values()) == CASES
    for name, outcome in outcomes.items():  # a target that refuses all of its cases looks no further than the door
        assert outcome.refused > 0, name
        assert outcome.refused < outcome.cases or name == "engine.unmade", name


def test_planted_faults_are_seen_and_the_rest_goes_on() -> None:
    outcomes = run(list(PLANTED), seed=0, cases=len(PLANTED), hang_seconds=3)
    found = {name.split(".")[1]: [what for _, what in outcome.failures] for name, outcome in outcomes.items()}
    assert found["crash"] == ["it ends the process, exit code -11"]
    assert found["hang"] == ["it hangs"]
    assert ["NaN in silence" in what for what in found["lie"]] == [True]
    assert ["KeyError" in what for what in found["other_error"]] == [True]
    assert ["without a message" in what for what in found["no_message"]] == [True]
    assert found["fine"] == []
    assert all(outcome.cases == 1 for outcome in outcomes.values())
