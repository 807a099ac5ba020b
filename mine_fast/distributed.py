"""The loss of a batch whose rows are spread over processes: each scores its own pairs, and all return one number.

With N joint scores t and M marginal scores u in all processes together, the loss is that of one process which has all
of them; for "mine"

    L = -1/N sum t  +  log (1/M sum exp u)

A process r brings N_r, sum t, M_r and log sum exp u of its own scores. One gather of these few numbers gives every
process all of them, and thereby L and the moving average, in the same bits. Sums, not means, are added: a process
counts by its rows, and one without rows counts nothing.

The gradient of L with respect to a score needs no more than the numbers that are there: it is -1/N for a joint score
and exp(u - log normaliser) / M for a marginal one. `Processes.share_gradient` multiplies it by the sum of the gradients
that come in at the W processes, W where each is 1: the gradient of the sum of what the processes return.
`DistributedDataParallel` divides by W, and has the gradient of L.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mine_fast import ops
from mine_fast.all_pairs import all_pairs_terms
from mine_fast.bounds import fused_name, limited, marginal_value
from mine_fast.critics import all_scores, call_critic, explaining, paired_scores
from mine_fast.ops.dv import dv_term
from mine_fast.processes import Processes
from mine_fast.reference import log_mean_exp, sum_dtype
from mine_fast.separable import SeparableCritic

if TYPE_CHECKING:
    from mine_fast.loss import DVLoss

__all__ = ["Terms", "distributed_loss", "loss_of_terms"]


class Terms(NamedTuple):
    """What a loss needs of the scores of this process, in the dtype of the sums.

    Attributes:
        joint: [N_r], scores of joint pairs; there may be none.
        levels: [K], log sum exp over groups of marginal pairs, a pair alone being one; those of "smile" are clipped.
            Of "infonce": [N_r], log mean exp over the candidates of each row.
        pairs: M_r, marginal pairs.
        softplus: [], its sum over the marginal pairs, for losses that train a classifier ("js", "smile").
    """

    joint: Tensor
    levels: Tensor
    pairs: int
    softplus: Tensor | None


def distributed_loss(
    mine: DVLoss, processes: Processes, x: Tensor, z: Tensor, z_marg: Tensor | None, key: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of the rows of all processes; every process calls it with its own.

    A process with fewer rows than a marginal pair takes has none: its joint rows count, and it need not be left out.

    Args:
        mine: the loss module, in the same state in all processes.
        processes: all of them.
        x: [B_r, dx], rows of this process; there may be none.
        z: [B_r, dz].
        z_marg: marginal samples of the caller's own, or None.
        key: of the marginal shuffle; with marginals "global" that of rank 0 counts.

    Returns:
        loss [], float32 (float64 for float64 scores), and the new log_ema []: the same bits in all processes.

    Raises:
        ValueError: no marginal pair can be made in any process.
        ValueError, TypeError: a critic that does not fit, see `call_critic`; the other processes then wait in vain.
        RuntimeError: another process has ended, or does not come.
    """
    return loss_of_terms(processes, _terms(mine, processes, x, z, z_marg, key), mine.loss, mine.log_ema, mine.alpha)


