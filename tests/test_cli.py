"""The command line: what it passes on, what it prints where, and how it ends; a few runs as processes of their own."""

import io
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import mine_fast
from mine_fast import cli, info
from mine_fast.errors import DivergenceError
from mine_fast.progress_bar import ProgressBar
from mine_fast.result import Flag, History, MIResult

RESULT = MIResult(
    mi=0.829,
    stderr=0.016,
    p_value=0.005,
    n=3000,
    flags=(Flag("few_rows", "few rows were held out"),),
    history=History([[0, 50]], [[0.0, 0.8]], [[0.0, 0.81]]),
    seed=3,
    joint_scores=np.arange(5.0),
    marginal_scores=-np.arange(5.0),
)
QUICK = ("--steps", "10", "--folds", "2")


@pytest.fixture
def table(tmp_path):
    """A csv file of correlated columns, and one of text."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    y = x + 0.3 * rng.normal(size=200)
    path = tmp_path / "data.csv"
    path.write_text("x,y,kind\n" + "".join(f"{a},{b},{'a' if a > 0 else 'b'}\n" for a, b in zip(x, y, strict=True)))
    return path


class Terminal(io.StringIO):
    def isatty(self):
        return True


class FakeEstimate:
    """Stands in for `mine_fast.estimate`: notes how it was called, and reports progress as it does."""

    def __init__(self):
        self.calls = []
        self.error = None

    def __call__(self, x, y=None, **options):
        self.calls.append((x, y, options))
        if options["progress"] is not None:
            for done, mi in ((0, math.nan), (50, 0.5), (100, 0.8)):
                options["progress"](done, 100, mi)
        if self.error is not None:
            raise self.error
        return RESULT


@pytest.fixture
def estimate(monkeypatch):
    fake = FakeEstimate()
    monkeypatch.setattr(mine_fast, "estimate", fake)
    return fake


def run(*arguments):
    """Run in this process; usage errors leave through SystemExit."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


