"""Everything a GPU machine can tell in one go: tests, compute-sanitizer, timings -> results/<gpu-name>.json.

    python benchmarks/gpu_check.py               all stages, at most 10 minutes
    python benchmarks/gpu_check.py --exercise    the small script that compute-sanitizer watches
    python benchmarks/gpu_check.py --stage S     one of the stages that measure, alone

Needs the package built with its CUDA part, and no network. Every stage is a process of its own. One that fails or runs
out of time is recorded in the file, which is written anew after every stage, and the next stage runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import baselines
import record as results
import torch
from timing import SIZES
from torch import Tensor

import mine_fast
from mine_fast import _library, info, ops
from mine_fast.data import ArraySource
from mine_fast.graphed_steps import STEPS_PER_GRAPH, GraphedSteps
from mine_fast.ops._checks import FLOATING
from mine_fast.steps import TorchSteps

raw = torch.ops.mine_fast
STEPS = (*SIZES, (20, 20, 512, 2, 8192))


# Measuring ------------------------------------------------------------------------------------------------------------


def microseconds(run: Callable[[], object], iterations: int) -> float:
    """Time per call on the GPU's clock, gaps between launches included."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(iterations):
        run()
    end.record()
    end.synchronize()
    return 1000 * start.elapsed_time(end) / iterations


