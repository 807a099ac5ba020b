"""The native engine as Python sees it: settings, state, training, scores, callbacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mine_fast import _engine

from .draw import NUMBERS, Draw, Target, check


def _values(draw: Draw, *shape: int) -> np.ndarray:
    return np.random.default_rng(draw.seed()).standard_normal(shape).astype(np.float32)


# The same values in other memory. -------------------------------------------------------------------------------------


def _backwards(a: np.ndarray) -> np.ndarray:
    return a[::-1].copy()[::-1]


def _by_columns(a: np.ndarray) -> np.ndarray:
    return np.asfortranarray(a)


def _off_by_a_byte(a: np.ndarray) -> np.ndarray:
    memory = np.zeros(a.nbytes + 1, np.uint8)
    memory[1:] = np.frombuffer(a.tobytes(), np.uint8)
    return memory[1:].view(np.float32).reshape(a.shape)


def _read_only(a: np.ndarray) -> np.ndarray:
    fixed = a.copy()
    fixed.flags.writeable = False
    return fixed


HARMLESS = (_backwards, _by_columns, _off_by_a_byte, _read_only)


def _other_array(draw: Draw, a: np.ndarray) -> Any:
    def not_finite() -> np.ndarray:
        changed = a.copy()
        if changed.size:
            changed.flat[draw.between(0, changed.size - 1)] = draw.of((math.nan, math.inf, -math.inf, 3e38))
        return changed

    return draw.of(
        (
            lambda: a.astype(draw.of((np.float64, np.float16, np.int64, ">f4", np.complex64, object, "S3"))),
            lambda: a[1:],
            lambda: a[..., None],
            lambda: a.reshape(-1),
            lambda: np.concatenate([a, a]),
            lambda: a[:0],
            lambda: a[..., :0],
            lambda: np.float32(1),
            lambda: np.broadcast_to(np.float32(1), (draw.of((2, 2**20, 2**40)), *a.shape[1:])),
            lambda: np.ma.masked_array(a, mask=True),
            lambda: a.tolist(),
            not_finite,
            draw.anything,
        )
    )()


def _other(draw: Draw, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _other_array(draw, value)
    if isinstance(value, (list, tuple)) and draw.chance(0.8):
        items = list(value)
        if not items or draw.chance(0.3):
            return draw.of(([], items + items, items[:-1]))
        place = draw.between(0, len(items) - 1)
        items[place] = _other(draw, items[place])
        return type(value)(items)
    if isinstance(value, int) and draw.chance(0.8):
        return draw.integer()
    if isinstance(value, float) and draw.chance(0.8):
        return draw.of(NUMBERS)
    return draw.anything()


def _some_other(draw: Draw, arguments: dict[str, Any], probability: float) -> dict[str, Any]:
    changed = dict(arguments)
    while draw.chance(probability):
        name = draw.of(list(changed))
        changed[name] = _other(draw, arguments[name])
    return changed


def _affordable(arguments: dict[str, Any]) -> bool:
    """Whether a call ends soon: hours of right work are no finding."""
    sizes = [arguments.get(name) for name in ("steps", "shuffles", "threads")]
    return not any(isinstance(size, int) and 5000 < size <= 2**40 for size in sizes)


# Targets. -------------------------------------------------------------------------------------------------------------


def _settings(draw: Draw) -> dict[str, Any]:
    depth = draw.between(1, 3)
    return dict(
        x_width=draw.between(1, 4),
        y_width=draw.between(1, 40),
        hidden=[draw.between(1, 20) for _ in range(depth)],
        activations=[draw.between(0, 7) for _ in range(depth)],
        slopes=[0.1] * depth,
        noise=[draw.of((0.0, 0.0, 0.3))] * depth,
        loss=draw.between(0, 2),
        alpha=0.1,
        seed=draw.of((0, 7, 2**63, 2**64 - 1)),
        input_noise=draw.of((0.0, 0.0, 0.2)),
    )


def _tower(draw: Draw, outputs: int) -> tuple[list[int], list[int], list[float]]:
    depth = draw.between(0, 2)
    return (
        [*(draw.between(1, 20) for _ in range(depth)), outputs],
        [*(draw.between(0, 7) for _ in range(depth)), 0],
        [0.1] * (depth + 1),
    )


def _separable_settings(draw: Draw) -> dict[str, Any]:
    outputs = draw.between(2, 9)
    made = _settings(draw)
    return {name: made[name] for name in ("x_width", "y_width", "loss", "alpha", "seed")} | dict(
        x_tower=_tower(draw, outputs), y_tower=_tower(draw, outputs)
    )


def _makers(draw: Draw) -> tuple[Callable[..., Any], dict[str, Any]]:
    if draw.chance(0.6):
        return _engine.Engine, _settings(draw)
    return _engine.Engine.separable, _separable_settings(draw)


def _engines(draw: Draw, count: int = 1) -> tuple[list[Any], int, int]:
    """Engines alike, and the columns of x and of y that they read."""
    maker, settings = _makers(draw)
    engines = [maker(**settings) for _ in range(count)]
    kernel, parameters = draw.of(_engine.available_kernels()), 0.3 * _values(draw, engines[0].parameters.size)
    for engine in engines:
        engine.set_kernel(kernel)
        engine.parameters = parameters
    return engines, settings["x_width"], settings["y_width"]


def _state_is_finite(engine: Any) -> bool:
    return bool(np.isfinite(engine.parameters).all()) and not math.isnan(engine.log_ema)


def make(draw: Draw) -> None:
    maker, settings = _makers(draw)
    changed = _some_other(draw, settings, 0.6)
    engine = maker(**changed)
    rows = [np.zeros((3, changed[name]), np.float32) for name in ("x_width", "y_width")]
    check(bool(np.isfinite(engine.score(*rows)).all()), "zeros have no score")


def state(draw: Draw) -> None:
    (engine,), dx, dy = _engines(draw)
    names = ("parameters", "adam_m", "adam_v", "average", "average_updates", "adam_step", "log_ema", "offset", "epoch",
             "position")  # fmt: skip
    for _ in range(draw.between(1, 3)):
        name = draw.of(names)
        setattr(engine, name, _other(draw, getattr(engine, name)))
    x, y = _values(draw, 9, dx), _values(draw, 9, dy)
    engine.train(x, y, 2, 4)


def train(draw: Draw) -> None:
    (engine, twin), dx, dy = _engines(draw, 2)
    rows = draw.of((2, 3, 9, 64, 200))
    right = dict(
        x=_values(draw, rows, dx),
        y=_values(draw, rows, dy),
        steps=draw.between(0, 4),
        batch_size=draw.between(2, 2 * rows),
        shuffles=draw.between(0, 3),
        learning_rates=draw.of((0.0, 1e-3, 0.1)),
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.01,
        decoupled=draw.chance(0.5),
        max_grad_norm=draw.of((None, 1.0)),
        callback=draw.of((None, lambda step: None)),
        callback_every=draw.between(1, 3),
        threads=draw.between(0, 3),
        averaging=draw.of((None, 0.9)),
    )
    if draw.chance(0.25):
        odd = right | {name: draw.of(HARMLESS)(right[name]) for name in "xy"}
        check(bool((engine.train(**right) == twin.train(**odd)).all()), "an odd layout gives another run")
        check(_state_is_finite(engine), "the state is not finite")
        return
    changed = _some_other(draw, right, 0.6)
    if not _affordable(changed):
        return
    losses = engine.train(**changed)
    check(bool(np.isfinite(losses).all()), "a loss is not finite")


def callbacks(draw: Draw) -> None:
    (engine,), dx, dy = _engines(draw)
    x, y = _values(draw, 40, dx), _values(draw, 40, dy)

    def fail(step: int) -> None:
        raise draw.of((ValueError, RuntimeError, TypeError, MemoryError))("of the callback")

    deeds: list[Callable[[int], Any]] = [
        fail,
        lambda step: False,
        lambda step: draw.anything(),
        lambda step: engine.train(x, y, 1, 8) is None,
        lambda step: engine.gradient(x, y, 8) is None,
        lambda step: setattr(engine, "parameters", engine.parameters * np.float32(0.5)),
        lambda step: setattr(engine, "position", draw.integer()),
        lambda step: engine.set_kernel(draw.of(_engine.available_kernels())),
        lambda step: np.zeros(3),
        lambda: None,  # takes no argument
    ]
    deed = draw.of(deeds)
    try:
        engine.train(x, y, 5, 8, callback=deed, callback_every=draw.between(1, 5), threads=draw.between(0, 2))
    finally:
        check(_state_is_finite(engine), "the state is not finite")
        engine.train(x, y, 1, 8)  # it is free again


def gradient(draw: Draw) -> None:
    (engine,), dx, dy = _engines(draw)
    rows = draw.of((2, 9, 64))
    right = dict(x=_values(draw, rows, dx), y=_values(draw, rows, dy), batch_size=draw.between(2, 2 * rows),
                 shuffles=draw.between(0, 3), threads=draw.between(0, 2))  # fmt: skip
    changed = _some_other(draw, right, 0.6)
    if not _affordable(changed):
        return
    engine.gradient(**changed)
    if draw.chance(0.5):
        loss, flat, _ = engine.gradient(**right)
        check(math.isfinite(loss) and bool(np.isfinite(flat).all()), "a gradient is not finite")


def score(draw: Draw) -> None:
    (engine,), dx, dy = _engines(draw)
    rows = draw.of((0, 1, 2, 9, 300))
    right = dict(x=_values(draw, rows, dx), y=_values(draw, rows, dy), averaged=draw.chance(0.3))
    expected = engine.score(**right)
    check(expected.shape == (rows,) and bool(np.isfinite(expected).all()), "a score is not finite")
    odd = right | {name: draw.of(HARMLESS)(right[name]) for name in "xy"}
    check(bool((engine.score(**odd) == expected).all()), "an odd layout gives other scores")
    engine.score(**_some_other(draw, right, 0.7))


def all_pairs(draw: Draw) -> None:
    depth, rows = draw.between(1, 3), draw.of((2, 3, 40))
    hidden = [draw.between(1, 20) for _ in range(depth)]
    later = sum(out * (into + 1) for into, out in zip(hidden, [*hidden[1:], 1], strict=True))
    right = dict(
        x_part=_values(draw, rows, hidden[0]),
        y_part=_values(draw, rows, hidden[0]),
        later=_values(draw, later),
        hidden=hidden,
        activations=[draw.between(0, 7) for _ in hidden],
        slopes=[0.1] * depth,
        log_ema=0.0,
        alpha=0.1,
        loss=draw.between(0, 2),
        with_gradient=draw.chance(0.5),
        threads=draw.between(0, 2),
        kernel=draw.of(_engine.available_kernels()),
    )
    changed = _some_other(draw, right, 0.6)
    if _affordable(changed):
        _engine.all_pairs(**changed)


def activate(draw: Draw) -> None:
    right = dict(values=_values(draw, draw.between(0, 40)), code=draw.between(0, 7), slope=0.1,
                 kernel=draw.of(_engine.available_kernels()))  # fmt: skip
    values, derivative = _engine.activate(**_some_other(draw, right, 0.6))
    check(values.shape == derivative.shape, "values and derivative differ in shape")


def unmade(draw: Draw) -> None:
    """An object whose constructor never ran."""
    engine = _engine.Engine.__new__(_engine.Engine)
    draw.of(
        (
            lambda: engine.parameters,
            lambda: engine.train(np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float32), 1, 2),
            lambda: engine.kernel,
        )
    )()


TARGETS: dict[str, Target] = {f"engine.{target.__name__}": target for target in (
    make, state, train, callbacks, gradient, score, all_pairs, activate, unmade)}  # fmt: skip
