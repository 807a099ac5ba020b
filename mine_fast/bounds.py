"""Bounds beside those of the fused kernels, in plain torch: Jensen-Shannon, SMILE and InfoNCE.

Each is a loss, minus a bound on the mutual information in nats, of the scores of a critic on joint and marginal pairs:
the joint rows first, then the shuffled ones, as `ops.pair` and `ops.paired_first_layer` lay them out. They accumulate
in float32 (float64 for float64 scores), differentiate by ordinary autograd to any order, and keep no moving average.
NWJ has a kernel: loss "nwj" (= "fdiv") is `ops.dv_loss(..., loss="fdiv")`.

    loss = mine_fast.MINE(T, loss="infonce")(x, y)      the module that draws the pairs and calls them
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mine_fast.checks import as_number
from mine_fast.ops._checks import check_floating, check_integer
from mine_fast.reference import LOSSES as FUSED_LOSSES
from mine_fast.reference import log_mean_exp, sum_dtype

__all__ = ["LOSSES", "fused_name", "infonce_loss", "js_loss", "smile_loss"]

#: Every loss of `MINE` by name.
LOSSES = (*FUSED_LOSSES, "nwj", "js", "infonce", "smile")

#: Candidates per row of InfoNCE beside the joint one, where nobody says how many.
INFONCE_SHUFFLES = 15


def fused_name(loss: str) -> str | None:
    """What the fused kernels call a loss, or None if it is computed here.

    >>> fused_name("nwj"), fused_name("mine"), fused_name("js")
    ('fdiv', 'mine', None)
    """
    loss = "fdiv" if loss == "nwj" else loss
    return loss if loss in FUSED_LOSSES else None


def loss_of_scores(scores: Tensor, joint_rows: int, loss: str, clip: float) -> Tensor:
    """The loss [] of this file by its name; `clip` is SMILE's."""
    if loss == "js":
        return js_loss(scores, joint_rows)
    return infonce_loss(scores, joint_rows) if loss == "infonce" else smile_loss(scores, joint_rows, clip)


def js_loss(scores: Tensor, joint_rows: int) -> Tensor:
    """Minus the NWJ bound of a critic that is trained to tell joint from marginal pairs.

        gradient   of mean softplus(-t_joint) + mean softplus(t_marginal)   (Nowozin et al. 2016, arXiv 1606.00709)
        value      mean exp(t_marginal) - 1 - mean(t_joint)

    The first is the cross-entropy of a classifier with logit T, minus the bound on the Jensen-Shannon divergence, which
    is no mutual information (it ends at log 2). Its optimum is T = log p(x, y) / p(x)p(y), so that 1 + T is the critic
    of the NWJ bound, which is the value (Poole et al. 2019, arXiv 1905.06922, section 2.3). No score weighs more
    than 1 in the gradient, where exp(t) may weigh anything: that is what makes it quiet.

    Args:
        scores: [N + M] or any shape with that many elements, joint scores first; float16, bfloat16, float32 or float64.
        joint_rows: N.

    Returns:
        0-d tensor in nats. The gradient is finite for any finite scores; the value leaves float32 where a marginal
        score exceeds 89, as NWJ does.

    Raises:
        ValueError: no joint or no marginal scores.
        TypeError: scores that are not floating, joint_rows that is no integer.

    >>> import torch
    >>> js_loss(torch.tensor([2.0, 2.0, 0.0, 0.0]), joint_rows=2)
    tensor(-2.)
    """
    joint, marginal = _joint_and_marginal(scores, joint_rows)
    return _classifier_loss(joint, marginal, "js", math.inf)


def smile_loss(scores: Tensor, joint_rows: int, clip: float = 5.0) -> Tensor:
    """Minus the Donsker-Varadhan bound with marginal scores clipped to [-clip, clip] (SMILE), trained as `js_loss` is.

        value      -mean(t_joint) + log mean exp(clip(t_marginal))
        gradient   that of `js_loss`

    Song & Ermon 2020 (arXiv 1910.06222, eq. 11) clip the density ratio, whose heavy tail is what makes the marginal
    term of MINE vary, and train the critic by the Jensen-Shannon objective. The clipped value itself would not do to
    train on: where all marginal scores are beyond the clip, nothing would hold the critic down.

    The value varies less than the bound and is none: the upper clip adds what the tail would have taken off, the lower
    one takes what was not there. Of the exact critic of two Gaussian columns with clip 1 it is 0.48 for 0.51 nats, and
    2.28 for 1.96. `MINE.fit` reads its estimate off held-out rows without a clip.

    Args:
        scores: see `js_loss`.
        joint_rows: see `js_loss`.
        clip: tau of the paper, above 0; infinity is the Donsker-Varadhan bound itself.

    Returns:
        0-d tensor in nats, finite for any finite scores.

    Raises:
        ValueError, TypeError: as `js_loss`; a clip that is no number above 0.

    >>> import torch
    >>> smile_loss(torch.tensor([2.0, 2.0, 100.0, 100.0]), joint_rows=2, clip=5.0)
    tensor(3.)
    """
    clip = as_clip(clip)
    joint, marginal = _joint_and_marginal(scores, joint_rows)
    return _classifier_loss(joint, marginal, "smile", clip)