def measure_together(contenders: dict[str, Callable[[], object]], iterations: int, repeats: int = 25) -> dict[str, Any]:
    """Time the contenders in turn, so that a change of clocks meets all of them; one row of quantiles each."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        microseconds(run, iterations)
    for _ in range(repeats):
        for name, run in contenders.items():
            times[name].append(microseconds(run, iterations))
    return {name: quantiles(values) for name, values in times.items()}


def quantiles(values: list[float]) -> dict[str, Any]:
    """Of one value, which has none, that value as the median."""
    found = results.quantiles(values) if len(values) > 1 else {"median": values[0], "n": 1}
    return {**found, "unit": "us"}


# Stages ---------------------------------------------------------------------------------------------------------------


def environment() -> dict[str, Any]:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, timeout=20) if shutil.which(query[0]) else None
    device = torch.cuda.get_device_properties(0)
    return {
        **results.environment(),
        "gpu": device.name,
        "capability": f"{device.major}.{device.minor}",
        "multiprocessors": device.multi_processor_count,
        "memory_gib": round(device.total_memory / 2**30, 1),
        "driver": driver.stdout.strip() if driver else None,
        "cuda": torch.version.cuda,
        "cuda_kernels": _library.CUDA_MISSING or "loaded",
        "build": info.build_info(),
    }


def run_program(command: list[str], seconds: float, cwd: Path = results.ROOT, **variables: str) -> dict[str, Any]:
    """Its last line, and the end of its output if it failed; `variables` are of its environment."""
    result = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=seconds, env=os.environ | variables
    )
    lines = result.stdout.strip().splitlines() or result.stderr.strip().splitlines() or [""]
    record: dict[str, Any] = {"ok": result.returncode == 0, "summary": lines[-1]}
    if result.returncode != 0:
        record["output"] = "\n".join(lines[-80:] + result.stderr.splitlines()[-20:])
    return record


def tests(seconds: float) -> dict[str, Any]:
    if importlib.util.find_spec("pytest") is None:
        raise RuntimeError("pytest is not installed")
    # From tests/, not the root, where the source folder would hide the installed package; without the settings and
    # fixtures of the whole suite, whose plugins this machine may not have.
    folder = results.ROOT / "tests" / "cuda"
    command = [sys.executable, "-m", "pytest", str(folder), f"--confcutdir={folder}", "-o", "addopts=", "-q", "-rfE"]
    command += ["-p", "no:cacheprovider", "--tb=short"]
    return run_program(command, seconds, cwd=folder)


def sanitizer(tool: str, seconds: float) -> dict[str, Any]:
    program = shutil.which("compute-sanitizer")
    if program is None and os.environ.get("CUDA_HOME"):
        program = shutil.which("compute-sanitizer", path=os.path.join(os.environ["CUDA_HOME"], "bin"))
    if program is None:
        return {"ok": None, "summary": "skipped: compute-sanitizer is not installed"}
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__, "--exercise"]
    # Without torch's cache of memory, in whose blocks an access beyond a tensor goes unseen.
    return run_program(command, seconds, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def exercise(device: str = "cuda") -> None:
    """Every kernel, small, in every dtype and with every activation: what compute-sanitizer watches."""
    sizes = ((2, 1, 1, 1), (401, 20, 24, 3), (70, 3, 1200, 2))
    for dtype, (rows, x_width, y_width, shuffles) in itertools.product(sorted(FLOATING, key=str), sizes):
        key = ops.shuffle_key(rows, device=device)
        x, y, weight = (
            # Views that begin at the second number: no vector of them is aligned.
            torch.randn(1 + a * b, device=device, dtype=dtype)[1:].view(a, b).requires_grad_()
            for a, b in ((rows, x_width), (rows, y_width), (33, x_width + y_width))
        )
        ops.advance_key(key)
        ops.shuffle_index(rows, key, shuffles, inverse=True)
        total = ops.marginal_shuffle(y, key, shuffles).sum() + ops.pair(x, y, key, shuffles).sum()
        for activation in ops.ACTIVATIONS:
            total = total + ops.paired_first_layer(x, y, weight, None, key, shuffles, activation).sum()
        scores = torch.randn(7 * rows + 20_000 * (rows == 401), device=device, dtype=dtype, requires_grad=True)
        (total + sum(ops.dv_loss_of_scores(scores, rows, loss=loss).loss for loss in ops.LOSSES)).backward()
    if device == "cuda":
        torch.cuda.synchronize()


def bandwidth() -> Iterator[dict[str, Any]]:
    def indexed(y: Tensor) -> Tensor:
        return y[torch.randperm(y.shape[0], device=y.device)]

    def by_torch(scores: Tensor, rows: int) -> Tensor:
        return torch.logsumexp(scores[rows:], 0) - scores[:rows].mean()

    for rows, width, dtype in ((4096, 20, torch.float32), (2**20, 20, torch.float32), (2**18, 784, torch.float16)):
        y, key = torch.randn(rows, width, device="cuda").to(dtype), ops.shuffle_key(1, device="cuda")
        assert torch.equal(ops.marginal_shuffle(y, key)[0], y[ops.shuffle_index(rows, key)[0]])
        contenders: dict[str, Callable[[], object]] = {
            "device copy": partial(torch.empty_like(y).copy_, y),
            "marginal_shuffle": partial(ops.marginal_shuffle, y, key),
            "randperm and index": partial(indexed, y),
        }
        yield bandwidth_row(f"shuffle [{rows}, {width}] {dtype}", contenders, 2 * y.numel() * y.element_size())
    for rows in (4096, 2**20, 2**26):
        scores, log_ema = torch.randn(2 * rows, device="cuda"), torch.zeros((), device="cuda")
        loss, _, term = raw.dv_term(scores, rows, log_ema, 0.01, 0)
        torch.testing.assert_close(
            loss.double(), by_torch(scores.double(), rows) - math.log(rows), rtol=1e-5, atol=1e-5
        )
        contenders = {
            "device copy": partial(torch.empty_like(scores).copy_, scores),
            "dv_term": partial(raw.dv_term, scores, rows, log_ema, 0.01, 0),
            "dv_term_backward": partial(raw.dv_term_backward, log_ema, scores, rows, term),
            "logsumexp and mean": partial(by_torch, scores, rows),
        }
        copied = 2 * scores.numel() * scores.element_size()
        yield bandwidth_row(f"dv {rows} + {rows}", contenders, copied, {"dv_term": 0.5, "logsumexp and mean": 0.5})


def bandwidth_row(
    figure: str, contenders: dict[str, Callable[[], object]], copied: int, share: dict[str, float] | None = None
) -> dict[str, Any]:
    """Times, and GB/s of what has to be read and written; a reduction reads half of what a copy moves."""
    rows = measure_together(contenders, iterations=20 if copied > 2**24 else 100)
    for name, row in rows.items():
        row["gb_per_s"] = copied * (share or {}).get(name, 1.0) / row["median"] / 1000
        row["of_device_copy"] = row["gb_per_s"] / (copied / rows["device copy"]["median"] / 1000)
    return {"figure": figure, "rows": rows}


class _Trainer:
    """A critic, its optimiser and its state on the GPU, with a step that a CUDA graph can capture."""

    def __init__(self, size: tuple[int, int, int, int, int], fused: bool) -> None:
        x_width, y_width, hidden, layers, self.rows = size
        self.critic = baselines.make_critic(x_width, y_width, hidden, layers).cuda()
        self.rest = self.critic[2:]
        self.x = torch.randn(self.rows, x_width, device="cuda")
        self.y = torch.randn(self.rows, y_width, device="cuda")
        self.log_ema = torch.zeros((), device="cuda")
        self.key = ops.shuffle_key(1, device="cuda")
        self.optimizer = torch.optim.Adam(self.critic.parameters(), lr=1e-4, fused=True, capturable=True)
        self.loss: Callable[..., tuple[Tensor, Tensor]] = self.fused_loss if fused else self.torch_loss

    def fused_loss(self, x: Tensor, y: Tensor, log_ema: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        first = self.critic[0]
        term = ops.dv_loss_of_scores(
            self.rest(ops.paired_first_layer(x, y, first.weight, first.bias, key)), self.rows, log_ema
        )
        return term.loss, term.log_ema

    def torch_loss(self, x: Tensor, y: Tensor, log_ema: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        # argsort of random numbers and not randperm, which a graph cannot capture on every version.
        return self.loss_of_pairs(x, y, y[torch.rand(self.rows, device=x.device).argsort()], log_ema)

    def loss_of_pairs(self, x: Tensor, y: Tensor, shuffled: Tensor, log_ema: Tensor) -> tuple[Tensor, Tensor]:
        t = self.critic(torch.cat([torch.cat([x, x]), torch.cat([y, shuffled])], 1)).squeeze(1)
        batch = (torch.logsumexp(t[self.rows :], 0) - math.log(self.rows)).detach()
        new = torch.logaddexp(math.log(0.99) + log_ema, math.log(0.01) + batch)
        weighted = (torch.exp(t[self.rows :].detach() - new) * t[self.rows :]).mean()
        return batch + weighted - weighted.detach() - t[: self.rows].mean(), new

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=False)
        key, following = ops.advance_key(self.key)
        loss, log_ema = self.loss(self.x, self.y, self.log_ema, key)
        loss.backward()
        self.optimizer.step()
        self.log_ema.copy_(log_ema)
        self.key.copy_(following)

    def check(self) -> None:
        """The fused loss is that of plain torch on the same pairs."""
        shuffled = self.y[ops.shuffle_index(self.rows, self.key)[0]]
        expected = self.loss_of_pairs(self.x, self.y, shuffled, self.log_ema)
        torch.testing.assert_close(
            self.fused_loss(self.x, self.y, self.log_ema, self.key), expected, rtol=1e-3, atol=1e-4
        )

    def captured(self) -> Callable[[], None]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(5):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay


def training_steps() -> Iterator[dict[str, Any]]:
    for size in STEPS:
        _Trainer(size, fused=True).check()
        contenders: dict[str, Callable[[], object]] = {}
        errors: dict[str, str] = {}
        trainers = []  # kept: a graph does not own the weights that it trains
        for fused, owner in ((False, "torch"), (True, "mine_fast")):
            for how in ("eager", "compiled", "graph"):
                trainer = _Trainer(size, fused)
                trainers.append(trainer)
                try:
                    if how == "compiled":
                        trainer.loss = torch.compile(trainer.loss, fullgraph=True)
                    run = trainer.captured() if how == "graph" else trainer.step
                    run()
                    contenders[f"{owner} {how}"] = run
                except Exception as error:
                    errors[f"{owner} {how}"] = f"{type(error).__name__}: {error}"[:500]
        rows = measure_together(contenders, iterations=20)
        yield {"figure": "step (dx, dy, h, L, B) = " + str(size), "rows": rows, "errors": errors}


def fitted_steps() -> Iterator[dict[str, Any]]:
    """Steps of a fit by `engine="torch"` and by replayed graphs (`engine="graph"`), per step."""
    for size in STEPS:
        x_width, y_width, hidden, layers, rows = size
        x, y = torch.randn(4 * rows, x_width, device="cuda"), torch.randn(4 * rows, y_width, device="cuda")
        settings = mine_fast.TrainingSettings(steps=100_000, batch_size=rows, shuffles=1)
        contenders: dict[str, Callable[[], object]] = {}
        for name, make in (("engine torch", TorchSteps), ("engine graph", GraphedSteps)):
            critic = baselines.make_critic(x_width, y_width, hidden, layers).cuda()
            mine = mine_fast.MINE(critic, method="concat", seed=0).cuda()
            steps = make(mine, ArraySource(x, y), torch.arange(4 * rows), settings, 0)
            contenders[name] = partial(steps.advance, STEPS_PER_GRAPH)
            for _ in range(3):  # the graph is captured in the second
                contenders[name]()
        measured = measure_together(contenders, iterations=5)
        for row in measured.values():
            row.update({key: row[key] / STEPS_PER_GRAPH for key in ("median", "q10", "q90")})
        yield {"figure": "fit, a step of (dx, dy, h, L, B) = " + str(size), "rows": measured}


def many_estimates() -> Iterator[dict[str, Any]]:
    """K pairs of one column, 2000 rows, whose critics train as one stack, and one after the other; per pair."""
    for count in (1, 8, 64):
        x, noise = torch.randn(2, count, 2000, 1, device="cuda")
        pairs = list(zip(x, x + noise, strict=True))
        rows: dict[str, Any] = {}
        for name, engine, some in (("one stack", "auto", pairs), ("one by one", "torch", pairs[:1])):
            if count == 1:
                seconds_to_estimate(some, engine)  # a warm-up: the first loads kernels
            readings = [seconds_to_estimate(some, engine)]
            while len(readings) < 5 and sum(readings) + readings[0] < 3:  # the stage's time holds no more of 64 pairs
                readings.append(seconds_to_estimate(some, engine))
            rows[name] = quantiles([1e6 * seconds / len(some) for seconds in readings])
        yield {"figure": f"estimate_many of {count} pairs, a pair", "rows": rows}


def seconds_to_estimate(pairs: list[tuple[Tensor, Tensor]], engine: str) -> float:
    start = time.perf_counter()
    found = mine_fast.estimate_many(pairs, engine=engine)
    seconds = time.perf_counter() - start
    errors = [str(one) for one in found if one.error is not None]
    if errors:
        raise RuntimeError(errors[0])
    return seconds


# Running them ---------------------------------------------------------------------------------------------------------


#: Those that measure, by rows, and the others, by one record; each with its seconds.
MEASURED: dict[str, tuple[float, Callable[[], Iterator[dict[str, Any]]]]] = {
    "bandwidth": (45, bandwidth),
    "training steps": (150, training_steps),
    "fitted steps": (60, fitted_steps),
    "many estimates": (40, many_estimates),
}
CHECKED: dict[str, tuple[float, Callable[[float], dict[str, Any]]]] = {
    "tests": (150, tests),
    "memcheck": (60, partial(sanitizer, "memcheck")),
    "racecheck": (60, partial(sanitizer, "racecheck")),
}


def measure(stage: str, rows: Path) -> None:
    """Write the rows of a stage as they come, a line each: of one that is stopped, the first are there."""
    with rows.open("a") as lines:
        for row in MEASURED[stage][1]():
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            print_figure(row)


def measured_apart(stage: str, seconds: float) -> dict[str, Any]:
    """The record of a stage in a process of its own: a kernel that fails leaves no context for what comes after it."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows")
        rows.touch()
        command = [sys.executable, __file__, "--stage", stage, "--rows", str(rows)]
        record: dict[str, Any] = {}
        try:
            result = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=seconds)
            record["ok"] = result.returncode == 0
            if not record["ok"]:
                record["output"] = "\n".join(result.stderr.splitlines()[-20:])
        except subprocess.TimeoutExpired:
            record.update(ok=False, error=f"stopped after its {seconds:.0f} s")
        record["rows"] = [
            json.loads(line) for line in rows.read_text().splitlines(keepends=True) if line.endswith("\n")
        ]
    return record


