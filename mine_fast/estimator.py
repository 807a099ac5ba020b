"""`MINE`: the loss module that replaces mine-pytorch's `Mine`, and the estimates made with it."""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mine_fast import ops
from mine_fast.arrays import cast
from mine_fast.batches import as_rows, check_batch
from mine_fast.checks import as_integer
from mine_fast.critics import MLPCritic, call_critic, paired_scores
from mine_fast.cross_fitting import Progress, cross_fit
from mine_fast.data import as_pair, pair_source
from mine_fast.errors import DivergenceError
from mine_fast.native import critic_obstacle, optimizer_obstacle, use_engine
from mine_fast.ops.dv import check_dv_arguments, dv_term
from mine_fast.result import MIResult
from mine_fast.steps import optimize_in_torch, optimize_natively
from mine_fast.training import fitting_threads, ordinary_autograd

__all__ = ["MINE", "estimate"]


class MINE(nn.Module):
    """Mutual Information Neural Estimation (Belghazi et al. 2018, arXiv 1801.04062) around a critic T.

    A drop-in for mine-pytorch's `Mine`: the same arguments in the same order, the same values and gradients, kept in
    the log domain. As a loss it is called with a batch; as an estimator it is given the data.

    Args:
        T: critic; gives each pair one score, [B] or [B, 1]. None: a default critic, made from the data by `fit`.
        loss: "mine" (bias-corrected gradient), "mine_biased", or "fdiv" (the NWJ bound).
        alpha: weight of a batch in the moving average of E_marginal[exp T] that corrects the gradient, in (0, 1].
        method: None: T is called as T(x, z); "concat": as T(torch.cat([x, z], 1)).
        shuffles: marginal pairs per row that `forward` draws. More are less noise at the cost of their scores.
        seed: of the marginal pairs; None draws one from torch's generator, so `torch.manual_seed` covers it.

    Attributes:
        log_ema: buffer [], the moving average as its logarithm; -inf before the first training batch.
        shuffle_key: buffer int64 [2], (seed, offset) of the next marginal shuffle.

    Raises:
        ValueError: unknown loss or method, alpha outside (0, 1], shuffles below 1.
        TypeError: T is not callable.

    >>> import torch, mine_fast
    >>> from torch import nn
    >>> T = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
    >>> mine = mine_fast.MINE(T, loss="mine", method="concat", seed=0)
    >>> x = torch.randn(64, 1)
    >>> loss = mine(x, x + torch.randn(64, 1))   # scalar, minus the bound in nats
    >>> loss.backward()
    """

    T: Any
    loss: str
    alpha: float
    method: str | None
    shuffles: int
    _given: tuple[nn.Module | None]
    log_ema: Tensor
    shuffle_key: Tensor
    _evaluation_shuffle: Tensor

    def __init__(
        self,
        T: Callable[..., Tensor] | None = None,
        loss: str = "mine",
        alpha: float = 0.01,
        method: str | None = None,
        *,
        shuffles: int = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if T is not None and not callable(T):
            raise TypeError(f"T must be a module or function (x, z) -> scores, or None, got {type(T).__name__}")
        if method not in (None, "concat"):
            raise ValueError(f"method must be None or 'concat', got {method!r}")
        if isinstance(alpha, bool) or not isinstance(alpha, numbers.Real):
            raise TypeError(f"alpha must be a number in (0, 1], got {type(alpha).__name__} {alpha!r}")
        check_dv_arguments(alpha, loss)
        self.T = T
        # Outside the module's tree: what `fit` starts every fold from, even after T was trained on rows of a later fit.
        self._given = (copy.deepcopy(T) if isinstance(T, nn.Module) else None,)
        self.loss = loss
        self.alpha = float(alpha)
        self.method = method
        self.shuffles = as_integer("shuffles", shuffles, least=1)
        if seed is None:
            seed = int(torch.randint(2**62, ()))
        self.register_buffer("log_ema", torch.tensor(-math.inf))
        self.register_buffer("shuffle_key", ops.shuffle_key(seed))
        self.register_buffer("_evaluation_shuffle", torch.tensor([0, 1 << 62]), persistent=False)

    def extra_repr(self) -> str:
        """The settings, for `print(mine)`."""
        return f"loss={self.loss!r}, alpha={self.alpha:g}, method={self.method!r}, shuffles={self.shuffles}"

    def forward(self, x: Tensor, z: Tensor, z_marg: Tensor | None = None) -> Tensor:
        """Minus the bound on I(X; Z) of a batch; minimise it to train T, or anything before x and z.

        In training mode a call moves `log_ema` and the marginal shuffle one step on; in `eval()` mode it reads the
        average and leaves it.

        Args:
            x: [B, dx] or [B]; more dimensions with method None.
            z: [B, dz] or [B], paired with x row by row.
            z_marg: [B, dz], samples of z's marginal; None pairs x with derangements of z.

        Returns:
            0-d tensor in nats, float32 (float64 for float64 scores).

        Raises:
            ValueError: unequal rows, one row, mixed devices, a critic that does not fit.
            TypeError: not floating tensors, or mixed dtypes.
        """
        x, z = self._batch(x, z)
        key = None
        if z_marg is None:
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
        x, z = as_rows(x, "x"), as_rows(z, "z")
        check_batch(x=x, z=z)
        if self.method == "concat" and (x.ndim != 2 or z.ndim != 2):
            raise ValueError(
                f"x and z must be [B, d] to be concatenated, got shapes {list(x.shape)} and {list(z.shape)}; "
                "method=None calls T(x, z)"
            )
        return x, z

    def _loss_and_ema(self, x: Tensor, z: Tensor, z_marg: Tensor | None, key: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of checked rows and the new log-EMA, with marginal samples given or drawn by the key."""
        assert self.T is not None
        if z_marg is None:
            assert key is not None
            if x.shape[0] < 2:
                raise ValueError(
                    f"x and z need at least 2 rows: a batch of {x.shape[0]} cannot be shuffled into marginal pairs"
                )
            scores = paired_scores(self.T, self.method, x, z, key, self.shuffles)
        else:
            z_marg = as_rows(z_marg, "z_marg")
            check_batch(x=x, z_marg=z_marg)
            joint = call_critic(self.T, self.method, x, z)
            scores = torch.cat([joint, call_critic(self.T, self.method, x, z_marg)])
        # The average is kept in the dtype of the module, the term in that of the sums.
        log_ema = self.log_ema.to(torch.float64 if scores.dtype == torch.float64 else torch.float32)
        return dv_term(scores, x.shape[0], log_ema, self.alpha, self.loss)[:2]

    @torch.no_grad()
    def mi(self, x: Any, z: Any, z_marg: Any = None) -> Tensor:
        """The bound on I(X; Z) of these rows, without gradient; leaves `log_ema` and the training shuffles alone.

        It is optimistic on rows that T was trained on; `fit` gives an estimate on held-out rows with its error.

        Args:
            x: [N, dx] or [N], array or tensor.
            z: [N, dz] or [N].
            z_marg: samples of z's marginal, or None.

        Returns:
            0-d tensor in nats. The same rows give the same number until the next training step.

        Raises:
            ValueError, TypeError: bad data; the message names the argument.
            DivergenceError: the bound is not finite.
        """
        x, z = self._samples(x, z)
        if z_marg is not None:
            z_marg = self._samples(x, z_marg)[1]
        x, z = self._batch(x, z)
        bound = -self._loss_and_ema(x, z, z_marg, self.shuffle_key + self._evaluation_shuffle)[0]
        if not torch.isfinite(bound):
            raise DivergenceError(f"the bound is {bound.item():g}: the scores of T left the finite numbers")
        return bound

    def optimize(
        self,
        X: Any,
        Y: Any,
        iters: int = 100,
        batch_size: int = 500,
        opt: torch.optim.Optimizer | None = None,
        *,
        engine: str = "auto",
    ) -> Tensor:
        """Train T on all the data and return the bound on that same data, as mine-pytorch's `optimize` does.

        The number is optimistic: it is read off the rows that T was trained on. Use `fit` for an honest one.

        Args:
            X: [N, dx] or [N], array or tensor.
            Y: [N, dy] or [N].
            iters: passes over the data.
            batch_size: rows per step (N if that is smaller); the rows that fill no batch wait for the next pass.
            opt: optimiser over `parameters()`; None is Adam with a rate of 1e-4, as in mine-pytorch.
            engine: "auto": the native engine where it can stand in for T and opt, whose state it then hands back;
                "native" or "torch" insist.

        Returns:
            0-d tensor in nats.

        Raises:
            ValueError, TypeError: bad data or settings; the message names the argument.
            DivergenceError: the loss is no longer finite.

        >>> import torch, mine_fast
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(1000)
        >>> y = x + 0.5 * torch.randn(1000)
        >>> T = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 1))
        >>> mine = mine_fast.MINE(T, method="concat")
        >>> opt = torch.optim.Adam(mine.parameters(), lr=1e-2)
        >>> 0.5 < mine.optimize(x, y, iters=50, opt=opt) < 1.1   # the truth is 0.80
        tensor(True)
        """
        iters = as_integer("iters", iters, least=1)
        batch_size = as_integer("batch_size", batch_size, least=2)
        if opt is not None and not isinstance(opt, torch.optim.Optimizer):
            raise TypeError(f"opt must be a torch.optim.Optimizer or None, got {type(opt).__name__}")
        with ordinary_autograd():
            x, y = self._samples(X, Y)
            if self.T is None:
                self.T = MLPCritic().prepare(x, y)
        if opt is None:
            opt = torch.optim.Adam(self.parameters(), lr=1e-4)
        obstacle = critic_obstacle(self.T, self.method)
        if obstacle is None:
            assert isinstance(self.T, nn.Sequential)
            obstacle = optimizer_obstacle(opt, self.T)
        native = use_engine(engine, obstacle)
        trained = {id(p) for group in opt.param_groups for p in group["params"]}
        if not any(id(p) in trained for p in self.parameters()):
            raise ValueError(
                "opt must hold parameters of T, got an optimiser of others, which would train nothing here"
            )
        steps = iters * max(1, x.shape[0] // batch_size)
        parameters = sum(p.numel() for p in self.parameters())
        threads = fitting_threads(parameters, (1 + self.shuffles) * min(batch_size, x.shape[0]))
        with ordinary_autograd(), threads:
            if native:
                optimize_natively(self, x, y, steps, batch_size, opt)
            else:
                optimize_in_torch(self, x, y, steps, batch_size, opt)
        return self.mi(x, y)

    @property
    def _takes_nd(self) -> bool:
        """Whether rows may be images and the like: T is the caller's, and nothing is concatenated."""
        return self.method is None and self.T is not None and not isinstance(self.T, MLPCritic)

    def _samples(self, x: Any, y: Any) -> tuple[Tensor, Tensor]:
        """Validated data in the dtype and on the device of T's parameters."""
        x, y = as_pair(x, y, allow_nd=self._takes_nd)
        if self.T is None or isinstance(self.T, MLPCritic):
            return x, y  # whose ranks want all digits
        like = _first_parameter(self.T)
        if like is None:
            like = torch.empty(0, device=x.device)
        return cast(x, like, "x"), cast(y, like, "y")

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> MIResult:
        """Estimate I(X; Y) with its standard error, by cross-fitting.

        The rows are split into folds; each fold is evaluated by a critic that trained and was chosen on the others,
        from T's weights as they were given to `MINE` (training since then, on rows that are held out now, does not
        count). Afterwards T holds the weights of the first fold's critic.

        Args:
            x: [N, dx] or [N], numpy, torch or pandas; or a map-style Dataset of pairs (x_i, y_i), or a DataLoader
                over one, for data that does not fit memory.
            y: [N, dy] or [N]; None with a Dataset.
            seed: of the split, the batches, the shuffles and a default critic's weights.
            device: where to compute; None: where T's parameters or the tensors are.
            progress: called as progress(steps done, steps in all, latest validation bound).
            settings: fields of `TrainingSettings`: steps, batch_size, learning_rate, folds, ...; None is the default.

        Returns:
            MIResult, in nats.

        Raises:
            ValueError, TypeError: bad data or settings; the message names the argument.
            DivergenceError: a critic's scores left the finite numbers.

        >>> import torch, mine_fast
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(2000)
        >>> y = x + torch.randn(2000)
        >>> r = mine_fast.MINE().fit(x, y, steps=200)
        >>> abs(r.mi - 0.3466) < 4 * r.stderr   # the truth is log(2) / 2
        True
        """
        if progress is not None and not callable(progress):
            raise TypeError(f"progress must be callable or None, got {type(progress).__name__}")
        seed = as_integer("seed", seed)
        if device is not None:
            try:
                device = torch.device(device)
            except (RuntimeError, TypeError) as error:
                raise ValueError(f"device must be a torch device such as 'cpu' or 'cuda', got {device!r}") from error
            if device.type == "cuda" and not torch.cuda.is_available():
                raise ValueError(f"device must be one that torch can use, got {device!r}: torch sees no CUDA GPU")
        with ordinary_autograd():
            source = pair_source(x, y, allow_nd=self._takes_nd)
            result, critic = cross_fit(self, source, seed, device, progress, settings)
        if isinstance(critic, MLPCritic):
            self.T = critic
        elif critic is not None:
            self.T.load_state_dict(critic.state_dict())
        return result

    @property
    def given_critic(self) -> nn.Module | None:
        """T as it was when this module was made; None without one, or where T is a plain function."""
        return self._given[0]


