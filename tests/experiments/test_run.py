"""The plumbing of experiments: what is written, what an interrupted run goes on with, several seeds together."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import mine_fast
from mine_fast.cli import main
from mine_fast.experiments import SUMMARIES, load
from mine_fast.experiments.experiment import PRESETS, Experiment
from mine_fast.experiments.figures import panels
from mine_fast.experiments.records import aggregate
from mine_fast.experiments.run import drawing_from
from mine_fast.experiments.runner import run_seed, run_seeds
from mine_fast.plain_json import plain


@dataclass(frozen=True)
class Settings:
    steps: int = 6
    rate: float = 1e-2
    sizes: tuple[int, ...] = (4, 8)
    arm: str = "both"


def _train(run, alpha):
    """MINE between two halves of noise drawn by every generator there is, with dropout: all state that counts."""
    critic = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
    mine = run.fabric.to_device(mine_fast.MINE(critic, method="concat", alpha=alpha))
    optimizer = torch.optim.Adam(mine.parameters(), lr=run.settings.rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    numpy, generator, losses, latest = run.generator(3), torch.Generator().manual_seed(5), [], {}
    for step in run.loop(
        run.settings.steps,
        mine=mine,
        optimizer=optimizer,
        schedule=schedule,
        numpy=numpy,
        generator=generator,
        losses=losses,
        latest=latest,
    ):
        x = torch.randn(32, 1) + torch.randn(32, 1, generator=generator)
        y = x + torch.from_numpy(numpy.standard_normal((32, 1))).float()
        loss = mine(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        latest["step"] = step
        run.log(step, loss=loss)
    return {"losses": losses, "latest": latest["step"], "ema": mine.log_ema}


def _run(run):
    between = torch.randn(2)  # outside the parts, whether or not they were made before
    first = run.part("first arm", lambda: _train(run, 0.01))
    middle = torch.randn(2)
    second = run.part("second/arm", lambda: _train(run, 0.5))
    figure, axes = panels(1, 2)
    axes[0, 1].plot(first["losses"])
    run.save_figure("curve", figure)
    return {"first": first, "second": second, "drawn": [between, middle], "seed": run.seed}


TOY = Experiment("toy", {name: Settings() for name in PRESETS}, _run)


@pytest.mark.parametrize("call", [1, 3, 7, 9])
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 60.0])
def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(tmp_path, interrupted, call, checkpoint_seconds):
    whole = run_seed(TOY, "smoke", tmp_path / "whole", 1)
    with interrupted(call):
        run_seed(TOY, "smoke", tmp_path / "broken", 1, checkpoint_seconds=checkpoint_seconds)
    assert not (tmp_path / "broken" / "metrics.json").exists()
    assert run_seed(TOY, "smoke", tmp_path / "broken", 1) == whole
    assert whole["first"]["losses"] != whole["second"]["losses"]
    assert len(whole["first"]["losses"]) == 6
    assert whole["first"]["latest"] == 5


def test_what_was_done_is_not_done_again(tmp_path, interrupted, monkeypatch):
    steps = []
    forward = mine_fast.MINE.forward
    monkeypatch.setattr(mine_fast.MINE, "forward", lambda self, *xs: (steps.append(1), forward(self, *xs))[1])
    with interrupted(9):  # 6 of the first arm, 2 of the second
        run_seed(TOY, "smoke", tmp_path, checkpoint_seconds=0.0)
    steps.clear()
    run_seed(TOY, "smoke", tmp_path)
    assert len(steps) == 4
    steps.clear()
    run_seed(TOY, "smoke", tmp_path)  # finished: read, not run
    assert steps == []


def test_two_seeds_differ_and_torch_is_left_alone(tmp_path):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    a, b = (run_seed(TOY, "smoke", tmp_path / str(seed), seed) for seed in (0, 1))
    assert a["first"]["losses"] != b["first"]["losses"]
    assert torch.equal(torch.get_rng_state(), before)


def test_files(tmp_path):
    run_seeds(TOY, "quick", tmp_path, [0, 2], overrides=["steps=3", "rate=1"])
    config = json.loads((tmp_path / "seed-2" / "config.json").read_text())
    assert config["settings"] == {"steps": 3, "rate": 1.0, "sizes": [4, 8], "arm": "both"}
    assert config["versions"]["torch"] == torch.__version__
    assert (config["experiment"], config["preset"], config["seed"]) == ("toy", "quick", 2)
    values = [json.loads((tmp_path / f"seed-{s}" / "metrics.json").read_text())["metrics"] for s in (0, 2)]
    together = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    losses = np.array([value["first"]["losses"] for value in values])
    np.testing.assert_allclose(together["first"]["losses"]["mean"], losses.mean(0))
    np.testing.assert_allclose(together["first"]["losses"]["sd"], losses.std(0, ddof=1))
    assert together["seed"]["values"] == [0, 2]
    assert (tmp_path / "seed-0" / "curve.png").read_bytes().startswith(b"\x89PNG")
    rows = (tmp_path / "seed-0" / "logs" / "version_0" / "metrics.csv").read_text()
    assert "first arm/loss" in rows
    assert list((tmp_path / "seed-0" / "logs").rglob("events.out.tfevents*"))
    assert not list(tmp_path.rglob(".mine-fast-*"))
    assert not list(tmp_path.rglob("*.pt"))


def test_a_folder_of_another_run_is_refused(tmp_path):
    run_seed(TOY, "smoke", tmp_path, 0, overrides=["steps=2"])
    with pytest.raises(ValueError, match=r"holds another run \(seed 0 there, 1 wanted\)"):
        run_seed(TOY, "smoke", tmp_path, 1, overrides=["steps=2"])
    with pytest.raises(ValueError, match="settings"):
        run_seed(TOY, "smoke", tmp_path, 0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("step=3", "field=value of a field in steps, rate, sizes, arm, got 'step=3'"),
        ("steps", "field=value"),
        ("steps=3.5", "--set steps must be a int such as 6"),
        ("steps=six", "no Python value"),
        ("rate='a'", "must be a float"),
    ],
)
def test_wrong_overrides(override, message):
    with pytest.raises(ValueError, match=message):
        TOY.settings("smoke", [override])


def test_overrides():
    assert TOY.settings("smoke", ["sizes=3", "arm=one"]) == Settings(sizes=(3,), arm="one")
    assert TOY.settings("smoke", ["sizes=[3, 5]"]).sizes == (3, 5)
    with pytest.raises(ValueError, match="preset must be one of smoke, quick, paper, got 'slow'"):
        TOY.settings("slow")


def test_parts_do_not_nest(tmp_path):
    nested = Experiment("nested", TOY.presets, lambda run: run.part("a", lambda: run.part("b", dict)))
    with pytest.raises(RuntimeError, match="part 'b' is inside part 'a'"):
        run_seed(nested, "smoke", tmp_path)


def test_a_loop_takes_state_that_it_can_restore(tmp_path):
    wrong = Experiment("wrong", TOY.presets, lambda run: dict.fromkeys(run.loop(1, count=3)))
    with pytest.raises(TypeError, match="got int"):
        run_seed(wrong, "smoke", tmp_path)


def test_aggregate():
    assert aggregate([1, 3]) == {"mean": 2.0, "sd": 2**0.5, "values": [1, 3]}
    assert aggregate([2.0]) == {"mean": 2.0, "sd": None, "values": [2.0]}
    assert aggregate([[1.0, 2.0], [3.0, 2.0]]) == {
        "mean": [2.0, 2.0],
        "sd": [2**0.5, 0.0],
        "values": [[1.0, 2.0], [3.0, 2.0]],
    }
    assert aggregate([None, 2.0]) == {"values": [None, 2.0]}
    assert aggregate([[1], [1, 2]]) == {"values": [[1], [1, 2]]}
    assert aggregate(["a", "a"]) == "a"
    assert aggregate([True, False]) == {"values": [True, False]}
    assert aggregate([{"a": 1.0}, {"b": 2.0}]) == {"a": {"values": [1.0, None]}, "b": {"values": [None, 2.0]}}


def test_plain_numbers():
    assert plain({1: (np.int64(2), torch.tensor(0.5)), "x": np.array([np.inf, 1.0])}) == {
        "1": [2, 0.5],
        "x": [None, 1.0],
    }


# On the command line --------------------------------------------------------------------------------------------------


def test_list(capsys):
    assert main(["experiment", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SUMMARIES)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", SUMMARIES)
def test_settings_are_printed_as_set_reads_them(name, preset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["experiment", name, "--preset", preset, "--settings"]) == 0
    printed = capsys.readouterr().out.splitlines()
    settings = load(name).settings(preset)
    for other in PRESETS:  # whatever the preset has, all of them together make it the first one
        assert load(name).settings(other, printed) == settings
    assert list(tmp_path.iterdir()) == []


def test_settings_are_printed_with_what_set_changes(capsys):
    assert main(["experiment", "gaussian", "--settings", "--set", "rows=70", "--set", "dimensions=3"]) == 0
    assert {"rows=70", "dimensions=(3,)"} < set(capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "experiment needs a NAME, or --list"),
        (["gausian"], "experiment must be one of gaussian, "),
        (["gaussian", "--preset", "slow"], "preset must be one of smoke, quick, paper, got 'slow'"),
        (["gaussian", "--set", "what=3"], "--set must be field=value"),
        (["gaussian", "--set", "what=3", "--settings"], "--set must be field=value"),
        (["gaussian", "--set", "correlations=(0.5, -1.0)"], "correlations must lie between -1 and 1, got (0.5, -1.0)"),
        (["gaussian", "--jobs", "2"], "--jobs needs --seeds"),
        (["gaussian", "--seeds", "0-1", "--jobs", "0"], "jobs must be at least 1, got 0"),
    ],
)
def test_bad_usage(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["experiment", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seeds", ["a", "3-1", "1,", "-1"])
def test_bad_seeds(seeds, capsys):
    with pytest.raises(SystemExit):
        main(["experiment", "gaussian", f"--seeds={seeds}"])
    assert "such as 0-4 or 0,3,7" in capsys.readouterr().err


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mine_fast.experiments.load", lambda name: TOY)
    arguments = ["experiment", "toy", "--preset", "smoke", "--set", "steps=2"]
    assert main([*arguments, "--out", str(tmp_path / "one"), "--seed", "3"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'one' / 'metrics.json'}\n"
    assert json.loads((tmp_path / "one" / "metrics.json").read_text())["seed"] == 3
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--seeds", "0-1"]) == 0
    assert json.loads((tmp_path / "runs" / "toy-smoke" / "metrics.json").read_text())["seeds"] == [0, 1]


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_name_is_an_experiment_with_every_preset(name):
    experiment = load(name)
    assert experiment.name == name
    assert tuple(experiment.presets) == PRESETS


def test_the_extra_is_named_where_a_package_is_missing(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'lightning_fabric'", name="lightning_fabric")

    monkeypatch.setattr("mine_fast.experiments.import_module", missing)
    with pytest.raises(ImportError, match=r"need lightning_fabric: pip install '\.\[experiments\]' in the repository"):
        load("gaussian")


def test_a_folder_is_of_one_seed_or_of_several(tmp_path):
    """The default folder is the same for both."""
    one = run_seed(TOY, "smoke", tmp_path / "one", 3)
    with pytest.raises(ValueError, match="seed 3 there, None wanted"):
        run_seeds(TOY, "smoke", tmp_path / "one", [3])
    assert run_seed(TOY, "smoke", tmp_path / "one", 3) == one
    run_seeds(TOY, "smoke", tmp_path / "several", [3])
    with pytest.raises(ValueError, match="seed None there, 3 wanted"):
        run_seed(TOY, "smoke", tmp_path / "several", 3)


def test_the_device_that_is_recorded_is_the_one_that_computed(tmp_path):
    with pytest.raises(Exception, match="accelerator"):
        run_seed(TOY, "smoke", tmp_path, device="abacus")
    run_seed(TOY, "smoke", tmp_path, device="cpu")
    assert json.loads((tmp_path / "metrics.json").read_text())["device"] == "cpu"
    assert "device" not in json.loads((tmp_path / "config.json").read_text())


def test_a_part_that_is_named_twice_is_refused(tmp_path):
    def twice(run):
        run.part("beta 1", lambda: 1)
        run.part("beta 1", lambda: 2)

    with pytest.raises(ValueError, match="two parts of the run are called 'beta 1'"):
        run_seed(Experiment("twice", {"smoke": Settings()}, twice), "smoke", tmp_path)


def test_draws_from_a_stream_leave_those_of_others_and_go_on():
    torch.manual_seed(0)
    expected = torch.rand(4)
    stream, alone = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    torch.manual_seed(0)
    found = [torch.rand(2)]
    with drawing_from(stream):
        first = torch.rand(3)
    found.append(torch.rand(2))
    with drawing_from(stream):
        second = torch.rand(3)
    assert torch.equal(torch.cat(found), expected)
    assert torch.equal(torch.cat([first, second]), torch.cat([torch.rand(3, generator=alone) for _ in range(2)]))


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("gan-spiral", "looks=0", "looks must be at least 1, got 0"),
        ("gan-spiral", "batch=1", "batch must be at least 2, got 1"),
        ("gan-stacked-mnist", "samples=0", "samples must be at least 1, got 0"),
        ("bigan-mnist", "steps=0", "steps must be at least 1, got 0"),
        ("gan-25gaussians", "betas=()", "betas must be one or more"),
        ("bigan-25gaussians", "betas=(1.0,1.0000001)", "differ in six digits"),
        ("information-plane", "activations=tanh,gelu", "activations must be some of 'tanh', 'relu'"),
        ("gan-spiral", "betas=no", "is no Python value such as"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, override, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_seed(load(name), "smoke", tmp_path / "runs", overrides=[override])
    assert not (tmp_path / "runs").exists()


def test_an_experiment_that_diverges_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    def diverging(run):
        raise mine_fast.DivergenceError("training diverged")

    monkeypatch.setattr("mine_fast.experiments.load", lambda name: Experiment("toy", {"smoke": Settings()}, diverging))
    assert main(["experiment", "toy", "--preset", "smoke", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "mine-fast: error: training diverged\n"
