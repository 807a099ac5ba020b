"""The fused ops: typed wrappers, and beside each its fake kernel and autograd.

They work on CPU and CUDA tensors, under autograd, autocast, `torch.compile(fullgraph=True)` and CUDA graphs. A shuffle
is named by a key, an int64 tensor (seed, offset) on the device of the data: nothing is drawn, stored or synchronised,
and the same key gives the same pairs on every device. `mine_fast.reference` says the same in plain torch.
"""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mine_fast import fallback
from mine_fast.reference import ACTIVATIONS, LOSSES

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "DVTerm",
    "advance_key",
    "dv_loss",
    "dv_loss_of_scores",
    "marginal_shuffle",
    "pair",
    "paired_first_layer",
    "shuffle_index",
    "shuffle_key",
]

_ops = torch.ops.mine_fast


def shuffle_key(seed: int, offset: int = 0, device: torch.device | str | None = None) -> Tensor:
    """Make the key of a marginal shuffle.

    Args:
        seed: any 64-bit integer; names a stream of shuffles.
        offset: position in the stream, usually the step number.
        device: where the data is.

    Returns:
        int64 [2].

    >>> shuffle_key(7, offset=3)
    tensor([7, 3])
    """
    return torch.tensor([_as_int64("seed", seed), _as_int64("offset", offset)], dtype=torch.int64, device=device)


def _as_int64(name: str, value: int) -> int:
    _check_integer(name, value)
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"{name} must fit in 64 bits, got {value}")
    return value if value < 1 << 63 else value - (1 << 64)  # the kernels read it as unsigned


def _check_integer(name: str, value: object) -> None:
    if not isinstance(value, (numbers.Integral, torch.SymInt)):
        raise TypeError(f"{name} must be an integer, got {_describe(value)}")


def advance_key(key: Tensor) -> tuple[Tensor, Tensor]:
    """A copy of a key, to use now, and the key of the next step, to keep in a buffer: no transfer, no host sync.

    Args:
        key: int64 [2], from `shuffle_key`.

    Returns:
        (seed, offset) and (seed, offset + 1), both int64 [2].

    >>> advance_key(shuffle_key(7, offset=3))
    (tensor([7, 3]), tensor([7, 4]))
    """
    _check_key(key)
    return _ops.advance_key.default(key)


@torch.library.register_fake("mine_fast::advance_key")
def _(key: Tensor) -> tuple[Tensor, Tensor]:
    return key.new_empty(2), key.new_empty(2)


def _check_key(key: Tensor) -> None:
    if not isinstance(key, Tensor) or key.dtype != torch.int64 or key.numel() != 2:
        raise TypeError(f"key must be an int64 tensor (seed, offset) from shuffle_key(), got {_describe(key)}")


def _check_shuffles(key: Tensor, rows: int, shuffles: int, device: torch.device | None = None) -> None:
    if not isinstance(key, Tensor) or key.dtype != torch.int64 or key.numel() != 2:
        raise TypeError(f"key must be an int64 tensor (seed, offset) from shuffle_key(), got {_describe(key)}")
    if device is not None and key.device != device:
        raise ValueError(f"key must be on the device of the data, {device}, got {_describe(key)}")
    _check_integer("shuffles", shuffles)
    if shuffles < 1:
        raise ValueError(f"shuffles must be at least 1, got {shuffles}")
    if rows == 1:
        raise ValueError("a batch of one row cannot be shuffled: it has no other row to meet; got 1 row")


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {list(value.shape)} on {value.device}"
    return f"{type(value).__name__} {value!r}"


def _check_floating(*, one_dtype: bool = True, **tensors: Tensor) -> None:
    """Refuse what the kernels cannot take: not a real floating tensor, or two devices or dtypes at once.

    Under autocast, which brings the operands of a matrix product to one dtype itself, pass one_dtype=False.
    """
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch tensor, got {_describe(tensor)}")
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{name} must be a floating-point tensor, got {_describe(tensor)}")
        if one_dtype and tensor.dtype != first.dtype:
            raise TypeError(f"{name} must have the dtype of {first_name}, {first.dtype}, got {tensor.dtype}")
        if tensor.device != first.device:
            raise ValueError(f"{name} must be on the device of {first_name}, {first.device}, got {tensor.device}")