def infonce_loss(scores: Tensor, joint_rows: int) -> Tensor:
    """Minus the InfoNCE bound: how well the joint pair of a row stands out among its S marginal pairs.

        -mean_i [t_i0 - log mean_(s = 0..S) exp t_is]      (van den Oord et al. 2018, arXiv 1807.03748, eq. 4)

    with t_i0 the joint score of row i and t_is that of its pair in shuffle s. The joint score is among the candidates,
    so the bound is at most log(S + 1), however large the information is: 2.77 nats for `MINE`'s default of 15 shuffles,
    and 6.9 nats take 1000. The critic that trains on it has no such limit: its optimum is the log density ratio up to a
    function of x, which the value does not see and `MINE.fit` takes off. The S candidates of a row must be different
    rows (Poole et al. 2019, arXiv 1905.06922, eq. 10); `MINE` takes at most the B - 1 others of a batch.

    Args:
        scores: [(1 + S) * B], the joint scores, then those of every shuffle in the order of their row of x.
        joint_rows: B.

    Returns:
        0-d tensor in nats, at least -log(S + 1).

    Raises:
        ValueError, TypeError: as `js_loss`; marginal scores that are not S for each row.

    >>> import math, torch
    >>> loss = infonce_loss(torch.tensor([50.0, 50.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), joint_rows=2)   # S = 3
    >>> math.isclose(loss.item(), -math.log(4), rel_tol=1e-6)
    True
    """
    joint, marginal = _joint_and_marginal(scores, joint_rows)
    if marginal.numel() % joint_rows:
        raise ValueError(
            f"scores must hold as many marginal scores for every joint row, got {marginal.numel()} for {joint_rows}"
        )
    candidates = torch.cat([joint, marginal]).view(-1, joint_rows)  # [1 + S, B]
    return (log_mean_exp(candidates) - joint).mean()


def infonce_of_matrix(scores: Tensor) -> Tensor:
    """`infonce_loss` of scores [B, B], the joint ones on the diagonal: the candidates of a row are all rows of z."""
    scores = scores.to(sum_dtype(scores.dtype))
    return (log_mean_exp(scores, 1) - scores.diagonal()).mean()


def as_clip(clip: object) -> float:
    """A clip as Python's float, refused unless it is a number above 0."""
    number = as_number("clip", clip, "a number above 0")
    if not number > 0:
        raise ValueError(f"clip must be above 0, got {clip}")
    return number


def limited(marginal: Tensor, loss: str, clip: float) -> Tensor:
    """Marginal scores as the value of a loss counts them: "smile" clips them to [-clip, clip]."""
    return marginal.clamp(-clip, clip) if loss == "smile" else marginal


def marginal_value(level: Tensor, loss: str) -> Tensor:
    """The marginal term in the value of "js" or "smile", of the log mean exp of the `limited` marginal scores."""
    return torch.exp(level) - 1 if loss == "js" else level


def _classifier_loss(joint: Tensor, marginal: Tensor, loss: str, clip: float) -> Tensor:
    value = marginal_value(log_mean_exp(limited(marginal, loss, clip)), loss)
    return trained_as_classifier(joint, value, -F.logsigmoid(-marginal).mean())


def trained_as_classifier(joint: Tensor, marginal_value: Tensor, marginal_softplus: Tensor) -> Tensor:
    """The value marginal_value - mean(joint) with the gradient of the cross-entropy that `js_loss` trains on.

    Args:
        joint: [N], scores.
        marginal_value: [], of the marginal scores.
        marginal_softplus: [], their mean softplus, as -logsigmoid(-t): `F.softplus` would be linear from 20 on.
    """
    value = marginal_value - joint.mean()
    objective = marginal_softplus - F.logsigmoid(joint).mean()
    return value.detach() + (objective - objective.detach())


def _joint_and_marginal(scores: Tensor, joint_rows: int) -> tuple[Tensor, Tensor]:
    """Joint [N] and marginal [M] scores in the dtype of the sums."""
    check_floating(scores=scores)
    check_integer("joint_rows", joint_rows)
    if not 0 < joint_rows < scores.numel():
        raise ValueError(
            f"scores must hold joint and marginal scores, got {scores.numel()} scores with joint_rows={joint_rows}"
        )
    work = scores.to(sum_dtype(scores.dtype)).reshape(-1)
    return work[:joint_rows], work[joint_rows:]