def main() -> int:
    if not torch.cuda.is_available():
        print(f"no CUDA GPU is visible to torch {torch.__version__}")
        return 1
    report: dict[str, Any] = {"environment": environment(), "stages": {}}
    print(json.dumps(report["environment"], indent=2), flush=True)
    name = re.sub(r"[^a-z0-9]+", "-", report["environment"]["gpu"].lower()).strip("-")
    target = results.RESULTS / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    stages = CHECKED | {stage: (seconds, partial(measured_apart, stage)) for stage, (seconds, _) in MEASURED.items()}
    failed = False
    for stage, (seconds, run) in stages.items():
        start = time.monotonic()
        try:
            record = run(seconds)
        except Exception as error:
            record = {"ok": False, "error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc(limit=4)}
        record["seconds"] = round(time.monotonic() - start, 1)
        failed = failed or record["ok"] is False
        report["stages"][stage] = record
        print(
            f"{stage}: ok={record['ok']} {record.get('summary', record.get('error', ''))} ({record['seconds']} s)",
            flush=True,
        )
        if record["ok"] is False:
            print(record.get("output", record.get("trace", "")), flush=True)
        target.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {target}")
    return int(failed)


def print_figure(figure: dict[str, Any]) -> None:
    print(figure["figure"])
    for name, row in figure["rows"].items():
        speed = (
            f"  {row['gb_per_s']:8.1f} GB/s ({100 * row['of_device_copy']:.0f}% of a copy)" if "gb_per_s" in row else ""
        )
        spread = f"[{row['q10']:.1f}, {row['q90']:.1f}]" if "q10" in row else "[one reading]"
        print(f"  {name:26s} {row['median']:10.1f} us  {spread}{speed}")
    for name, error in figure.get("errors", {}).items():
        print(f"  {name:26s} {error.splitlines()[0]}")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exercise", action="store_true", help="the small script that compute-sanitizer watches")
    parser.add_argument("--stage", choices=MEASURED, help="one that measures, here and now")
    parser.add_argument("--rows", type=Path, default=Path(os.devnull), help="where its rows go, a line each")
    options = parser.parse_args()
    if options.exercise:
        exercise()
    elif options.stage:
        measure(options.stage, options.rows)
    else:
        sys.exit(main())