def loss_of_terms(
    processes: Processes, terms: Terms, loss: str, log_ema: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """`distributed_loss` of scores that are there.

    Args:
        processes: all of them.
        terms: of this one.
        loss: one of `bounds.LOSSES`.
        log_ema: moving average [] of "mine", the same in all processes.
        alpha: see `ops.dv_loss`.

    Returns:
        As `distributed_loss`.

    Raises:
        ValueError: no process has a marginal pair.
        RuntimeError: another process has ended, or does not come.
    """
    joint, levels, own_pairs, softplus = terms
    zero = joint.new_zeros((), dtype=torch.float64)
    own = [
        zero + joint.numel(),
        joint.detach().sum(),
        zero + own_pairs,
        (levels.detach().sum() if loss == "infonce" else torch.logsumexp(levels.detach(), 0)),
    ]
    with torch.no_grad(), torch.autocast(joint.device.type, enabled=False):
        everyone = processes.gather(torch.stack([value.double() for value in own]))  # [W, 4]
        rows, joint_sum, pairs = everyone[:, :3].sum(0).unbind()
        if own_pairs == 0 and float(pairs) == 0:  # where there is none, every process looks
            raise ValueError(
                f"x and z need at least 2 rows in a process: no marginal pairs can be made of the {int(rows)} rows of "
                f"this batch, spread over {processes.size} processes"
            )
        joint_mean, level = joint_sum / rows, torch.logsumexp(everyone[:, 3], 0) - pairs.log()
        fused = fused_name(loss)
        if fused is not None:
            # The term of any scores is that of their mean and log-mean-exp, as one score each.
            scores = torch.stack([joint_mean, level])
            value, log_ema, statistics = dv_term(scores, 1, log_ema.double(), alpha, fused)
        elif loss == "infonce":
            value = (everyone[:, 3].sum() - joint_sum) / rows
        else:
            value = marginal_value(level, loss) - joint_mean
    if fused is not None:
        # In float64, as float32 has no fractions left where scores are in the thousands.
        share = torch.exp(levels.double() - statistics[2]).sum() / pairs - joint.sum() / rows
    elif softplus is None:  # infonce
        share = (levels - joint).sum() / rows
    else:
        share = softplus / pairs - F.logsigmoid(joint).sum() / rows
    return processes.share_gradient(value.to(joint.dtype), share.to(joint.dtype)), log_ema


def _terms(mine: DVLoss, processes: Processes, x: Tensor, z: Tensor, z_marg: Tensor | None, key: Tensor) -> Terms:
    """Score the pairs of this process."""
    rows = x.shape[0]
    if z_marg is not None:
        joint = call_critic(mine.T, mine.method, x, z)
        return _terms_of_scores(mine, joint, call_critic(mine.T, mine.method, x, z_marg))
    if mine.marginals == "global":
        return _terms_of_scores(mine, *_global_scores(mine, processes, x, z, key))
    if rows < 2:
        joint = call_critic(mine.T, mine.method, x, z)
        return _terms_of_scores(mine, joint, joint[:0])
    if mine.in_one_product:
        scores = all_scores(mine.T, x, z)
    elif mine.marginals == "all":
        joint, levels, softplus = all_pairs_terms(mine.T, mine.method, x, z, mine.loss, mine.clip)
        return Terms(joint, levels, rows * (rows - 1), softplus)
    else:
        scores = paired_scores(mine.T, mine.method, x, z, key, mine.partners(rows))
    return _terms_of_scores(mine, scores[:rows], scores[rows:])


def _global_scores(mine: DVLoss, processes: Processes, x: Tensor, z: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Joint scores [B_r], and marginal ones of the rows of x here with rows of z anywhere.

    The rows of all processes, in the order of the ranks, are shuffled by the derangement that one process would draw
    for them. It is computed from its key, so each process knows the partners of its own rows.
    """
    counts, key = _agree(processes, z, key)
    total, rows = sum(counts), x.shape[0]
    if total < 2:
        raise ValueError(f"x and z need at least 2 rows in all processes together, got {total}")
    begin = sum(counts[: processes.rank])
    everywhere = processes.gather_rows(z, counts)
    own = slice(begin, begin + rows)
    if mine.in_one_product:
        return explaining(_global_product, mine.T, None, x, everywhere, begin)
    partners = ops.shuffle_index(total, key, mine.partners(total))[:, own]  # [S, B_r]
    joint = call_critic(mine.T, mine.method, x, z)
    x_rows = x.repeat(partners.shape[0], *(1,) * (x.ndim - 1))
    return joint, call_critic(mine.T, mine.method, x_rows, everywhere[partners].flatten(0, 1))


def _global_product(
    critic: SeparableCritic, method: str | None, x: Tensor, z: Tensor, begin: int
) -> tuple[Tensor, Tensor]:
    """Scores of x [B_r] by a separable critic with their own rows of z [B], from `begin` on, and with all others."""
    f, g = critic.factors(x, z)
    row = begin + torch.arange(f.shape[0], device=f.device)
    partners = (row[:, None] + torch.arange(g.shape[0], device=f.device)) % g.shape[0]
    scores = (f @ g.T).gather(1, partners).T  # [B, B_r]
    return scores[0], scores[1:].reshape(-1)


def _agree(processes: Processes, z: Tensor, key: Tensor) -> tuple[list[int], Tensor]:
    """The rows of every process, and the key of rank 0 for all. Waits for the device.

    Raises:
        ValueError: rows of different sizes.
    """
    size = z.new_tensor([z.shape[0], math.prod(z.shape[1:])], dtype=torch.int64)
    everyone = processes.gather(torch.cat([size, key]))  # [W, 4]
    counts, widths, *_ = everyone.T.tolist()
    if len(set(widths)) > 1:
        raise ValueError(f"z must have the same columns in all processes, got {widths}")
    return counts, everyone[0, 2:]


def _terms_of_scores(mine: DVLoss, joint: Tensor, marginal: Tensor) -> Terms:
    dtype = sum_dtype(joint.dtype)
    joint, marginal = joint.to(dtype), marginal.to(dtype)
    pairs = marginal.numel()
    if fused_name(mine.loss) is not None:
        return Terms(joint, marginal, pairs, None)
    if mine.loss == "infonce":
        # Without rows too, all scores go in: every process differentiates the same calls, or the others wait for it.
        candidates = torch.cat([joint, marginal]).view(1 + pairs // max(1, joint.numel()), -1)  # [1 + S, N_r]
        return Terms(joint, log_mean_exp(candidates), pairs, None)
    return Terms(joint, limited(marginal, mine.loss, mine.clip), pairs, -F.logsigmoid(-marginal).sum())
