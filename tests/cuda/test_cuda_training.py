"""A training step on the GPU: compiled whole, captured as a CUDA graph, in autocast, and with no wait for the GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import mine_fast
from mine_fast import ops

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason=f"no CUDA GPU is visible to torch {torch.__version__}"
)

ROWS, X_WIDTH, Y_WIDTH, HIDDEN, SHUFFLES = 256, 3, 2, 64, 2


class Step:
    """One step of a small critic; what it keeps (key, log_ema, weights) is on the device, as a graph needs it."""

    def __init__(self, device: str, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Linear(X_WIDTH + Y_WIDTH, HIDDEN)
        self.rest = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / HIDDEN**0.5
        self.first.to(device)
        self.rest.to(device)
        self.x = torch.randn(ROWS, X_WIDTH, generator=generator).to(device)
        self.y = (self.x[:, :Y_WIDTH].cpu() + 0.3 * torch.randn(ROWS, Y_WIDTH, generator=generator)).to(device)
        self.key = ops.shuffle_key(11, device=device)
        self.log_ema = torch.full((), -torch.inf, device=device)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=1e-3, capturable=device == "cuda")

    def parameters(self) -> list[nn.Parameter]:
        return [*self.first.parameters(), *self.rest.parameters()]

    def loss(self, x: Tensor, y: Tensor, key: Tensor, log_ema: Tensor) -> ops.DVTerm:
        hidden = ops.paired_first_layer(x, y, self.first.weight, self.first.bias, key, SHUFFLES)
        return ops.dv_loss_of_scores(self.rest(hidden), ROWS, log_ema, alpha=0.1)

    def __call__(self, loss_of: Callable[..., ops.DVTerm] | None = None) -> Tensor:
        self.optimizer.zero_grad(set_to_none=False)
        key, following = ops.advance_key(self.key)
        term = (loss_of or self.loss)(self.x, self.y, key, self.log_ema)
        term.loss.backward()
        self.optimizer.step()
        self.log_ema.copy_(term.log_ema)
        self.key.copy_(following)
        return term.loss.detach()


@pytest.fixture
def syncs_are_errors() -> Iterator[Callable[[], None]]:
    """A function that from its call on makes every wait for the GPU an error."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def test_steps_follow_those_on_the_cpu() -> None:
    on_cpu, on_gpu = Step("cpu"), Step("cuda")
    for _ in range(5):
        torch.testing.assert_close(on_gpu().cpu(), on_cpu(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(on_gpu.log_ema.cpu(), on_cpu.log_ema, rtol=1e-4, atol=1e-5)


def test_a_step_does_not_wait_for_the_gpu(syncs_are_errors: Callable[[], None]) -> None:
    step = Step("cuda")
    step()  # the first creates handles and optimizer state
    syncs_are_errors()
    step()


@pytest.mark.parametrize("loss", ops.LOSSES)
def test_losses_do_not_wait_for_the_gpu(loss: str, syncs_are_errors: Callable[[], None]) -> None:
    scores, log_ema = torch.randn(50_000, device="cuda", requires_grad=True), torch.zeros((), device="cuda")
    ops.dv_loss_of_scores(scores, 10_000, log_ema, loss=loss).loss.backward()
    syncs_are_errors()
    ops.dv_loss_of_scores(scores, 10_000, log_ema, loss=loss).loss.backward()


def test_cuda_graph_replays_with_an_advancing_key() -> None:
    eager, captured = Step("cuda"), Step("cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            captured()
    torch.cuda.current_stream().wait_stream(stream)
    for _ in range(3):
        eager()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # captures, and runs nothing
        loss = captured()
    for _ in range(4):
        expected = eager()
        graph.replay()
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(captured.key, eager.key)
    for a, e in zip(captured.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)


def test_compiles_without_a_graph_break() -> None:
    torch._dynamo.reset()
    step = Step("cuda")
    compiled = torch.compile(step.loss, fullgraph=True)
    arguments = (step.x, step.y, step.key, step.log_ema)
    expected, actual = step.loss(*arguments), compiled(*arguments)
    torch.testing.assert_close(tuple(actual), tuple(expected), rtol=1e-5, atol=1e-6)
    expected_gradients = torch.autograd.grad(expected.loss, step.parameters())
    gradients = torch.autograd.grad(actual.loss, step.parameters())
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype: torch.dtype) -> None:
    step = Step("cuda")
    exact = step.loss(step.x, step.y, step.key, step.log_ema)
    with torch.autocast("cuda", dtype):
        rough = step.loss(step.x, step.y, step.key, step.log_ema)
    assert rough.loss.dtype == torch.float32
    torch.testing.assert_close(rough.loss, exact.loss, rtol=0.05, atol=0.05)
    rough.loss.backward()
    for parameter in step.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_runs_on_the_current_stream() -> None:
    step, stream = Step("cuda"), torch.cuda.Stream()
    expected = copy.deepcopy(step.loss(step.x, step.y, step.key, step.log_ema).loss.detach())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # work on another stream would overtake this
        x = step.x * 1
        actual = step.loss(x, step.y, step.key, step.log_ema).loss.detach()
    torch.cuda.synchronize()
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("separable", [False, True])
def test_fit_by_replayed_graphs_is_fit_by_steps(separable: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 2, generator=generator).cuda()
    y = x[:, :1] + 0.5 * torch.randn(600, 1, generator=generator).cuda()
    torch.manual_seed(1)
    perceptron = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 1))
    critic = mine_fast.SeparableCritic(2, 1) if separable else perceptron
    mine = mine_fast.MINE(critic.cuda(), method=None if separable else "concat")
    results = [mine.fit(x, y, seed=4, steps=95, folds=2, engine=engine) for engine in ("graph", "torch")]
    assert results[0].mi == pytest.approx(results[1].mi, abs=1e-3)


def test_estimates_that_train_as_one_stack_are_those_made_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 3, 400, 1, generator=generator).cuda()
    pairs = list(zip(x, x + noise, strict=True))
    settings = dict(steps=60, folds=2, evaluate_every=30)
    together = mine_fast.estimate_many(pairs, **settings)
    for pair, found in zip(pairs, together, strict=True):
        for engine in ("torch", "graph"):
            alone = mine_fast.estimate(*pair, engine=engine, **settings)
            assert found.mi == pytest.approx(alone.mi, abs=0.1 * alone.stderr)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_graphs_are_captured_on_the_device_of_the_data() -> None:
    """Whichever device is current: there the capture records nothing, and a replay would train nothing."""
    x = torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
    y = x + torch.randn(500, 1, generator=torch.Generator().manual_seed(1))
    settings = {"steps": 60, "folds": 2, "engine": "graph", "device": "cuda:1"}
    found = mine_fast.estimate(x, y, **settings)
    with torch.cuda.device(1):
        assert mine_fast.estimate(x, y, **settings).mi == found.mi
    assert found.mi > 0.2
    many = mine_fast.estimate_many([(x, y)] * 2, steps=60, folds=2, device="cuda:1")
    assert all(one.mi > 0.2 for one in many)