def estimate(
    x: Any,
    y: Any = None,
    *,
    loss: str = "mine",
    alpha: float = 0.01,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> MIResult:
    """Estimate the mutual information I(X; Y) of two samples, with its standard error.

    The critic, its training and the split have defaults that need no tuning; `MINE(...).fit(x, y)` is the same for a
    critic of one's own.

    Args:
        x: [N, dx] or [N], numpy, torch or pandas; or a Dataset / DataLoader of pairs, see `MINE.fit`.
        y: [N, dy] or [N].
        loss: see `MINE`.
        alpha: see `MINE`.
        seed: of the split, the weights, the batches and the shuffles: the same seed gives the same result.
        device: where to compute; None: where the data is.
        progress: called as progress(steps done, steps in all, latest validation bound).
        settings: fields of `TrainingSettings`: steps, batch_size, learning_rate, folds, ...

    Returns:
        MIResult: `mi` and `stderr` in nats, `lower(0.95)`, `p_value`, `flags`, `history`.

    Raises:
        ValueError, TypeError: bad data or settings; the message names the argument.
        DivergenceError: a critic's scores left the finite numbers.

    >>> import mine_fast, numpy as np
    >>> x, y = np.random.default_rng(0).standard_normal((2, 1000))   # independent: the truth is 0
    >>> r = mine_fast.estimate(x, y, steps=100)
    >>> abs(r.mi) < 0.05
    True
    """
    with ordinary_autograd():
        mine = MINE(loss=loss, alpha=alpha, seed=seed)
    return mine.fit(x, y, seed=seed, device=device, progress=progress, **settings)


def _first_parameter(critic: object) -> Tensor | None:
    return next(critic.parameters(), None) if isinstance(critic, nn.Module) else None
