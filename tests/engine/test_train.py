"""Runs of many steps: the same parameters as torch, states that continue bit for bit, and ways to end early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from conftest import relative_error

from mine_fast.steps import averaging_weight

STATE = (
    "parameters",
    "adam_m",
    "adam_v",
    "adam_step",
    "average",
    "average_updates",
    "log_ema",
    "offset",
    "epoch",
    "position",
)


def state_of(engine):
    return {name: getattr(engine, name) for name in STATE}


def assert_same_state(found, wanted):
    for name in STATE:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


# What a comparison over many steps can show. At the first step the weights of the rows sum to exactly 0, so the
# gradient of the output's bias, and of the bias of a unit that is active in every row, is rounding alone. Adam
# divides it by its own size: with eps = 1e-8, and still with 1e-5, torch's own fp32 run ends 1e-2 from its fp64 run
# (100-100, ReLU); with 1e-3 it ends at 3e-7. And a ReLU whose input is nearer to 0 than fp32 resolves (1e-9 was seen;
# about once in some hundred steps) may count as on or off: such a step is no error, so a new processor may need
# another seed here.
OPTIMIZERS = {
    "adam": (dict(eps=1e-3), lambda p, lr: torch.optim.Adam(p, lr=lr, eps=1e-3)),
    "adam-l2": (dict(weight_decay=0.1), lambda p, lr: torch.optim.Adam(p, lr=lr, weight_decay=0.1)),
    "adamw": (
        dict(weight_decay=0.3, decoupled=True, betas=(0.8, 0.95), eps=1e-5),
        lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.3, betas=(0.8, 0.95), eps=1e-5),
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "settings",
    [
        dict(hidden=(100, 100), x_width=1, y_width=1),
        dict(hidden=(100, 33, 20), activation=1, loss=1),
        dict(hidden=(20,), activation=2, loss=2),
        dict(hidden=(129, 7), activation=6, x_width=7),
        dict(hidden=(17, 9), activation=3, noise=0.2),
    ],
    ids=str,
)
def test_a_hundred_steps_end_where_torch_ends(case, optimizer, settings):
    options, make = OPTIMIZERS[optimizer]
    made = case(rows=130, **settings)
    norm = 0.05 if optimizer == "adamw" else None
    reference = make(made.torch.leaves, 1e-3)
    wanted = made.torch.train(made.x, made.y, 100, 41, 2, reference, norm)
    found = made.engine.train(*made.arrays, 100, 41, 2, 1e-3, max_grad_norm=norm, **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert relative_error(made.engine.parameters, made.torch.flat()) < 1e-4
    moments = [reference.state[p] for p in made.torch.leaves]
    for name, key in (("adam_m", "exp_avg"), ("adam_v", "exp_avg_sq")):
        flat = torch.cat([m[key].flatten() for m in moments]).numpy()
        assert relative_error(getattr(made.engine, name), flat) < 2e-3
    assert made.engine.adam_step == 100
    assert made.engine.offset == 100
    assert (made.engine.epoch, made.engine.position) == (made.torch.epoch, made.torch.position)
    if made.torch.loss == 0:
        assert made.engine.log_ema == pytest.approx(float(made.torch.log_ema), rel=1e-4, abs=1e-5)


def test_a_rate_for_each_step(case):
    rates = np.linspace(1e-3, 1e-2, 20)
    made = case()
    reference = torch.optim.Adam(made.torch.leaves, lr=1.0)
    for rate in rates:
        reference.param_groups[0]["lr"] = rate
        made.torch.train(made.x, made.y, 1, 32, 1, reference)
    made.engine.train(*made.arrays, 20, 32, 1, rates)
    assert relative_error(made.engine.parameters, made.torch.flat()) < 1e-4


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("decay", [0.0, 0.6, 0.98])
def test_the_average_of_the_weights_is_that_of_torch(case, decay, weight_decay):
    made, stepped = case(hidden=(20, 9)), case(hidden=(20, 9))
    settings = dict(learning_rates=1e-2, weight_decay=weight_decay)
    made.engine.average = made.engine.parameters
    wanted = torch.from_numpy(made.engine.parameters)
    made.engine.train(*made.arrays, 60, 32, averaging=decay, **settings)
    for update in range(1, 61):
        stepped.engine.train(*stepped.arrays, 1, 32, **settings)
        wanted.lerp_(torch.from_numpy(stepped.engine.parameters), averaging_weight(decay, update))
    np.testing.assert_array_equal(made.engine.parameters, stepped.engine.parameters)  # it changes nothing else
    np.testing.assert_allclose(made.engine.average, wanted.numpy(), rtol=1e-6, atol=1e-7)
    assert made.engine.average_updates == 60
    assert stepped.engine.average_updates == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_continues_bit_for_bit(case, threads):
    whole, parts = case(rows=300, hidden=(40, 30)), case(rows=300, hidden=(40, 30))
    losses = whole.engine.train(*whole.arrays, 30, 70, 2, 1e-2, threads=threads, averaging=0.9)
    first = parts.engine.train(*parts.arrays, 11, 70, 2, 1e-2, threads=threads, averaging=0.9)
    other = case(rows=300, hidden=(40, 30))
    for name, value in state_of(parts.engine).items():
        setattr(other.engine, name, value)
    second = other.engine.train(*other.arrays, 19, 70, 2, 1e-2, threads=threads, averaging=0.9)
    np.testing.assert_array_equal(losses, np.concatenate([first, second]))
    assert_same_state(state_of(other.engine), state_of(whole.engine))


@pytest.mark.parametrize(
    "settings", [dict(), dict(hidden=(130, 64, 9)), dict(activation=6), dict(x_width=1, y_width=1)], ids=str
)
def test_parameters_come_back_as_they_went_in(case, settings):
    made = case(**settings)
    np.testing.assert_array_equal(made.engine.parameters, made.parameters)


def test_kernels_agree(case, engine_module):
    ends = []
    for kernel in engine_module.available_kernels():
        made = case(rows=200, hidden=(100, 100, 30))
        made.engine.set_kernel(kernel)
        made.engine.train(*made.arrays, 50, 64, 2, 1e-3)
        assert made.engine.kernel == kernel
        ends.append(made.engine.parameters)
    for end in ends[1:]:
        assert relative_error(end, ends[0]) < 1e-4


def test_the_callback_sees_the_state_and_can_end_the_run(case):
    made, seen = case(), []

    def callback(step):
        seen.append((step, made.engine.offset))
        return step < 15

    losses = made.engine.train(*made.arrays, 100, 32, 1, 1e-3, callback=callback, callback_every=5)
    assert seen == [(5, 5), (10, 10), (15, 15)]
    assert losses.shape == (15,)


def test_what_the_callback_changes_counts(case):
    made, other = case(), case()

    def callback(step):
        made.engine.parameters = other.parameters

    made.engine.train(*made.arrays, 10, 32, 1, 1e-3, callback=callback, callback_every=10)
    np.testing.assert_array_equal(made.engine.parameters, other.parameters)


def test_an_error_in_the_callback_keeps_the_last_step(case):
    made, plain = case(), case()

    def callback(step):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        made.engine.train(*made.arrays, 100, 32, 1, 1e-3, callback=callback, callback_every=7)
    plain.engine.train(*plain.arrays, 7, 32, 1, 1e-3)
    assert_same_state(state_of(made.engine), state_of(plain.engine))
    made.engine.train(*made.arrays, 1, 32)


def test_divergence_keeps_the_step_before(case, engine_module):
    made = case()
    made.engine.train(*made.arrays, 5, 32, 1, 1e-3)
    before = state_of(made.engine)
    made.x[:] = float("nan")
    with pytest.raises(engine_module.DivergenceError, match="the loss became"):
        made.engine.train(*made.arrays, 5, 32, 1, 1e-3)
    assert_same_state(state_of(made.engine), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("log_ema", [-float("inf"), 0.7])
def test_scores_that_are_not_finite_leave_the_moving_average(case, value, log_ema):
    """As the ops do: the loss shows it, the average is kept, and the next run goes on from there."""
    made = case(hidden=(8, 8))
    made.engine.log_ema = log_ema
    parameters = made.engine.parameters.copy()
    made.engine.parameters = np.concatenate([parameters[:-1], [value]]).astype(np.float32)  # the output's bias
    loss, _, average = made.engine.gradient(*made.arrays, 32, 1, 1)
    assert not np.isfinite(loss)
    assert average == log_ema
    with pytest.raises(RuntimeError, match="the loss became"):
        made.engine.train(*made.arrays, 1, 32)
    assert made.engine.log_ema == log_ema
    made.engine.parameters = parameters
    made.engine.train(*made.arrays, 1, 32)
    assert np.isfinite(made.engine.log_ema)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("shuffles", "most"),
    [(1, 10**6 - 1), (300_000, 0)],  # between two steps; within one that takes minutes
)
def test_ctrl_c_ends_a_run(case, threads, shuffles, most):
    made = case(rows=2048, hidden=(64, 64))
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        made.engine.train(*made.arrays, 10**6, 2048, shuffles, 1e-3, threads=threads)
    timer.join()
    assert made.engine.offset == made.engine.adam_step <= most
    assert np.isfinite(made.engine.parameters).all()


def test_other_threads_run_meanwhile_and_cannot_touch_the_engine(case):
    made = case(rows=500, hidden=(50, 50))
    errors, ended = [], threading.Event()

    def look():
        while not errors and not ended.is_set():
            try:
                _ = made.engine.parameters
            except RuntimeError as error:
                errors.append(str(error))

    thread = threading.Thread(target=look)
    thread.start()
    made.engine.train(*made.arrays, 10**6, 500, 1, 1e-4, callback=lambda steps: not errors)
    ended.set()
    thread.join()
    assert errors == ["this engine is computing in another thread"]


BAD = [
    (dict(x=np.zeros((5, 2))), TypeError, "x must be float32"),
    (dict(x=[[1.0, 2.0]]), TypeError, "x must be a numpy array"),
    (dict(x=np.zeros((97, 4), np.float32)), ValueError, r"x must be \[n, 2\], got an array of float32 \[97, 4\]"),
    (dict(x=np.zeros((96, 2), np.float32)), ValueError, "as many rows, got 96 and 97"),
    (dict(batch_size=1), ValueError, "batch_size must be at least 2"),
    (dict(shuffles=-1), ValueError, "shuffles must be at least 1, or 0 for all pairs, got -1"),
    (dict(steps=-1), ValueError, "steps must not be negative"),
    (dict(learning_rates=np.zeros(3)), ValueError, "learning_rates must be a number or an array"),
    (dict(betas=(1.0, 0.9)), ValueError, "betas must be in"),
    (dict(averaging=1.0), ValueError, r"averaging must be in \[0, 1\) or None, got 1.0"),
    (dict(max_grad_norm=0.0), ValueError, "max_grad_norm must be positive"),
    (dict(learning_rates=float("nan")), ValueError, "learning_rates must be finite and not negative, got nan"),
    (
        dict(learning_rates=np.array([0.1, -0.1])),
        ValueError,
        "learning_rates must be finite and not neg",
    ),
    (dict(shuffles=2**40), ValueError, "shuffles must be at most 2147483647"),
    (dict(threads=2000), ValueError, "threads must be at least 1 and at most 1024, or 0"),
    (dict(x=np.broadcast_to(np.float32(0), (2**40, 2))), MemoryError, "bad_alloc"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=lambda v: str(v)[:40])
def test_bad_arguments_are_named(case, change, error, message):
    made = case()
    x, y = made.arrays
    arguments = dict(x=x, y=y, steps=2, batch_size=32) | change
    with pytest.raises(error, match=message):
        made.engine.train(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(hidden=[]), "at least one hidden layer"),
        (dict(hidden=[0, 3]), "at least 1, got 0"),
        (dict(activations=[1]), "one entry for each"),
        (dict(activations=[1, 99]), "unknown activation code 99"),
        (dict(noise=[0.0, -1.0]), "noise must not be negative"),
        (dict(loss=3), "loss must be"),
        (dict(alpha=0.0), "alpha must be"),
        (dict(x_width=0), "x_width and y_width must be at least 1"),
        (dict(x_width=2**62, y_width=2**62), "x_width and y_width must be at most"),
        (dict(hidden=[2**32, 2**32]), "hidden widths must be at most"),  # whose product is 0 in 64 bits
        (dict(hidden=[2**30, 2**30]), "the layers have more than 1099511627776 parameters"),
        (dict(slopes=[0.0, float("nan")]), "slopes must be finite"),
        (dict(noise=[float("inf"), 0.0]), "noise must not be negative, and finite"),
    ],
    ids=str,
)
def test_bad_settings_are_named(engine_module, change, message):
    settings = dict(
        x_width=1, y_width=1, hidden=[4, 3], activations=[1, 1], slopes=[0.0] * 2, noise=[0.0] * 2, loss=0, alpha=0.1,
        seed=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        engine_module.Engine(**(settings | change))


def test_unknown_kernel_is_named(case):
    with pytest.raises(ValueError, match=r"kernel must be one of .*portable, got 'sse9'"):
        case().engine.set_kernel("sse9")


@pytest.mark.parametrize(
    ("name", "value"),
    [("adam_step", -1), ("average_updates", -1), ("position", -1), ("position", 2**62), ("log_ema", float("nan"))],
)
def test_a_state_that_no_run_leaves_is_refused(case, name, value):
    made = case()
    with pytest.raises(ValueError, match=f"{name} must be in "):
        setattr(made.engine, name, value)


def test_an_engine_without_its_constructor_is_none(engine_module):
    empty = engine_module.Engine.__new__(engine_module.Engine)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _ = empty.parameters
    with pytest.raises(TypeError, match="incompatible function arguments"):
        empty.train(np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float32), 1, 2)


def test_rows_between_the_boundaries_of_floats(case):
    """np.frombuffer of a file with a header of odd length gives such arrays."""
    made, twin = case(), case()
    x, y = made.arrays
    memory = np.zeros(x.nbytes + 1, np.uint8)
    memory[1:] = np.frombuffer(x.tobytes(), np.uint8)
    shifted = memory[1:].view(np.float32).reshape(x.shape)
    assert not shifted.flags.aligned
    np.testing.assert_array_equal(made.engine.train(shifted, y, 3, 32), twin.engine.train(x, y, 3, 32))


def test_a_callback_that_fails_does_not_free_the_engine_for_two(case):
    """While the callback of one thread runs, another trains: the first one's error must not end the second's claim."""
    made = case(rows=500, hidden=(50, 50))
    second = threading.Thread(target=lambda: made.engine.train(*made.arrays, 3000, 500, 1, 1e-4))

    def callback(step):
        second.start()
        while True:  # until the other one computes
            try:
                _ = made.engine.offset
            except RuntimeError:
                raise ValueError("of the callback") from None

    with pytest.raises(ValueError, match="of the callback"):
        made.engine.train(*made.arrays, 5, 500, 1, 1e-4, callback=callback, callback_every=1)
    with pytest.raises(RuntimeError, match="computing in another thread"):
        _ = made.engine.parameters
    second.join()
    assert made.engine.adam_step == 3001


FEW_THREADS = """
import resource
import numpy as np
from mine_fast import _engine

engine = _engine.Engine(1, 1, [8], [1], [0.1], [0.0], 0, 0.1, 0)
rows = np.ones((2000, 1), np.float32)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)  # which a thread's stack takes 8 MB of
try:
    engine.train(rows, rows, 1, 2000, threads=1000)
except (RuntimeError, MemoryError) as error:
    print(type(error).__name__)
print(engine.train(rows, rows, 1, 2000, threads=2).shape)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_no_more_threads_to_have_is_an_error_and_not_the_end():
    result = subprocess.run([sys.executable, "-c", FEW_THREADS], capture_output=True, text=True)
    assert (result.returncode, result.stdout.split("\n")[1:]) == (0, ["(1,)", ""]), result