def _in_eager_mode(tensor: Tensor) -> bool:
    """Whether to run an op as an `autograd.Function` of ours.

    Behind `register_autograd` a small op costs 20 us more forward and 35 us more backward, a tenth of a training step.
    The registered op is for graphs, which cannot trace into the other, and for autocast, whose casts must be seen.
    """
    return not torch.compiler.is_compiling() and not torch.is_autocast_enabled(tensor.device.type)


# --- marginal shuffle -------------------------------------------------------------------------------------------------


def shuffle_index(rows: int, key: Tensor, shuffles: int = 1, inverse: bool = False) -> Tensor:
    """The index of the marginal shuffle: a derangement of the rows per shuffle.

    Args:
        rows: B, the rows of the batch; 0, or at least 2.
        key: int64 [2], from `shuffle_key`.
        shuffles: S. Up to B - 1 shuffles of one key give every row S different partners.
        inverse: return the inverse permutations.

    Returns:
        int64 [S, B]; row s holds the partner of every row in shuffle s.

    Raises:
        ValueError: one row, or fewer than one shuffle.

    Source: a cycle-walked Feistel network (Mitchell et al., arXiv 2106.06161), conjugating cyclic shifts.

    >>> index = shuffle_index(5, shuffle_key(0))
    >>> bool((index == torch.arange(5)).any())   # no row keeps its own partner
    False
    >>> inverse = shuffle_index(5, shuffle_key(0), inverse=True)
    >>> index[0][inverse[0]].tolist()
    [0, 1, 2, 3, 4]
    """
    _check_integer("rows", rows)
    _check_shuffles(key, rows, shuffles)
    if rows < 0:
        raise ValueError(f"rows must not be negative, got {rows}")
    return _ops.shuffle_index.default(key, rows, shuffles, inverse)


@torch.library.register_fake("mine_fast::shuffle_index")
def _(key: Tensor, rows: int, shuffles: int, inverse: bool) -> Tensor:
    return key.new_empty(shuffles, rows)