def process(*arguments, **options):
    command = [sys.executable, "-m", "mine_fast", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


# --- estimate ---------------------------------------------------------------------------------------------------------


def test_prints_the_result(table, estimate, capsys):
    assert run("estimate", table, "--x", "x", "--y", "y") == 0
    out, err = capsys.readouterr()
    assert out == f"{RESULT}\n"
    assert err == ""
    x, y, options = estimate.calls[0]
    assert x.shape == y.shape == (200, 1)
    assert options == {
        "seed": 0,
        "device": None,
        "folds": None,
        "steps": None,
        "batch_size": None,
        "learning_rate": None,
        "progress": None,
    }


def test_passes_every_option_on(table, estimate):
    settings = ("--seed", 7, "--folds", 3, "--steps", 40, "--batch-size", 64, "--learning-rate", 2e-3)
    assert run("estimate", table, "--y", "0", "--x", "-2,-1", *settings, "--device", "cpu") == 0
    x, y, options = estimate.calls[0]
    assert x.shape == (200, 2)
    assert y.shape == (200, 1)
    assert options == {
        "seed": 7,
        "device": "cpu",
        "folds": 3,
        "steps": 40,
        "batch_size": 64,
        "learning_rate": 2e-3,
        "progress": None,
    }


def test_json_is_all_of_stdout(table, estimate, capsys):
    assert run("estimate", table, "--x", "x,kind", "--y", "y", "--json") == 0
    out, err = capsys.readouterr()
    values = json.loads(out)
    assert values["mi"] == 0.829
    assert values["flags"] == [{"code": "few_rows", "level": "warning", "message": "few rows were held out"}]
    assert (values["file"], values["x_columns"], values["y_columns"]) == (str(table), ["x", "kind"], ["y"])
    assert re.match(r"column 'kind' is text: 2 categories", values["notes"][0])
    assert err == ""


def test_notes_go_to_stderr(table, estimate, capsys):
    assert run("estimate", table, "--x", "kind", "--y", "y") == 0
    out, err = capsys.readouterr()
    assert out == f"{RESULT}\n"
    assert err.startswith("mine-fast: note: column 'kind' is text")


def test_bits(table, estimate, capsys):
    assert run("estimate", table, "--x", "x", "--y", "y", "--bits") == 0
    assert capsys.readouterr().out == RESULT.summary("bits") + "\n"


def test_given_columns_ask_for_the_conditional_information(table, estimate, monkeypatch, capsys):
    seen = []

    def conditional(x, y, z, **options):
        seen.append((x, y, z, options))
        return MIResult(mi=0.2, stderr=0.01, p_value=0.001, n=200, quantity="I(X;Y|Z)")

    monkeypatch.setattr(mine_fast, "conditional", conditional)
    assert run("estimate", table, "--x", "x", "--y", "y", "--given", "-1", "--seed", 4) == 0
    out, error = capsys.readouterr()
    assert out.startswith("I(X;Y|Z) = 0.200 +- 0.010 nats")
    assert "column 'kind' is text" in error
    (x, y, z, options), *rest = seen
    assert x.shape == y.shape == z.shape == (200, 1)
    assert set(z.flatten()) == {0.0, 1.0}
    assert options["seed"] == 4
    assert not rest
    assert not estimate.calls
    assert run("estimate", table, "--x", "x", "--y", "y", "--given", "kind", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["quantity"], values["given_columns"]) == ("I(X;Y|Z)", ["kind"])


def test_conditional_in_a_process(table):
    done = process("estimate", table, "--x", "x", "--y", "y", "--given", "kind", "--bits", *QUICK)
    assert done.returncode == 0, done.stderr
    assert re.match(r"I\(X;Y\|Z\) = -?\d+\.\d+ \+- \d+\.\d+ bits", done.stdout)


def test_plot(table, estimate, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "result.png"
    assert run("estimate", table, "--x", "x", "--y", "y", "--plot", path) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_progress_bar_on_a_terminal(table, estimate, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert run("estimate", table, "--x", "x", "--y", "y", "--json") == 0
    text = terminal.getvalue()
    assert "0/100 steps" in text
    assert "nan" not in text
    assert "100/100 steps, 0:00 left, validation 0.800 nats" in text
    assert text.endswith("\r\x1b[K")  # the line is gone when the result is printed
    assert "\n" not in text
    json.loads(capsys.readouterr().out)


def test_no_progress_bar(table, estimate, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert run("estimate", table, "--x", "x", "--y", "y", "--no-progress") == 0
    assert terminal.getvalue() == ""
    assert estimate.calls[0][2]["progress"] is None


def test_progress_bar_fits_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    bar = ProgressBar(terminal := Terminal())
    bar(1, 100, 0.5)
    bar(2, 100, 0.5)  # too soon after the first
    bar(100, 100, 0.5)  # the last is always drawn
    lines = terminal.getvalue().split("\r\x1b[K")[1:]
    assert [len(line) for line in lines] == [29, 29]


# --- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"arguments are required: COMMAND"),
        (["guess"], r"invalid choice: 'guess'"),
        (["estimate", "{table}", "--x", "x"], r"required: --y"),
        (["estimate", "{table}", "--x", "x", "--y", "y", "--seed", "one"], r"--seed: invalid int value: 'one'"),
        (["estimate", "{table}", "--x", "x", "--y", "y", "--sede", "1"], r"unrecognized arguments: --sede"),
        (["estimate", "{table}.csv", "--x", "x", "--y", "y"], r"data\.csv\.csv: no such file"),
        (["estimate", "{table}", "--x", "x", "--y", "z"], r"y: .*data\.csv: no column 'z'; .*it has x, y, kind"),
        (["estimate", "{table}", "--x", "5", "--y", "y"], r"x: .*no column 5; the columns are 0 to 2"),
        (["estimate", "{table}", "--x", "x", "--y", "y", "--device", "abacus"], r"--device must be .*got 'abacus'"),
        *(
            (["estimate", "{table}", "--x", "x", "--y", "y", "--device", device], rf"--device must be .*got '{device}'")
            for device in ("meta", "mps:7", "xla", "privateuseone", "")
        ),
        (
            ["estimate", "{table}", "--x", "x", "--y", "y", "--device", "cuda:99"],
            r"--device must be .*got 'cuda:99': torch .* sees",
        ),
        (
            ["estimate", "{table}", "--x", "x", "--y", "y", "--plot", "out.xyz"],
            r"--plot must end in .*\.png.*'out\.xyz'",
        ),
        (["estimate", "{table}", "--x", "x", "--y", "y", "--plot", "no/such/a.png"], r"no directory 'no/such'"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments, message, table, estimate, capsys):
    assert run(*(argument.format(table=table) for argument in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"mine-fast: error: .*{message}.*\n", err)
    assert estimate.calls == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "1"], "folds"),
        (["--folds", "100"], "folds"),
        (["--steps", "0"], "steps"),
        (["--batch-size", "0"], "batch_size"),
        (["--learning-rate", "-1"], "learning_rate"),
        (["--learning-rate", "nan"], "learning_rate"),
    ],
)
def test_settings_are_refused_by_name(options, message, table, capsys):
    """By the estimator itself: the command has no rules of its own."""
    assert run("estimate", table, "--x", "x", "--y", "y", *QUICK, *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"mine-fast: error: .*{message}.*\n", err)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ValueError("x must be finite,\n  got nan"), 2, "mine-fast: error: x must be finite, got nan\n"),
        (TypeError(), 2, "mine-fast: error: TypeError\n"),
        (PermissionError(13, "Permission denied"), 2, "mine-fast: error: [Errno 13] Permission denied\n"),
        (DivergenceError("training diverged"), 1, "mine-fast: error: training diverged\n"),
        (KeyboardInterrupt(), 130, "mine-fast: interrupted\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_while_estimating(error, status, text, table, estimate, capsys):
    estimate.error = error
    assert run("estimate", table, "--x", "x", "--y", "y") == status
    assert capsys.readouterr() == ("", text)


def test_the_bar_is_gone_before_an_error(table, estimate, monkeypatch):
    estimate.error = ValueError("no good")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert run("estimate", table, "--x", "x", "--y", "y") == 2
    assert terminal.getvalue().endswith("\r\x1b[Kmine-fast: error: no good\n")


def test_an_error_of_our_own_is_not_hidden(table, estimate):
    estimate.error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        run("estimate", table, "--x", "x", "--y", "y")


def test_plot_without_matplotlib(table, estimate, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert run("estimate", table, "--x", "x", "--y", "y", "--plot", "a.png") == 2
    message = "--plot needs matplotlib: pip install '.[plot]' in the repository"
    assert capsys.readouterr().err == f"mine-fast: error: {message}\n"
    assert estimate.calls == []


# --- info, version, help ----------------------------------------------------------------------------------------------


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"mine-fast {mine_fast.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["estimate", "--help"]])
def test_help(arguments, capsys):
    assert run(*arguments) == 0
    assert "0:" in capsys.readouterr().out


def test_info_json(capsys):
    assert run("info", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["mine_fast"] == mine_fast.__version__
    assert facts["torch"] == torch.__version__
    assert facts["threads"]["torch"] == torch.get_num_threads()
    assert facts["library"] == "loaded"
    assert {"numpy", "python", "platform", "cpu", "build", "cuda"} < set(facts)


def test_info_has_a_line_per_fact(capsys):
    assert run("info") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(info.collect())
    assert sum(line.startswith("cuda ") for line in lines) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, None), ("", None), ("[1]", None), ("{", None), ('{"cuda": "not built: no nvcc was found"}', "no nvcc")],
)
def test_build_info_may_be_missing_or_damaged(content, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(info, "__file__", str(tmp_path / "info.py"))
    if content is not None:
        (tmp_path / "_build_info.json").write_text(content)
    assert run("info") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    if expected is None:
        assert "unknown" in lines["build"]
    else:
        assert expected in lines["build"]
        assert expected in lines["cuda"]


@pytest.mark.parametrize(
    ("build", "missing", "line"),
    [
        ({"cuda": "built with the toolkit of 13.0"}, None, "built with the toolkit of 13.0"),
        ({"cuda": "built with the toolkit of 13.0"}, "no libcudart", "built, but not loaded: no libcudart"),
        ({"cuda": "not built: no nvcc was found"}, "no module", "not built: no nvcc was found"),
        (None, "torch is a CPU build", "not loaded: torch is a CPU build"),
        (None, None, "built"),
    ],
)
def test_the_line_on_cuda(build, missing, line, monkeypatch):
    monkeypatch.setattr(mine_fast._library, "CUDA_MISSING", missing)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert info.cuda(build) == f"{line}; no device"


# --- processes --------------------------------------------------------------------------------------------------------


def test_estimate_in_a_process(table):
    done = process("estimate", table, "--x", "x", "--y", "y", "--json", "--seed", 1, *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    values = json.loads(done.stdout)
    assert math.isfinite(values["mi"])
    assert values["stderr"] > 0
    assert values["n"] == 200
    assert values["seed"] == 1
    assert (values["settings"]["steps"], values["settings"]["folds"]) == (10, 2)


def test_an_error_in_a_process(table):
    table.write_text("x,y\n1,2\n2,oops\n")
    done = process("estimate", table, "--x", "x", "--y", "y", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"mine-fast: error: {table}, line 3, column 'y': 'oops' is not a finite number\n"


def test_the_same_seed_prints_the_same(table, capsys):
    def printed(seed):
        assert run("estimate", table, "--x", "x", "--y", "y", "--seed", seed, *QUICK) == 0
        return capsys.readouterr().out

    assert printed(1) == printed(1) != printed(2)


def test_the_command_itself_imports_no_torch():
    """`mine-fast --help` is as quick as the package lets it be: nothing that cli.py imports needs torch."""
    code = (
        "import sys, types; package = types.ModuleType('mine_fast'); package.__path__ = [sys.argv[1]]; "
        "sys.modules['mine_fast'] = package; import mine_fast.cli, mine_fast.tables; print('torch' in sys.modules)"
    )
    folder = mine_fast.__path__[0]
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False\n", "")
