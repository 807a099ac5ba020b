"""The loss module under `MINE`: a critic, the moving average of the bias correction, and the stream of shuffles."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mine_fast import ops
from mine_fast._version import __version__
from mine_fast.all_pairs import all_pairs_loss
from mine_fast.batches import as_read, as_rows, check_batch, check_marginal
from mine_fast.bounds import INFONCE_SHUFFLES, LOSSES, as_clip, fused_name, infonce_of_matrix, loss_of_scores
from mine_fast.checks import as_integer, as_number
from mine_fast.critics import all_scores, call_critic, paired_scores, score_matrix, scores_all_pairs
from mine_fast.default_critics import MLPCritic, StackedCritic, is_default
from mine_fast.describing import describe
from mine_fast.distributed import distributed_loss
from mine_fast.modules import StartingState
from mine_fast.ops.dv import check_dv_arguments, dv_term
from mine_fast.processes import Processes, processes_of
from mine_fast.reference import sum_dtype

__all__ = ["DVLoss"]

#: The number of what `state_dict` holds, and what that is. A state without a number is older, and holds the same.
STATE_FORMAT, STATE_CONTENT = 1, "T's own state, log_ema [], shuffle_key (seed, offset)"

MARGINALS = ("shuffle", "global", "all")

Self = TypeVar("Self", bound="DVLoss")


def check_marginals(marginals: object, shuffles: object) -> None:
    """Refuse unknown marginals, and a number of shuffles where there are none."""
    if marginals not in MARGINALS:
        raise ValueError(f"marginals must be one of {', '.join(MARGINALS)}, got {marginals!r}")
    if marginals == "all" and shuffles is not None:
        raise ValueError(f"shuffles must be None with marginals='all', which takes every other row, got {shuffles!r}")


def _outside_graphs(processes: Processes | None) -> Any:
    """The loss of several processes, not a part of graphs: how one compiles its batches must not change what it calls.

    This imports the compiler, which takes a second; `DistributedDataParallel` does so too.
    """
    return None if processes is None else torch.compiler.disable(distributed_loss)


def _evaluation_key(shuffle_key: Tensor) -> Tensor:
    """The key of a shuffle that training does not come to."""
    seed, offset = shuffle_key.unbind()
    return torch.stack([seed, offset + (1 << 62)])


class DVLoss(nn.Module):
    """Minus the Donsker-Varadhan bound of a batch, or its variants; `MINE`, which says what the arguments are, is this
    with estimates on top.
    """

    T: Any
    loss: str
    alpha: float
    method: str | None
    shuffles: int
    marginals: str
    clip: float
    processes: Processes | None
    _distributed_loss: Any
    log_ema: Tensor
    shuffle_key: Tensor
    format_version: Tensor
    _given: dict[str, int]
    _start: StartingState | None

    def __init__(
        self,
        T: Callable[..., Tensor] | None = None,
        loss: str = "mine",
        alpha: float = 0.01,
        method: str | None = None,
        *,
        shuffles: int | None = None,
        seed: int | None = None,
        clip: float = 5.0,
        marginals: str = "shuffle",
        process_group: Any = None,
    ) -> None:
        super().__init__()
        if T is not None and not callable(T):
            raise TypeError(f"T must be a module or function (x, z) -> scores, or None, got {type(T).__name__}")
        if method not in (None, "concat"):
            raise ValueError(f"method must be None or 'concat', got {method!r}")
        alpha = as_number("alpha", alpha, "a number in (0, 1]")
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
        check_dv_arguments(alpha, fused_name(loss) or "mine")
        check_marginals(marginals, shuffles)
        self.method = method
        self.T = T
        self.loss = loss
        self.alpha = alpha
        self.clip = as_clip(clip)
        self.marginals = marginals
        self.processes = processes_of(process_group)
        if marginals == "global" and self.processes is None:
            raise ValueError(
                "marginals='global' pairs the rows of several processes, for MINE as a loss: it needs a process_group, "
                "got None"
            )
        self._distributed_loss = _outside_graphs(self.processes)
        # What was asked for counts in `fit` too, whose defaults are others.
        self._given = {name: value for name, value in (("shuffles", shuffles), ("seed", seed)) if value is not None}
        default_shuffles = INFONCE_SHUFFLES if loss == "infonce" else 1
        self.shuffles = as_integer("shuffles", self._given.get("shuffles", default_shuffles), least=1)
        self._start = None
        if seed is None:
            seed = int(torch.randint(2**62, (), device="cpu"))
        self.register_buffer("log_ema", torch.tensor(-math.inf, dtype=torch.float32))
        self.register_buffer("shuffle_key", ops.shuffle_key(seed))
        self.register_buffer("format_version", torch.tensor(STATE_FORMAT))

    def extra_repr(self) -> str:
        """The settings, for `print(mine)`."""
        clip = f", clip={self.clip:g}" if self.loss == "smile" else ""
        pairs = "marginals='all'" if self.marginals == "all" else f"shuffles={self.shuffles}"
        if self.marginals == "global":
            pairs = f"marginals='global', {pairs}"
        group = "" if self.processes is None else f", process_group={self.processes}"
        return f"loss={self.loss!r}, alpha={self.alpha:g}, method={self.method!r}, {pairs}{clip}{group}"

    def partners(self, rows: int) -> int:
        """Marginal pairs of each row in a batch of so many."""
        if self.marginals == "all":
            return rows - 1
        # The candidates of InfoNCE are different rows, and a row has no more others than that.
        return min(self.shuffles, rows - 1) if self.loss == "infonce" else self.shuffles

    @property
    def in_one_product(self) -> bool:
        """Whether a batch is scored with all its pairs at once, as a `SeparableCritic` in training does."""
        return self.training and scores_all_pairs(self.T, self.method)

    def forward(self, x: Tensor, z: Tensor, z_marg: Tensor | None = None) -> Tensor:
        """Minus the bound on I(X; Z) of a batch; minimise it to train T, or anything before x and z.

        In training mode a call moves `log_ema` and the marginal shuffle one step on; in `eval()` mode it leaves both,
        and the same rows give the same number.

        Args:
            x: [B, dx] or [B]; more dimensions with method None.
            z: [B, dz] or [B], paired with x row by row.
            z_marg: [B, dz], samples of z's marginal; None pairs x with other rows of z. Not with marginals "all".

        Returns:
            0-d tensor in nats, float32 (float64 for float64 scores).

        Raises:
            ValueError: unequal rows, one row, mixed devices, a critic that does not fit.
            TypeError: no floating tensors, or two floating dtypes without autocast. Whole numbers (tokens, one-hot
                codes) go to T as they are with method None, and as the other side's dtype with "concat".
        """
        x, z = self._batch(x, z)
        key = None
        if z_marg is None and self.training:
            key, next_key = ops.advance_key(self.shuffle_key)
            self.shuffle_key.copy_(next_key)
        loss, log_ema = self._loss_and_ema(x, z, z_marg, key)
        if self.training and self.loss == "mine":
            self.log_ema.copy_(log_ema)
        return loss

    def _batch(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """X and z as rows, checked."""
        if self.T is None:
            raise ValueError("T is None: the default critic is made by fit(x, y); pass a critic to use MINE as a loss")
        concatenated = self.method == "concat"
        x, z = as_read(as_rows(x, "x"), as_rows(z, "z"), concatenated)
        # Of a batch that is spread over processes, one may have no rows.
        if self.processes is None or x.shape[0] or z.shape[0]:
            check_batch(concatenated or is_default(self.T), x=x, z=z)
        if concatenated and (x.ndim != 2 or z.ndim != 2):
            raise ValueError(
                f"x and z must be [B, d] to be concatenated, got shapes {list(x.shape)} and {list(z.shape)}; "
                "method=None calls T(x, z)"
            )
        return x, z

    def _loss_and_ema(self, x: Tensor, z: Tensor, z_marg: Tensor | None, key: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of checked rows and the new log-EMA, with marginal samples given or drawn by the key.

        Without a key they are drawn by one that training does not come to.
        """
        if z_marg is not None:
            if self.marginals == "all":
                raise ValueError("z_marg must be None with marginals='all', which pairs x with every other row of z")
            z_marg = as_read(z, as_rows(z_marg, "z_marg"), self.method == "concat")[1]
            if x.shape[0]:  # see _batch
                check_marginal(z, z_marg)
        if key is None:
            key = self.shuffle_key if z_marg is not None else _evaluation_key(self.shuffle_key)
        if self.processes is not None and self.processes.size > 1:
            return self._distributed_loss(self, self.processes, x, z, z_marg, key)
        if self.marginals == "all" and not self.in_one_product:
            return all_pairs_loss(self.T, self.method, x, z, self.loss, self.clip, self.log_ema, self.alpha)
        if z_marg is not None:
            joint = call_critic(self.T, self.method, x, z)
            scores = torch.cat([joint, call_critic(self.T, self.method, x, z_marg)])
        elif x.shape[0] < 2:
            raise ValueError(
                f"x and z need at least 2 rows: a batch of {x.shape[0]} cannot be shuffled into marginal pairs"
            )
        elif self.in_one_product and self.loss == "infonce":  # whose candidates of a row are a row of the product
            return infonce_of_matrix(score_matrix(self.T, x, z)), self.log_ema
        elif self.in_one_product:
            scores = all_scores(self.T, x, z)
        else:
            scores = paired_scores(self.T, self.method, x, z, key, self.partners(x.shape[0]))
        fused = fused_name(self.loss)
        if fused is None:
            return loss_of_scores(scores, x.shape[0], self.loss, self.clip), self.log_ema
        # The average is kept in the dtype of the module, the term in that of the sums.
        log_ema = self.log_ema.to(sum_dtype(scores.dtype))
        return dv_term(scores, x.shape[0], log_ema, self.alpha, fused)[:2]

    def at_start(self: Self, seed: int) -> Self:
        """A copy that has trained nothing yet: what a fold of `fit` begins with.

        Raises:
            TypeError: T cannot be copied.
        """
        try:
            fresh = copy.deepcopy(self)
        except (RuntimeError, TypeError) as error:
            raise TypeError(f"T must be copyable by copy.deepcopy for fit to train one per fold: {error}") from error
        if self._start is not None and self._start.counts_for(self.T):
            fresh.T.load_state_dict(self._start.state)
        fresh._start = None
        fresh.zero_grad(set_to_none=True)
        fresh.log_ema.fill_(-math.inf)
        fresh.shuffle_key.copy_(ops.shuffle_key(seed, device=self.shuffle_key.device))
        return fresh

    @contextlib.contextmanager
    def _training_on_rows(self) -> Iterator[None]:
        """Within, T is trained on rows that a later `fit` may hold out: that one starts from what T was before."""
        if self._start is None or not self._start.counts_for(self.T):
            self._start = StartingState(self.T)
        start = self._start
        try:
            yield
        finally:
            start.leave(self.T)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "T":  # another critic starts from itself
            object.__setattr__(self, "_start", None)
            if value is not None and is_default(value):  # which reads two arguments, whatever a critic before it did
                object.__setattr__(self, "method", None)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_distributed_loss"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._distributed_loss = _outside_graphs(self.processes)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As that of any module; the state decides what the next training step does.

        Raises:
            ValueError: a state of a later format, or (if strict) of something else than a `MINE`.
            RuntimeError: a state that does not fit T, as torch says it.
        """
        if strict and not {"log_ema", "shuffle_key"} <= set(state_dict):
            keys = ", ".join(list(state_dict)[:3]) or "nothing"
            raise ValueError(
                f"state_dict must be that of a MINE, with log_ema and shuffle_key, got one of {keys}, ...: a critic's "
                "own loads by mine.T.load_state_dict; that of mine-pytorch's Mine, which has no moving average, by "
                "strict=False; names that begin with 'module.' are those of a wrapper, whose .module to save"
            )
        return super().load_state_dict(state_dict, strict, assign)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self._check_state(state_dict, prefix)
        self._start = None  # what is loaded is where T starts from
        if prefix + "log_ema" not in state_dict:
            self._rename_mine_pytorchs(state_dict, prefix)
        if self.T is None and prefix + "T.inputs.x.knots" in state_dict:
            self.T = StackedCritic() if prefix + "T.weights" in state_dict else MLPCritic()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _rename_mine_pytorchs(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Give the parameters of mine-pytorch's `Mine(T, method="concat")` the names that T has here.

        There T is the second module of a stack, behind one that concatenates and has no parameters: T.1.weight for
        T.weight, or where T is a `Sequential` itself, whose layers follow, T.1.weight for T.0.weight.
        """
        if self.method != "concat" or not isinstance(self.T, nn.Module):
            return
        first = prefix + "T."
        wanted = {first + name for name in self.T.state_dict()}
        renamed = {}
        for key in state_dict:
            place, _, rest = key.removeprefix(first).partition(".")
            if key.startswith(first) and place.isdecimal() and place != "0":
                stacked = type(self.T) is nn.Sequential
                renamed[key] = f"{first}{int(place) - 1}.{rest}" if stacked else first + rest
        if set(renamed.values()) == wanted and set(renamed) != wanted:
            values = {new: state_dict.pop(old) for old, new in renamed.items()}
            state_dict.update(values)

    def _check_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Refuse a state that this version cannot read, before anything is changed, and number one without a number."""
        version, key = state_dict.get(prefix + "format_version"), state_dict.get(prefix + "shuffle_key")
        if key is not None and not (isinstance(key, Tensor) and key.dtype == torch.int64 and key.shape == (2,)):
            raise ValueError(
                f"shuffle_key in the state of a MINE must be int64 [2], (seed, offset), got {describe(key)}"
            )
        if key is not None and version is None:
            state_dict[prefix + "format_version"] = self.format_version.clone()
        elif version is not None and int(version) != STATE_FORMAT:
            raise ValueError(
                f"the state of this MINE has format {int(version)}, of another version of mine_fast; {__version__} "
                f"reads format {STATE_FORMAT}: {STATE_CONTENT}"
            )

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `half()` and `bfloat16()` leave the moving average: with alpha = 0.01 it would not move in 8 or 11 bits.
        before = self.log_ema
        super()._apply(fn, recurse)
        if torch.finfo(self.log_ema.dtype).bits < 32:
            self.log_ema = before.to(self.log_ema.device)
        return self
