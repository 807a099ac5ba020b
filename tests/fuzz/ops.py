"""Every public op and every raw one, with arguments of which some are not what they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mine_fast import bounds, ops

from .draw import NUMBERS, Draw, Target, check
from .tensors import FLOATING, HARMLESS, ROWS, WIDTHS, is_finite, normal, tame, tensors_of, twisted

Arguments = dict[str, Any]


def _key(draw: Draw) -> Tensor:
    ends = (0, 1, -1, 2**63 - 1, -(2**63), draw.seed())
    return torch.tensor([draw.of(ends), draw.of(ends)])


def _shuffles(draw: Draw) -> int:
    return draw.of((1, 1, 2, 3, 7))


def _rows(draw: Draw) -> int:
    return draw.of([rows for rows in ROWS if rows != 1])


def _marginal_shuffle(draw: Draw) -> Arguments:
    shape = [_rows(draw), *(draw.of(WIDTHS) for _ in range(draw.between(0, 2)))]
    return dict(y=normal(draw, *shape, dtype=draw.of(FLOATING)), key=_key(draw), shuffles=_shuffles(draw))


def _pair(draw: Draw) -> Arguments:
    rows, dtype = _rows(draw), draw.of(FLOATING)
    x, y = (normal(draw, rows, draw.of(WIDTHS), dtype=dtype) for _ in "xy")
    return dict(x=x, y=y, key=_key(draw), shuffles=_shuffles(draw))


def _first_layer(draw: Draw) -> Arguments:
    made = _pair(draw)
    width, dtype = draw.of(WIDTHS), made["x"].dtype
    made["weight"] = normal(draw, width, made["x"].shape[1] + made["y"].shape[1], dtype=dtype)
    made["bias"] = None if draw.chance(0.2) else normal(draw, width, dtype=dtype)
    made["activation"] = draw.of(ops.ACTIVATIONS)
    made["slope"] = draw.of((None, 0.1, 1.0))
    return made


def _dv(draw: Draw) -> Arguments:
    dtype = draw.of(FLOATING)
    joint, marginal = (normal(draw, draw.between(1, 700), dtype=dtype) for _ in "jm")
    log_ema = draw.of((None, torch.tensor(0.5), torch.tensor(-torch.inf)))
    return dict(t_joint=joint, t_marginal=marginal, log_ema=log_ema, alpha=draw.of((0.01, 1.0)),
                loss=draw.of(ops.LOSSES))  # fmt: skip


def _dv_of_scores(draw: Draw) -> Arguments:
    made = _dv(draw)
    joint, marginal = made.pop("t_joint"), made.pop("t_marginal")
    return dict(scores=torch.cat([joint, marginal]), joint_rows=len(joint)) | made


def _all_pairs(draw: Draw) -> Arguments:
    dtype, rows = draw.of(FLOATING[:4]), draw.of((2, 3, 17, 40))
    x, y = (normal(draw, rows, draw.between(1, 3), dtype=dtype) for _ in "xy")
    widths = [x.shape[1] + y.shape[1], *(draw.between(1, 9) for _ in range(draw.between(1, 3))), 1]
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    return dict(
        x=x,
        y=y,
        weights=[(normal(draw, *shape) / shape[1] ** 0.5).to(dtype) for shape in shapes],
        biases=[None if draw.chance(0.2) else normal(draw, out, dtype=dtype) for out, _ in shapes],
        activation=draw.of(ops.ACTIVATIONS),
        slope=draw.of((None, 0.1)),
        loss=draw.of(ops.LOSSES),
    )


def _scores(draw: Draw) -> Arguments:
    joint = draw.between(1, 200)
    scores = normal(draw, joint * draw.between(2, 4), dtype=draw.of(FLOATING))
    return dict(scores=scores, joint_rows=joint)


PUBLIC: dict[str, tuple[Callable[..., Any], Callable[[Draw], Arguments]]] = {
    "shuffle_key": (ops.shuffle_key, lambda draw: dict(seed=draw.seed(), offset=draw.seed())),
    "advance_key": (ops.advance_key, lambda draw: dict(key=_key(draw))),
    "shuffle_index": (
        ops.shuffle_index,
        lambda draw: dict(rows=_rows(draw), key=_key(draw), shuffles=_shuffles(draw), inverse=draw.chance(0.5)),
    ),
    "marginal_shuffle": (ops.marginal_shuffle, _marginal_shuffle),
    "pair": (ops.pair, _pair),
    "paired_first_layer": (ops.paired_first_layer, _first_layer),
    "dv_loss": (ops.dv_loss, _dv),
    "dv_loss_of_scores": (ops.dv_loss_of_scores, _dv_of_scores),
    "all_pairs_loss": (ops.all_pairs_loss, _all_pairs),
    "js_loss": (bounds.js_loss, _scores),
    "infonce_loss": (bounds.infonce_loss, _scores),
    "smile_loss": (bounds.smile_loss, lambda draw: _scores(draw) | dict(clip=draw.of((0.1, 5.0)))),
}


def _parts(draw: Draw) -> Arguments:
    rows, width, dtype = _rows(draw), draw.of(WIDTHS), draw.of(FLOATING)
    x, y = (normal(draw, rows, width, dtype=dtype) for _ in "xy")
    return dict(x_part=x, y_part=y, bias=normal(draw, width, dtype=dtype), key=_key(draw), shuffles=_shuffles(draw),
                activation=draw.between(0, len(ops.ACTIVATIONS) - 1), slope=0.1)  # fmt: skip


def _parts_backward(draw: Draw) -> Arguments:
    made = _parts(draw)
    rows, width = made["x_part"].shape
    return dict(grad=normal(draw, (1 + made["shuffles"]) * rows, width, dtype=made["x_part"].dtype)) | made


def _pair_backward(draw: Draw) -> Arguments:
    rows, widths, shuffles = _rows(draw), (draw.of(WIDTHS), draw.of(WIDTHS)), _shuffles(draw)
    grad = normal(draw, (1 + shuffles) * rows, sum(widths), dtype=draw.of(FLOATING))
    return dict(grad=grad, key=_key(draw), x_width=widths[0], shuffles=shuffles)


def _shuffle_backward(draw: Draw) -> Arguments:
    made = _marginal_shuffle(draw)
    shape = [made["shuffles"], *made["y"].shape]
    return dict(grad=normal(draw, *shape, dtype=made["y"].dtype), key=made["key"])


def _dv_term(draw: Draw) -> Arguments:
    made = _scores(draw)
    sums = torch.float64 if made["scores"].dtype == torch.float64 else torch.float32
    return made | dict(log_ema=torch.zeros((), dtype=sums), alpha=0.1, loss=draw.between(0, 2))


def _dv_term_backward(draw: Draw) -> Arguments:
    made = _dv_term(draw)
    sums = made["log_ema"].dtype
    return dict(grad=torch.ones((), dtype=sums), scores=made["scores"], joint_rows=made["joint_rows"],
                statistics=torch.zeros(3, dtype=sums))  # fmt: skip


def _raw_all_pairs(draw: Draw) -> Arguments:
    rows, depth = draw.of((2, 3, 17)), draw.between(1, 3)
    widths = [draw.between(1, 9) for _ in range(depth)]
    x, y = (normal(draw, rows, widths[0]) for _ in "xy")
    later = [normal(draw, *shape) for a, b in zip([*widths, 1][1:], widths, strict=True) for shape in ((a, b), (a,))]
    return dict(x_part=x, y_part=y, later=later, activations=[draw.between(0, 7) for _ in widths],
                slopes=[0.1 for _ in widths], log_ema=torch.zeros(()), alpha=0.1, loss=draw.between(0, 2),
                with_gradient=draw.chance(0.5))  # fmt: skip


def _all_pairs_backward(draw: Draw) -> Arguments:
    size = draw.between(0, 9)
    return dict(grad=torch.ones(()), gradient=normal(draw, size), inputs=[normal(draw, size)])


RAW: dict[str, Callable[[Draw], Arguments]] = {
    "advance_key": PUBLIC["advance_key"][1],
    "shuffle_index": PUBLIC["shuffle_index"][1],
    "marginal_shuffle": _marginal_shuffle,
    "marginal_shuffle_backward": _shuffle_backward,
    "pair": _pair,
    "pair_backward": _pair_backward,
    "paired_first_layer": _parts,
    "paired_first_layer_backward": _parts_backward,
    "dv_term": _dv_term,
    "dv_term_backward": _dv_term_backward,
    "all_pairs": _raw_all_pairs,
    "all_pairs_backward": _all_pairs_backward,
}


def _other(draw: Draw, value: Any, huge: bool) -> Any:
    """Something else in the place of an argument."""
    if isinstance(value, Tensor):
        return twisted(draw, value, huge)
    if isinstance(value, list) and draw.chance(0.8):
        return _other_list(draw, value, huge)
    if isinstance(value, int) and not isinstance(value, bool) and draw.chance(0.8):
        return draw.integer()
    if isinstance(value, float) and draw.chance(0.8):
        return draw.of(NUMBERS)
    return draw.anything()


def _other_list(draw: Draw, values: list[Any], huge: bool) -> list[Any]:
    if not values or draw.chance(0.2):
        return draw.of(([], values + values, values[:-1], values[::-1]))
    changed = list(values)
    place = draw.between(0, len(values) - 1)
    changed[place] = _other(draw, changed[place], huge)
    return changed


def _harmless(draw: Draw, value: Any) -> Any:
    if isinstance(value, Tensor):
        return draw.of(HARMLESS)(value)
    return [_harmless(draw, item) for item in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().resolve_neg().clone(memory_format=torch.contiguous_format)
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _all_finite(result: Any) -> bool:
    """Of what an op returned; only an average that no batch has gone into is -inf."""
    if isinstance(result, ops.DVTerm):
        return all(map(is_finite, (result.loss, result.joint_mean, result.log_mean_exp))) and not bool(
            torch.isnan(result.log_ema) | torch.isposinf(result.log_ema)
        )
    return all(map(is_finite, tensors_of(result)))


def _check_gradients(result: Any, arguments: Arguments) -> None:
    leaves = [t for t in tensors_of(list(arguments.values())) if t.requires_grad and t.is_leaf]
    outputs = [t for t in tensors_of(result) if t.requires_grad]
    if not leaves or not outputs:
        return
    torch.autograd.backward([t.float().sum() for t in outputs])
    for leaf in leaves:
        if leaf.grad is not None:
            check(leaf.grad.shape == leaf.shape, f"gradient {list(leaf.grad.shape)} of {list(leaf.shape)}")
            check(is_finite(leaf.grad) or not tame(list(arguments.values())), "the gradient is not finite")


def _run(draw: Draw, call: Callable[..., Any], arguments: Arguments, huge: bool = True) -> None:
    """Call with right arguments in odd layouts, which must work the same, or with wrong ones, which must not crash."""
    if draw.chance(0.3):
        # The statistics are the forward's own; the op demands them as they came.
        odd = {name: v if name == "statistics" else _harmless(draw, v) for name, v in arguments.items()}
        try:
            result = call(**odd)
            _check_gradients(result, odd)
        except Exception as error:
            check(False, f"a right call was refused: {type(error).__name__}: {error}")
        expected = call(**{name: _plain(value) for name, value in odd.items()})
        for one, other in zip(tensors_of(result), tensors_of(expected), strict=True):
            # Matrix products add up in another order.
            tolerance = 0.03 if one.dtype in (torch.float16, torch.bfloat16) else 1e-4
            same = torch.allclose(one.detach().double(), other.detach().double(), rtol=tolerance, atol=tolerance)
            check(same, "an odd layout gives another result")
        check(_all_finite(result), "the result is not finite")
        return
    changed = dict(arguments)
    for _ in range(draw.of((1, 1, 1, 2, 3))):
        name = draw.of(list(changed))
        changed[name] = _other(draw, arguments[name], huge)
    result = call(**changed)
    # An integer in the place of a real number is one.
    real = [abs(changed[name]) < 50 for name in ("slope", "alpha", "clip") if isinstance(changed.get(name), int)]
    if all(real) and tame(list(changed.values())):
        check(_all_finite(result), "the result of finite arguments is not finite")
    _check_gradients(result, changed)


def _public(name: str) -> Target:
    call, make = PUBLIC[name]
    huge = call.__module__ != "mine_fast.bounds"
    return lambda draw: _run(draw, call, make(draw), huge)


def _raw(name: str) -> Target:
    op = getattr(torch.ops.mine_fast, name).default
    schema = [argument.name for argument in op._schema.arguments]

    def call(**arguments: Any) -> Any:
        return op(*(arguments[argument] for argument in schema))

    # Below autograd, as the wrappers call them where nothing is differentiated.
    def target(draw: Draw) -> None:
        try:
            with torch.no_grad():
                _run(draw, call, RAW[name](draw))
        except (IndexError, AttributeError) as error:  # torch's, of a dimension that is not there; of None as a tensor
            raise ValueError(str(error)) from error

    return target


TARGETS: dict[str, Target] = {f"ops.{name}": _public(name) for name in PUBLIC} | {
    f"raw.{name}": _raw(name) for name in RAW
}