def marginal_shuffle(y: Tensor, key: Tensor, shuffles: int = 1) -> Tensor:
    """Shuffled copies of y: samples of its marginal, to be paired with x row by row.

    Args:
        y: [B, ...], any dtype to shuffle, floating to differentiate.
        key: int64 [2], from `shuffle_key`, on the device of y.
        shuffles: S.

    Returns:
        [S, B, ...] in the dtype of y. The backward gathers by the inverse permutation: deterministic, no atomics.

    Raises:
        ValueError: one row, fewer than one shuffle, or y without rows to index.

    >>> y = torch.arange(4.0)
    >>> marginal_shuffle(y, shuffle_key(1)).sort().values
    tensor([[0., 1., 2., 3.]])
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a torch tensor, got {_describe(y)}")
    if y.ndim == 0:
        raise ValueError("y must have rows, [B, ...], got a 0-d tensor")
    _check_shuffles(key, y.shape[0], shuffles, y.device)
    return _ops.marginal_shuffle.default(y, key, shuffles)


@torch.library.register_fake("mine_fast::marginal_shuffle")
def _(y: Tensor, key: Tensor, shuffles: int) -> Tensor:
    return y.new_empty(shuffles, *y.shape)


@torch.library.register_fake("mine_fast::marginal_shuffle_backward")
def _(grad: Tensor, key: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[1:])


def _save_key(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.shuffles = inputs[2] if len(inputs) > 2 else inputs[0].shape[0]


def _marginal_shuffle_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return _ops.marginal_shuffle_backward.default(grad, ctx.saved_tensors[0]), None, None


def _marginal_shuffle_backward_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _ops.marginal_shuffle.default(grad, ctx.saved_tensors[0], ctx.shuffles), None


torch.library.register_autograd(
    "mine_fast::marginal_shuffle", _marginal_shuffle_backward, setup_context=_save_key
)
torch.library.register_autograd(
    "mine_fast::marginal_shuffle_backward", _marginal_shuffle_backward_backward, setup_context=_save_key
)


# --- pair -------------------------------------------------------------------------------------------------------------


def pair(x: Tensor, y: Tensor, key: Tensor, shuffles: int = 1) -> Tensor:
    """One batch of concatenated rows for a critic: the joint pairs, then the pairs of every shuffle.

    Args:
        x: [B, dx], floating.
        y: [B, dy], the dtype and device of x.
        key: int64 [2], from `shuffle_key`.
        shuffles: S.

    Returns:
        [(1 + S) * B, dx + dy]: rows [x_i, y_i], then [x_i, y_partner(i)] shuffle by shuffle.

    Raises:
        ValueError: not 2-D, unequal rows, one row, different devices.
        TypeError: different dtypes, not floating.

    >>> x, y = torch.zeros(3, 1), torch.arange(3.0)[:, None]
    >>> pair(x, y, shuffle_key(0)).shape
    torch.Size([6, 2])
    """
    _check_floating(x=x, y=y)
    _check_two_dimensional(x, y)
    _check_shuffles(key, x.shape[0], shuffles, x.device)
    return _ops.pair.default(x, y, key, shuffles)


def _check_two_dimensional(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(f"x and y must be [B, dx] and [B, dy], got shapes {list(x.shape)} and {list(y.shape)}")
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"x and y must have equally many rows, got {x.shape[0]} and {y.shape[0]}")


@torch.library.register_fake("mine_fast::pair")
def _(x: Tensor, y: Tensor, key: Tensor, shuffles: int) -> Tensor:
    return x.new_empty((1 + shuffles) * x.shape[0], x.shape[1] + y.shape[1])


@torch.library.register_fake("mine_fast::pair_backward")
def _(grad: Tensor, key: Tensor, x_width: int, shuffles: int) -> tuple[Tensor, Tensor]:
    rows = grad.shape[0] // (1 + shuffles)
    return grad.new_empty(rows, x_width), grad.new_empty(rows, grad.shape[1] - x_width)


def _pair_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, _, key, ctx.shuffles = inputs
    ctx.x_width = x.shape[1]
    ctx.save_for_backward(key)


def _pair_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    grad_x, grad_y = _ops.pair_backward.default(grad, ctx.saved_tensors[0], ctx.x_width, ctx.shuffles)
    return grad_x, grad_y, None, None


def _pair_backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, key, _, ctx.shuffles = inputs
    ctx.save_for_backward(key)


def _pair_backward_backward(ctx: Any, grad_x: Tensor, grad_y: Tensor) -> tuple[Tensor, None, None, None]:
    return _ops.pair.default(grad_x, grad_y, ctx.saved_tensors[0], ctx.shuffles), None, None, None


torch.library.register_autograd("mine_fast::pair", _pair_backward, setup_context=_pair_setup)
torch.library.register_autograd("mine_fast::pair_backward", _pair_backward_backward, setup_context=_pair_backward_setup)


# --- paired first layer -----------------------------------------------------------------------------------------------


def paired_first_layer(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    key: Tensor,
    shuffles: int = 1,
    activation: str = "relu",
    slope: float | None = None,
) -> Tensor:
    """The first layer of a critic on concatenated rows, for the joint pairs and those of every shuffle.

    W [x; y] = Wx x + Wy y: both products are computed once per row, then added, shifted by the bias and activated for
    all pairs in one pass. The result is that of `activation(linear(pair(x, y, key, shuffles)))`.

    Args:
        x: [B, dx], floating.
        y: [B, dy].
        weight: [h, dx + dy], as in `torch.nn.Linear`.
        bias: [h], or None.
        key: int64 [2], from `shuffle_key`.
        shuffles: S.
        activation: one of `ACTIVATIONS`.
        slope: negative slope of leaky_relu (default 0.01) or alpha of elu (default 1).

    Returns:
        [(1 + S) * B, h]. The backward recomputes the pre-activations: memory does not grow with S beyond the result.

    Raises:
        ValueError: unknown activation, shapes that do not fit, one row, different devices.
        TypeError: different dtypes, not floating.

    >>> layer = torch.nn.Linear(3, 8)
    >>> x, y, key = torch.randn(5, 2), torch.randn(5, 1), shuffle_key(0)
    >>> fused = paired_first_layer(x, y, layer.weight, layer.bias, key)
    >>> torch.allclose(fused, torch.relu(layer(pair(x, y, key))), atol=1e-6)
    True
    """
    _check_floating(x=x, y=y)
    _check_two_dimensional(x, y)
    _check_shuffles(key, x.shape[0], shuffles, x.device)
    _check_layer(x, weight, bias, x.shape[1] + y.shape[1])
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if slope is None:
        slope = 0.01 if activation == "leaky_relu" else 1.0
    code = ACTIVATIONS.index(activation)
    if _in_eager_mode(x):
        return _PairedFirstLayer.apply(x, y, weight, bias, key, shuffles, code, slope)
    x_part = F.linear(x, weight[:, : x.shape[1]])
    y_part = F.linear(y, weight[:, x.shape[1] :])
    # Under autocast the products come in 16 bits and the bias does not.
    shift = x_part.new_zeros(weight.shape[0]) if bias is None else bias.to(x_part.dtype)
    return _ops.paired_first_layer.default(x_part, y_part, shift, key, shuffles, code, slope)


class _PairedFirstLayer(torch.autograd.Function):
    """The products and the op as one node of the graph: five fewer, and no zero-filled slices of the weight."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        key: Tensor,
        shuffles: int,
        activation: int,
        slope: float,
    ) -> Tensor:
        x_part = torch.mm(x, weight[:, : x.shape[1]].t())
        y_part = torch.mm(y, weight[:, x.shape[1] :].t())
        shift = weight.new_zeros(weight.shape[0]) if bias is None else bias
        ctx.save_for_backward(x, y, weight, x_part, y_part, shift, key)
        ctx.arguments = (shuffles, activation, slope)
        with torch._C._AutoDispatchBelowAutograd():
            return _ops.paired_first_layer.default(x_part, y_part, shift, key, shuffles, activation, slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, *parts = ctx.saved_tensors
        grad_x_part, grad_y_part = _ops.paired_first_layer_backward.default(grad, *parts, *ctx.arguments)
        width = x.shape[1]
        grad_x = grad_y = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.mm(grad_x_part, weight[:, :width])
        if ctx.needs_input_grad[1]:
            grad_y = torch.mm(grad_y_part, weight[:, width:])
        if ctx.needs_input_grad[2]:
            grad_weight = torch.cat([torch.mm(grad_x_part.t(), x), torch.mm(grad_y_part.t(), y)], 1)
        if ctx.needs_input_grad[3]:
            # Every pair's gradient reaches the bias once, and grad_x_part already sums them by row.
            grad_bias = grad_x_part.sum(0)
        return grad_x, grad_y, grad_weight, grad_bias, None, None, None, None


def _check_layer(x: Tensor, weight: Tensor, bias: Tensor | None, width: int) -> None:
    parameters = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    _check_floating(one_dtype=not torch.is_autocast_enabled(x.device.type), x=x, **parameters)
    if weight.ndim != 2 or weight.shape[1] != width:
        raise ValueError(f"weight must be [h, dx + dy] = [h, {width}], got shape {list(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [h] = [{weight.shape[0]}], got shape {list(bias.shape)}")


@torch.library.register_fake("mine_fast::paired_first_layer")
def _(
    x_part: Tensor, y_part: Tensor, bias: Tensor, key: Tensor, shuffles: int, activation: int, slope: float
) -> Tensor:
    return x_part.new_empty((1 + shuffles) * x_part.shape[0], x_part.shape[1])


@torch.library.register_fake("mine_fast::paired_first_layer_backward")
def _(
    grad: Tensor,
    x_part: Tensor,
    y_part: Tensor,
    bias: Tensor,
    key: Tensor,
    shuffles: int,
    activation: int,
    slope: float,
) -> tuple[Tensor, Tensor]:
    return x_part.new_empty(x_part.shape), y_part.new_empty(y_part.shape)


def _paired_first_layer_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.shuffles, ctx.activation, ctx.slope = inputs
    ctx.save_for_backward(*tensors)


def _paired_first_layer_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, grad_y = _ops.paired_first_layer_backward.default(
        grad, *ctx.saved_tensors, ctx.shuffles, ctx.activation, ctx.slope
    )
    # Every pair's gradient reaches the bias once, and grad_x already sums them by row.
    grad_bias = grad_x.sum(0) if ctx.needs_input_grad[2] else None
    return grad_x, grad_y, grad_bias, None, None, None, None


def _refuse_second_derivative(name: str) -> Any:
    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(
            f"mine_fast.ops.{name} can be differentiated once; "
            f"for second derivatives use mine_fast.reference, the same in plain torch"
        )

    return refuse


torch.library.register_autograd(
    "mine_fast::paired_first_layer", _paired_first_layer_backward, setup_context=_paired_first_layer_setup
)
torch.library.register_autograd(
    "mine_fast::paired_first_layer_backward", _refuse_second_derivative("paired_first_layer")
)


# --- Donsker-Varadhan term --------------------------------------------------------------------------------------------


class DVTerm(NamedTuple):
    """What `dv_loss` returns; 0-d tensors in nats.

    Attributes:
        loss: minus the bound; differentiable in the scores.
        log_ema: the new moving average of E_marginal[exp T], as its logarithm, to pass to the next call.
        joint_mean: mean of the joint scores, E_joint[T].
        log_mean_exp: log mean exp of the marginal scores.
    """

    loss: Tensor
    log_ema: Tensor
    joint_mean: Tensor
    log_mean_exp: Tensor


def dv_loss_of_scores(
    scores: Tensor, joint_rows: int, log_ema: Tensor | None = None, alpha: float = 0.01, loss: str = "mine"
) -> DVTerm:
    """`dv_loss` of one tensor that holds the joint scores first and the marginal scores after them.

    That is what a critic returns for the rows of `pair` or `paired_first_layer`; no slice or copy is made.

    Args:
        scores: [N + M], [N + M, 1] or any shape with that many elements in that order.
        joint_rows: N.
        log_ema: see `dv_loss`.
        alpha: see `dv_loss`.
        loss: see `dv_loss`.

    >>> term = dv_loss_of_scores(torch.tensor([1.0, 1.0, 0.0, 0.0]), joint_rows=2)
    >>> term.loss.item()
    -1.0
    """
    _check_floating(scores=scores)
    _check_dv_arguments(alpha, loss)
    _check_integer("joint_rows", joint_rows)
    if not 0 < joint_rows < scores.numel():
        raise ValueError(
            f"scores must hold joint and marginal scores, got {scores.numel()} scores with joint_rows={joint_rows}"
        )
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    if log_ema is None:
        log_ema = torch.full((), -math.inf, dtype=dtype, device=scores.device)
    elif not isinstance(log_ema, Tensor):
        raise TypeError(f"log_ema must be a scalar tensor on {scores.device}, got {_describe(log_ema)}")
    elif log_ema.numel() != 1 or log_ema.device != scores.device:
        raise ValueError(f"log_ema must be a scalar tensor on {scores.device}, got {_describe(log_ema)}")
    log_ema = log_ema.to(dtype).reshape(())
    value, new_log_ema, statistics = dv_term(scores.reshape(-1), joint_rows, log_ema, alpha, loss)
    return DVTerm(value, new_log_ema, statistics[0], statistics[1])


def dv_term(
    scores: Tensor, joint_rows: int, log_ema: Tensor, alpha: float, loss: str
) -> tuple[Tensor, Tensor, Tensor]:
    """`dv_loss_of_scores` for arguments that are known to be right: scores [N + M], log_ema in their sums' dtype.

    Returns:
        loss [], the new log-EMA [], and (joint mean, log-mean-exp, log normaliser) [3]; only the first is
        differentiable.
    """
    if _in_eager_mode(scores):
        return _DVTerm.apply(scores, joint_rows, log_ema, alpha, LOSSES.index(loss))
    value, new_log_ema, statistics = _ops.dv_term.default(
        scores, joint_rows, log_ema.detach(), alpha, LOSSES.index(loss)
    )
    return value, new_log_ema.detach(), statistics.detach()


class _DVTerm(torch.autograd.Function):
    """The op as a node of our own; see `_in_eager_mode`."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, joint_rows: int, log_ema: Tensor, alpha: float, loss: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            value, new_log_ema, statistics = _ops.dv_term.default(scores, joint_rows, log_ema, alpha, loss)
        ctx.save_for_backward(scores, statistics)
        ctx.joint_rows = joint_rows
        ctx.mark_non_differentiable(new_log_ema, statistics)
        return value, new_log_ema, statistics

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
        return _dv_term_backward(ctx, grad)


def _check_dv_arguments(alpha: float, loss: str) -> None:
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be in (0, 1], got {alpha}")


def dv_loss(
    t_joint: Tensor, t_marginal: Tensor, log_ema: Tensor | None = None, alpha: float = 0.01, loss: str = "mine"
) -> DVTerm:
    """The Donsker-Varadhan (or NWJ) loss of a critic's scores, with MINE's bias-corrected gradient.

        mine, mine_biased   -mean(t_joint) + log mean exp(t_marginal)
        fdiv                -mean(t_joint) + mean exp(t_marginal - 1)

    `mine` has the gradient of Belghazi et al. 2018, section 3.2: the weight of marginal score i is
    exp(t_i - log_ema) / M, where log_ema is the logarithm of the moving average of E[exp T], this batch included;
    `mine_biased` has the plain gradient of its value. Everything is in the log domain: any finite fp32 score is fine
    (the value of fdiv itself leaves fp32 beyond a score of 89).

    Args:
        t_joint: scores of N joint pairs, [N] or [N, 1]; float16, bfloat16, float32 or float64.
        t_marginal: scores of M marginal pairs, the same dtype and device.
        log_ema: 0-d, what the last call returned; None or -inf starts the average with this batch.
        alpha: weight of this batch in the average, in (0, 1].
        loss: one of `LOSSES`.

    Returns:
        DVTerm in float32 (float64 for float64 scores).

    Raises:
        ValueError: no scores, unknown loss, alpha outside (0, 1], different devices.
        TypeError: different dtypes, not floating.

    >>> term = dv_loss(torch.full((4,), 2.0), torch.zeros(4))
    >>> term.loss.item(), term.log_ema.item()
    (-2.0, 0.0)
    """
    _check_floating(t_joint=t_joint, t_marginal=t_marginal)
    if t_joint.numel() == 0 or t_marginal.numel() == 0:
        raise ValueError(
            f"t_joint and t_marginal must not be empty, got {t_joint.numel()} and {t_marginal.numel()} scores"
        )
    scores = torch.cat([t_joint.reshape(-1), t_marginal.reshape(-1)])
    return dv_loss_of_scores(scores, t_joint.numel(), log_ema, alpha, loss)


@torch.library.register_fake("mine_fast::dv_term")
def _(scores: Tensor, joint_rows: int, log_ema: Tensor, alpha: float, loss: int) -> tuple[Tensor, Tensor, Tensor]:
    return log_ema.new_empty(()), log_ema.new_empty(()), log_ema.new_empty(3)


@torch.library.register_fake("mine_fast::dv_term_backward")
def _(grad: Tensor, scores: Tensor, joint_rows: int, statistics: Tensor) -> Tensor:
    return scores.new_empty(scores.shape)


def _dv_term_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    scores, ctx.joint_rows, *_ = inputs
    ctx.save_for_backward(scores, output[2])


def _dv_term_backward(ctx: Any, grad: Tensor, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
    scores, statistics = ctx.saved_tensors
    return _ops.dv_term_backward.default(grad, scores, ctx.joint_rows, statistics), None, None, None, None


torch.library.register_autograd("mine_fast::dv_term", _dv_term_backward, setup_context=_dv_term_setup)
torch.library.register_autograd("mine_fast::dv_term_backward", _refuse_second_derivative("dv_loss"))


fallback.register()
