"""The fused ops in plain torch: their specification, the tests' oracle, and the fallback where there is no kernel.

Every function here computes what the kernels of `csrc/` do, in the shortest way that reads as the maths, with arguments
of a lower level than those of `mine_fast.ops` and few checks. They differentiate by ordinary autograd, to any order;
they build index tensors and intermediate copies that the kernels do not. Units are nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "advance_key",
    "all_pairs",
    "bijection",
    "dv_term",
    "log_mean_exp",
    "log_sum_exp",
    "marginal_shuffle",
    "pair",
    "paired_first_layer",
    "shuffle_index",
]

#: Losses by name; the position is the code in csrc/log_mean_exp.h.
LOSSES = ("mine", "mine_biased", "fdiv")

#: Activations of the paired first layer by name; the position is the code in csrc/activation.h.
ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "tanh")

#: Streams of bijections of one (seed, offset), as csrc/shuffle.h numbers them: the order of a batch's rows, that of the
#: shifts, and that of the rows of pass `offset` over the data.
ROW_STREAM, SHIFT_STREAM, PASS_STREAM = 0, 1, 2

_GOLDEN = 0x9E3779B97F4A7C15
_OFFSET_STEP = 0xD1342543DE82EF95
_STREAM_STEP = 0xAF251AF3B0F025B5
_MIN_BITS = 6
_ROUNDS = 8


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """What values of a dtype are added up in: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def log_sum_exp(scores: Tensor, dim: int = 0) -> Tensor:
    """Log sum exp over one dimension, of float32 or float64 scores.

    On a CPU, what adds less than the smallest normal number to a sum that is at least 1 is taken to add that.
    torch.logsumexp lets it underflow, for which the CPU's exp takes 15 times as long, and 60 times where the result is
    subnormal: of 512 x 512 scores with a standard deviation of 200, 6 ms in the place of 0.5, and as much again in the
    backward.

    >>> import torch
    >>> log_sum_exp(torch.tensor([0.0, 0.0, -500.0]))
    tensor(0.6931)
    """
    if scores.device.type != "cpu":  # where all arguments cost the same
        return torch.logsumexp(scores, dim)
    highest = scores.detach().amax(dim, keepdim=True)
    least = math.log(torch.finfo(scores.dtype).tiny) + 1
    shifted = scores - highest
    shifted = torch.where(shifted < least, least, shifted)  # clamp would hide the NaN of infinite scores
    found = shifted.exp().sum(dim).log() + highest.squeeze(dim)
    return torch.where(highest.squeeze(dim).isinf(), highest.squeeze(dim), found)


def log_mean_exp(scores: Tensor, dim: int = 0) -> Tensor:
    """Log mean exp over one dimension; see `log_sum_exp`."""
    return log_sum_exp(scores, dim) - math.log(scores.shape[dim])


