"""The Donsker-Varadhan term of a critic's scores, with MINE's bias-corrected gradient."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mine_fast.ops._checks import check_floating, check_integer, check_number, describe
from mine_fast.ops._dispatch import backward_kernel, in_eager_mode, kernel, needs_gradient, refuse_second_derivative
from mine_fast.reference import LOSSES, sum_dtype

_dv_term = torch.ops.mine_fast.dv_term.default
_backward = torch.ops.mine_fast.dv_term_backward.default


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

    Returns:
        DVTerm, as `dv_loss`.

    Raises:
        ValueError: no joint or no marginal scores, unknown loss, alpha outside (0, 1], a log_ema of more than one
            number or on another device.
        TypeError: scores not floating or not dense; joint_rows is no integer, alpha no number, log_ema no tensor.

    >>> import torch
    >>> from mine_fast import ops
    >>> term = ops.dv_loss_of_scores(torch.tensor([1.0, 1.0, 0.0, 0.0]), joint_rows=2)
    >>> term.loss.item()
    -1.0
    """
    check_floating(scores=scores)
    check_dv_arguments(alpha, loss)
    check_integer("joint_rows", joint_rows)
    if not 0 < joint_rows < scores.numel():
        raise ValueError(
            f"scores must hold joint and marginal scores, got {scores.numel()} scores with joint_rows={joint_rows}"
        )
    log_ema = as_log_ema(log_ema, scores.device, sum_dtype(scores.dtype))
    if scores.ndim != 1:
        scores = scores.reshape(-1)
    value, new_log_ema, statistics = dv_term(scores, joint_rows, log_ema, alpha, loss)
    joint_mean, log_mean_exp, _ = statistics.unbind()
    return DVTerm(value, new_log_ema, joint_mean, log_mean_exp)


def as_log_ema(log_ema: object, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The moving average [] in the dtype of the sums; None starts it, -inf."""
    if log_ema is None:
        return torch.full((), -math.inf, dtype=dtype, device=device)
    if not isinstance(log_ema, Tensor):
        raise TypeError(f"log_ema must be a scalar tensor on {device}, got {describe(log_ema)}")
    if log_ema.numel() != 1 or log_ema.device != device:
        raise ValueError(f"log_ema must be a scalar tensor on {device}, got {describe(log_ema)}")
    return log_ema.to(dtype).reshape(()) if log_ema.dtype != dtype or log_ema.ndim else log_ema


def dv_term(scores: Tensor, joint_rows: int, log_ema: Tensor, alpha: float, loss: str) -> tuple[Tensor, Tensor, Tensor]:
    """`dv_loss_of_scores` for arguments that are known to be right: scores [N + M], log_ema in their sums' dtype.

    Returns:
        loss [], the new log-EMA [], and (joint mean, log-mean-exp, log normaliser) [3]; only the first is
        differentiable.
    """
    code = LOSSES.index(loss)
    if in_eager_mode(scores):
        if needs_gradient(scores):
            return _DVTerm.apply(scores, joint_rows, log_ema, alpha, code)
        return kernel(_dv_term, scores, joint_rows, log_ema, alpha, code)
    value, new_log_ema, statistics = _dv_term(scores, joint_rows, log_ema.detach(), alpha, code)
    return value, new_log_ema.detach(), statistics.detach()


class _DVTerm(torch.autograd.Function):
    """The op as a node of our own; see `_dispatch`."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, joint_rows: int, log_ema: Tensor, alpha: float, loss: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        value, new_log_ema, statistics = kernel(_dv_term, scores, joint_rows, log_ema, alpha, loss)
        ctx.save_for_backward(scores, statistics)
        ctx.joint_rows = joint_rows
        ctx.mark_non_differentiable(new_log_ema, statistics)
        return value, new_log_ema, statistics

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
        return _dv_term_backward(ctx, grad)


def check_dv_arguments(alpha: float, loss: str) -> None:
    """Refuse an unknown loss, and an alpha that is no number in (0, 1]."""
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    check_number("alpha", alpha)
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
        TypeError: different dtypes, not floating, not dense; alpha is no number.

    A batch whose log-mean-exp is not finite (scores of NaN or +inf, or of -inf alone) shows in its loss and gradient;
    `log_ema` then stays what it was.

    >>> import torch
    >>> from mine_fast import ops
    >>> term = ops.dv_loss(torch.full((4,), 2.0), torch.zeros(4))
    >>> term.loss.item(), term.log_ema.item()
    (-2.0, 0.0)
    """
    check_floating(t_joint=t_joint, t_marginal=t_marginal)
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
    return backward_kernel(_backward, grad, scores, ctx.joint_rows, statistics), None, None, None, None


torch.library.register_autograd("mine_fast::dv_term", _dv_term_backward, setup_context=_dv_term_setup)
torch.library.register_autograd("mine_fast::dv_term_backward", refuse_second_derivative("dv_loss"))