def _signed(value: int) -> int:
    """The two's complement of a 64-bit constant: torch multiplies int64 modulo 2^64."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(v: Tensor, bits: int) -> Tensor:
    """Logical (zero-filling) right shift of int64."""
    return (v >> bits) & ((1 << (64 - bits)) - 1)


def mix64(v: Tensor) -> Tensor:
    """An invertible mixture of the bits of int64, modulo 2^64 (the finaliser of SplitMix64: Steele et al., 2014)."""
    v = (v ^ _shift_right(v, 30)) * _signed(0xBF58476D1CE4E5B9)
    v = (v ^ _shift_right(v, 27)) * _signed(0x94D049BB133111EB)
    return v ^ _shift_right(v, 31)


def _mix32(v: Tensor) -> Tensor:
    mask = 0xFFFFFFFF
    v = ((v ^ (v >> 16)) * 0x7FEB352D) & mask
    v = ((v ^ (v >> 15)) * 0x846CA68B) & mask
    return v ^ (v >> 16)


def bijection(key: Tensor, stream: int, n: int) -> Tensor:
    """The pseudo-random bijection of [0, n) of a key, as a table.

    A Feistel network whose round keys are hashed from (seed, offset, stream), cycle-walked from a power of two into
    [0, n) (Mitchell et al., arXiv 2106.06161).

    Args:
        key: int64 [..., 2], (seed, offset).
        stream: `ROW_STREAM`, `SHIFT_STREAM` or `PASS_STREAM`.
        n: size of the set.

    Returns:
        int64 [..., n], the image of 0 .. n-1.

    Raises:
        RuntimeError: a negative n.

    >>> import torch
    >>> sorted(bijection(torch.tensor([7, 0]), 0, 5).tolist())
    [0, 1, 2, 3, 4]
    """
    seed, offset = key[..., :1], key[..., 1:]
    bits = max(_MIN_BITS, (n - 1).bit_length())
    low_bits = bits // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << (bits - low_bits)) - 1
    state = mix64(seed + _signed(_GOLDEN))
    stream_key = _signed((stream * _STREAM_STEP + _GOLDEN) % (1 << 64))
    state = mix64(state ^ (offset * _signed(_OFFSET_STEP) + stream_key))
    round_keys = []
    for _ in range(_ROUNDS):
        state = state + _signed(_GOLDEN)
        round_keys.append(_shift_right(mix64(state), 32))

    def encrypt(v: Tensor) -> Tensor:
        low, high = v & low_mask, v >> low_bits
        for r in range(0, _ROUNDS, 2):
            high = high ^ (_mix32(low ^ round_keys[r]) & high_mask)
            low = low ^ (_mix32(high ^ round_keys[r + 1]) & low_mask)
        return (high << low_bits) | low

    value = encrypt(torch.arange(n, device=key.device))
    while bool((outside := value >= n).any()):
        value = torch.where(outside, encrypt(value), value)
    return value


def advance_key(key: Tensor) -> tuple[Tensor, Tensor]:
    """A copy of the key (seed, offset), and the key of the next step, (seed, offset + 1).

    >>> import torch
    >>> advance_key(torch.tensor([7, 3]))
    (tensor([7, 3]), tensor([7, 4]))
    """
    return key.clone(), key + torch.tensor([0, 1], device=key.device)


def shuffle_index(key: Tensor, rows: int, shuffles: int, inverse: bool = False) -> Tensor:
    """The partner of every row in every shuffle: pi^-1(pi(i) + k_s mod B), with k_s != 0 (a derangement).

    Args:
        key: int64 [..., 2], (seed, offset).
        rows: B; 0, or at least 2.
        shuffles: S.
        inverse: return instead the row whose partner is i.

    Returns:
        int64 [..., S, B].

    Raises:
        RuntimeError: one row, or fewer than none.

    >>> import torch
    >>> index = shuffle_index(torch.tensor([7, 0]), 5, shuffles=3)
    >>> index.shape, bool((index == torch.arange(5)).any())   # no row keeps its own partner
    (torch.Size([3, 5]), False)
    """
    if rows == 1:
        raise RuntimeError("a batch of one row cannot be shuffled: it has no other row to meet")
    if rows == 0:
        return torch.empty(*key.shape[:-1], shuffles, 0, dtype=torch.int64, device=key.device)
    rank = bijection(key, ROW_STREAM, rows)
    row_of_rank = torch.empty_like(rank).scatter_(-1, rank, torch.arange(rows, device=key.device).expand_as(rank))
    place = torch.arange(shuffles, device=key.device) % (rows - 1)
    shifts = 1 + bijection(key, SHIFT_STREAM, rows - 1)[..., place]  # [..., S]
    rank, shifts = rank[..., None, :], shifts[..., None]
    moved = (rank - shifts if inverse else rank + shifts) % rows
    return row_of_rank[..., None, :].expand_as(moved).gather(-1, moved)


def marginal_shuffle(y: Tensor, key: Tensor, shuffles: int = 1) -> Tensor:
    """Shuffled copies of y [B, ...] -> [S, B, ...].

    >>> import torch
    >>> marginal_shuffle(torch.arange(4.0), torch.tensor([1, 0])).sort().values
    tensor([[0., 1., 2., 3.]])
    """
    return y[shuffle_index(key, y.shape[0], shuffles)]


def pair(x: Tensor, y: Tensor, key: Tensor, shuffles: int = 1) -> Tensor:
    """Rows [x_i, y_i], then [x_i, y_partner(i)] of each shuffle: [(1 + S) * B, dx + dy].

    >>> import torch
    >>> pair(torch.zeros(4, 2), torch.ones(4, 1), torch.tensor([7, 0]), shuffles=2).shape
    torch.Size([12, 3])
    """
    y_rows = torch.cat([y[None], marginal_shuffle(y, key, shuffles)])  # [1 + S, B, dy]
    return torch.cat([x.expand(1 + shuffles, *x.shape), y_rows], dim=2).flatten(0, 1)


def activate(v: Tensor, activation: str, slope: float) -> Tensor:
    """Apply an activation of `ACTIVATIONS`; `slope` is LeakyReLU's negative slope or ELU's alpha."""
    if activation == "identity":
        return v
    if activation == "leaky_relu":
        return F.leaky_relu(v, slope)
    if activation == "elu":
        return F.elu(v, slope)
    if activation == "gelu_tanh":
        return F.gelu(v, approximate="tanh")
    if activation == "relu":
        return F.relu(v)
    if activation == "gelu":
        return F.gelu(v)
    return F.silu(v) if activation == "silu" else torch.tanh(v)


def activation_derivative(v: Tensor, activation: str, slope: float) -> Tensor:
    """The derivative of `activate` at v, written out for where there is no autograd."""
    if activation == "identity":
        return torch.ones_like(v)
    if activation in ("relu", "leaky_relu", "elu"):
        below = {"relu": torch.zeros_like(v), "leaky_relu": torch.full_like(v, slope), "elu": slope * v.exp()}
        return torch.where(v > 0, torch.ones_like(v), below[activation])
    if activation == "tanh":
        return 1 - torch.tanh(v) ** 2
    if activation == "silu":
        s = torch.sigmoid(v)
        return s * (1 + v * (1 - s))
    if activation == "gelu":
        density = torch.exp(-0.5 * v * v) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + torch.erf(v / math.sqrt(2))) + v * density
    scale = math.sqrt(2 / math.pi)
    t = torch.tanh(scale * (v + 0.044715 * v**3))
    return 0.5 * (1 + t) + 0.5 * v * (1 - t * t) * scale * (1 + 3 * 0.044715 * v * v)


def paired_first_layer(
    x_part: Tensor,  # [B, h], x Wx^T
    y_part: Tensor,  # [B, h], y Wy^T
    bias: Tensor,  # [h]
    key: Tensor,  # [2] int64
    shuffles: int = 1,
    activation: str = "relu",
    slope: float = 0.0,
) -> Tensor:
    """activation(x_part + y_part + bias) for the joint rows and every shuffle: [(1 + S) * B, h].

    >>> import torch
    >>> part = torch.ones(4, 3)
    >>> paired_first_layer(part, part, torch.zeros(3), torch.tensor([7, 0])).unique()
    tensor([2.])
    """
    y_rows = torch.cat([y_part[None], marginal_shuffle(y_part, key, shuffles)])
    return activate((x_part + y_rows + bias).flatten(0, 1), activation, slope)


def dv_term(
    scores: Tensor,  # [N + M], joint then marginal
    joint_rows: int,  # N
    log_ema: Tensor,  # []
    alpha: float = 0.01,
    loss: str = "mine",
) -> tuple[Tensor, Tensor, Tensor]:
    """The Donsker-Varadhan loss of the scores (Belghazi et al. 2018, eq. 12; csrc/log_mean_exp.h).

    A batch whose log-mean-exp is not finite shows in its loss and gradient, and is left out of the moving average.

    Returns:
        loss [], the new log-EMA [], and (joint mean, log-mean-exp, log normaliser) [3].

    >>> import math, torch
    >>> dv_term(torch.tensor([1.0, 1.0, 0.0, 0.0]), 2, torch.tensor(-math.inf))[0]
    tensor(-1.)
    """
    work = scores.to(sum_dtype(scores.dtype))
    joint, marginal = work[:joint_rows], work[joint_rows:]
    joint_mean = joint.mean()
    level = log_mean_exp(marginal)
    batch = level.detach()
    finite = batch.isfinite()
    log_normaliser = batch
    if loss == "mine":
        keep = math.log1p(-alpha) if alpha < 1 else -math.inf
        moved = torch.logaddexp(log_ema + keep, batch + math.log(alpha))
        log_ema = torch.where(finite, torch.where(log_ema == -math.inf, batch, moved), log_ema)
        log_normaliser = torch.where(finite, log_ema, batch)
        # The value is that of the batch, the gradient that of the moving average: exp(t - log_ema) / M.
        weight = (torch.exp(marginal - log_normaliser) / marginal.numel()).sum()
        second = torch.where(finite, batch + (weight - weight.detach()), level)
    elif loss == "mine_biased":
        second = level
    else:
        # Not exp(level - 1), whose gradient is inf * 0 where it overflows.
        second = torch.exp(marginal - (1 + math.log(marginal.numel()))).sum()
        log_normaliser = torch.ones_like(log_normaliser)
    statistics = torch.stack([joint_mean.detach(), batch, log_normaliser])
    return second - joint_mean, log_ema.detach(), statistics


def all_pairs(
    x_part: Tensor,  # [B, h], x Wx^T + b
    y_part: Tensor,  # [B, h], y Wy^T
    later: Sequence[Tensor],  # weight [out, in] and bias [out] of every later layer, the last with one output
    activations: Sequence[str],  # of every hidden layer
    slopes: Sequence[float],
    log_ema: Tensor,  # []
    alpha: float = 0.01,
    loss: str = "mine",
) -> tuple[Tensor, Tensor, Tensor]:
    """`dv_term` of the B joint pairs (i, i) and all B (B - 1) pairs (i, j), j != i: dense, with B^2 activations kept.

    Returns:
        As `dv_term`.

    >>> import math, torch
    >>> last = [torch.ones(1, 2), torch.zeros(1)]
    >>> loss = all_pairs(torch.eye(2), torch.eye(2), last, ["identity"], [0.0], torch.tensor(-math.inf))[0]
    >>> bool(loss.abs() < 1e-6)   # every pair has the score 2
    True
    """
    rows = x_part.shape[0]
    hidden = activate((x_part[:, None] + y_part).flatten(0, 1), activations[0], slopes[0])  # [B * B, h]
    hidden_layers = zip(later[:-2:2], later[1:-2:2], activations[1:], slopes[1:], strict=True)
    for weight, bias, activation, slope in hidden_layers:
        hidden = activate(F.linear(hidden, weight, bias), activation, slope)
    scores = F.linear(hidden, later[-2], later[-1]).view(rows, rows)
    others = ~torch.eye(rows, dtype=torch.bool, device=scores.device)
    return dv_term(torch.cat([scores.diagonal(), scores[others]]), rows, log_ema, alpha, loss)
