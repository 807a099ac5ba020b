"""`MINE`: the loss module that replaces mine-pytorch's `Mine`, and the estimates made with it."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from mine_fast.arrays import MINIMUM_ROWS, as_pair, cast
from mine_fast.checks import as_integer, as_seed, check_progress
from mine_fast.critics import call_critic
from mine_fast.cross_fitting import cross_fit
from mine_fast.data import pair_source
from mine_fast.default_critics import MLPCritic, is_default
from mine_fast.devices import usable_device
from mine_fast.errors import DivergenceError
from mine_fast.jobs import Progress
from mine_fast.loss import DVLoss, check_marginals
from mine_fast.many import estimate_seeds
from mine_fast.modules import in_mode
from mine_fast.native import critic_obstacle, optimizer_obstacle, use_engine
from mine_fast.processes import processes_of
from mine_fast.repeats import duplicate_groups
from mine_fast.result import MIResult
from mine_fast.steps import optimize_in_torch, optimize_natively
from mine_fast.training import fitting_threads, ordinary_autograd

__all__ = ["MINE", "estimate"]


class MINE(DVLoss):
    """Mutual Information Neural Estimation (Belghazi et al. 2018, arXiv 1801.04062) around a critic T.

    A drop-in for mine-pytorch's `Mine`: the same arguments in the same order, values and gradients, in the log domain.
    As a loss it is called with a batch; as an estimator it is given the data.

    Args:
        T: critic; gives each pair one score, [B] or [B, 1]. None: a default critic, made from the data by `fit`.
        loss: "mine" (bias-corrected gradient), "mine_biased", "fdiv" or "nwj" (the NWJ bound, two names of one), "js",
            "infonce" or "smile" (see `mine_fast.bounds` for what each trains on and which bound it gives).
        alpha: weight of a batch in the moving average of E_marginal[exp T] that corrects the gradient, in (0, 1].
        method: None: T is called as T(x, z); "concat": as T(torch.cat([x, z], 1)).
        shuffles: marginal pairs per row. More are less noise at the cost of their scores. None: 1 in `forward` and
            `optimize` (15 for "infonce", which ends at log 16), as many as `TrainingSettings` says in `fit`.
        seed: of the marginal pairs, and of `fit`. None draws one from torch's generator, so `torch.manual_seed` covers
            it; `fit` then takes 0.
        clip: marginal scores are clipped to [-clip, clip] in the value of "smile"; no other loss reads it.
        marginals: "shuffle": `shuffles` derangements of the batch; "all": every row of x with every other row of z,
            B (B - 1) pairs in place of B times `shuffles`. That is the least noise that a batch can give, at the cost
            of its scores; memory does not grow with the pairs (see `mine_fast.all_pairs`). The candidates of "infonce"
            are then all rows of the batch: it ends at log B. With a process group, the batch is that of this process;
            "global": `shuffles` derangements of the batch of all processes, which costs a gather of z.
        process_group: "world" or a `torch.distributed.ProcessGroup`, whose processes each call this module with rows of
            their own: the loss, the moving average and, under `DistributedDataParallel` or Fabric, the gradients are
            those of one process that has all rows. "world" is the default group at the time of a call, and this process
            alone where there is none. None: this process alone. See docs/distributed.md.

    Attributes:
        log_ema: buffer [], the moving average as its logarithm; -inf before the first training batch.
        shuffle_key: buffer int64 [2], (seed, offset) of the next marginal shuffle.
        format_version: buffer int64 [], the number of what `state_dict` holds. From that, the optimiser's state (and
            that of torch's generator, if T draws from it), a training goes on with the same bits.

    Raises:
        ValueError: unknown loss, method or marginals, alpha outside (0, 1], shuffles below 1 or beside marginals "all",
            clip not above 0, marginals "global" without a process group, a group of other processes.
        TypeError: T is not callable, process_group is no process group.

    >>> import torch, mine_fast
    >>> from torch import nn
    >>> T = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
    >>> mine = mine_fast.MINE(T, loss="mine", method="concat", seed=0)
    >>> x = torch.randn(64, 1)
    >>> loss = mine(x, x + torch.randn(64, 1))   # scalar, minus the bound in nats
    >>> loss.backward()
    """

    @torch.no_grad()
    def mi(self, x: Any, z: Any, z_marg: Any = None) -> Tensor:
        """The bound on I(X; Z) of these rows, without gradient; leaves `log_ema` and the training shuffles alone.

        T is in evaluation mode for it (no dropout, batch normalisation by its running statistics). The number is
        optimistic on rows that T was trained on; `fit` gives an estimate on held-out rows with its error. With
        marginals "all" it takes N (N - 1) scores. With a process group, all its processes call it, and get the bound of
        their rows together.

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
        if z_marg is not None:
            z_marg = self._whole_numbers(z_marg, self._samples(x, z_marg, ("x", "z_marg"))[1])
        samples = self._samples(x, z, ("x", "z"))
        x, z = self._batch(*(self._whole_numbers(given, rows) for given, rows in zip((x, z), samples, strict=True)))
        with in_mode(self, training=False):
            bound = -self._loss_and_ema(x, z, z_marg, None)[0]
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
        self._refuse_processes("optimize")
        if isinstance(opt, torch.optim.LBFGS):
            raise TypeError("opt must step on the gradient that is there; LBFGS wants the loss of one batch many times")
        with ordinary_autograd():
            x, y = self._samples(X, Y, ("X", "Y"))
            if self.T is None:
                self.T = MLPCritic().prepare(x, y)
        self._materialize(x, y)
        if opt is None:
            if not any(p.requires_grad for p in self.parameters()):
                raise ValueError("T has no trainable parameters")
            opt = torch.optim.Adam(self.parameters(), lr=1e-4)
        if engine == "graph":
            raise ValueError("engine='graph' trains the folds of fit and estimate: opt is made for it")
        native = use_engine(engine, critic_obstacle(self) or optimizer_obstacle(opt, self.T))
        trained = {id(p) for group in opt.param_groups for p in group["params"]}
        if not any(id(p) in trained for p in self.parameters()):
            raise ValueError(
                "opt must hold parameters of T, got an optimiser of others, which would train nothing here"
            )
        steps = iters * max(1, x.shape[0] // batch_size)
        parameters = sum(p.numel() for p in self.parameters())
        batch = min(batch_size, x.shape[0])
        threads = fitting_threads(parameters, (1 + self.partners(batch)) * batch)
        mode = contextlib.nullcontext() if self.training else in_mode(self, training=True)
        with ordinary_autograd(), threads, mode, self._training_on_rows():
            if native:
                optimize_natively(self, x, y, steps, batch_size, opt)
            else:
                optimize_in_torch(self, x, y, steps, batch_size, opt)
        return self.mi(x, y)

    @property
    def _takes_nd(self) -> bool:
        """Whether rows may be images and the like: T is the caller's, and nothing is concatenated."""
        return self.method is None and not is_default(self.T)

    def _whole_numbers(self, given: Any, samples: Tensor) -> Tensor:
        """Integers as they came, such as tokens, for a T that is called with them; else the checked samples."""
        is_whole = isinstance(given, Tensor) and not (given.is_floating_point() or given.is_complex())
        return given.to(samples.device) if is_whole and self._takes_nd else samples

    def _samples(self, x: Any, y: Any, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
        """Validated data in the dtype and on the device of T's parameters."""
        x, y = as_pair(x, y, allow_nd=self._takes_nd, names=names)
        if is_default(self.T):
            return x, y  # whose ranks want all digits
        like: Tensor = next(self.parameters(), torch.empty(0, device=x.device))  # a function T has none
        return cast(x, like, names[0]), cast(y, like, names[1])

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        seed: int | None = None,
        device: torch.device | str | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> MIResult:
        """Estimate I(X; Y) with its standard error, by cross-fitting.

        The rows are split into folds; each fold is evaluated by a critic that trained and was chosen on the others,
        from T's weights as they were before an earlier `fit` or `optimize` of this module: training then, on rows that
        are held out now, does not count. (Weights that were loaded into this module, or trained by a loop of the
        caller's own, do.) Afterwards T holds the weights of the first fold's critic. Parts of T in evaluation mode are
        frozen, and stay so, unless T as a whole is in it.
        Whatever the loss, the estimate is the DV bound on held-out rows, with scores of "infonce", which are right up
        to a function of x, taken relative to log mean exp T(x, y_j) over 256 training rows j.

        Args:
            x: [N, dx] or [N], numpy, torch or pandas; or a map-style Dataset of pairs (x_i, y_i), or a DataLoader
                over one, for data that does not fit memory.
            y: [N, dy] or [N]; None with a Dataset.
            seed: of the split, the batches, the shuffles and a default critic's weights; None: the seed of this module,
                or 0.
            device: where to compute; None: where T's parameters or the tensors are.
            progress: called as progress(steps done, steps in all, latest validation bound).
            settings: fields of `TrainingSettings`: steps, batch_size, learning_rate, folds, ...; None is the default.

        Returns:
            MIResult, in nats.

        Raises:
            ValueError, TypeError: bad data (fewer than 20 rows, or than 4 in a fold) or settings; the message names the
                argument.
            DivergenceError: a critic's scores left the finite numbers.

        >>> import torch, mine_fast
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(2000)
        >>> y = x + torch.randn(2000)
        >>> r = mine_fast.MINE().fit(x, y, steps=200)
        >>> abs(r.mi - 0.3466) < 4 * r.stderr   # the truth is log(2) / 2
        True
        """
        check_progress(progress)
        self._refuse_processes("fit")
        seed = as_seed(self._given.get("seed", 0) if seed is None else seed)
        check_marginals(self.marginals, settings.get("shuffles"))
        if settings.get("shuffles") is None and "shuffles" in self._given:
            settings["shuffles"] = self.shuffles
        if device is not None:
            device = usable_device(device)
        with ordinary_autograd():
            source = pair_source(x, y, allow_nd=self._takes_nd, recode=is_default(self.T))
            if not is_default(self.T):
                self._materialize(*source.rows(torch.arange(MINIMUM_ROWS)))
            fitted = cross_fit(self, source, duplicate_groups(source), seed, device, progress, settings)
            if fitted.critic is not None:
                self._take_over(fitted.critic)
                self.log_ema.copy_(fitted.log_ema)
        return fitted.result

    def _refuse_processes(self, name: str) -> None:
        if self.processes is not None and self.processes.size > 1:
            raise ValueError(
                f"{name} trains in one process; the process_group of this MINE is for its use as a loss. Estimates are "
                "shared between processes by estimate(..., process_group=...) and estimate_many"
            )

    def _take_over(self, critic: nn.Module) -> None:
        """Let T be a fold's critic: the default one itself, the weights of a caller's."""
        if is_default(critic):
            self.T = critic.train(self.training)
            return
        with self._training_on_rows():
            self.T.load_state_dict(critic.state_dict())

    @torch.no_grad()
    def _materialize(self, x: Tensor, y: Tensor) -> None:
        """Show two rows to a T with lazy layers, which learn their widths from them."""
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in self.parameters()):
            call_critic(self.T, self.method, x[:2].float(), y[:2].float())


def estimate(
    x: Any,
    y: Any = None,
    *,
    loss: str = "mine",
    alpha: float = 0.01,
    clip: float = 5.0,
    marginals: str = "shuffle",
    seed: int = 0,
    n_seeds: int = 1,
    device: torch.device | str | None = None,
    process_group: Any = None,
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
        clip: see `MINE`.
        marginals: see `MINE`.
        seed: of the split, the weights, the batches and the shuffles: the same seed gives the same result.
        n_seeds: how many trainings to average, with the seeds seed, seed + 1, ..., each of which splits and trains
            anew. Of more than one, `stderr` counts how far they differ (`training_spread`, over the root of their
            number) beside the sampling of the rows, and `p_value` is about twice their median, which holds however
            they depend on each other.
        device: where to compute; None: where the data is.
        process_group: as for `estimate_many`: its processes share the `n_seeds` trainings, and all get the result.
        progress: called as progress(steps done, steps in all, latest validation bound).
        settings: fields of `TrainingSettings`: steps, batch_size, learning_rate, folds, ...

    Returns:
        MIResult: `mi` and `stderr` in nats, `lower(0.95)`, `p_value`, `flags` (what to know of it in words, listed with
        the attributes of `MIResult`), `history`.

    Raises:
        ValueError, TypeError: bad data (fewer than 20 rows, or than 4 in a fold) or settings; the message names the
            argument.
        DivergenceError: a critic's scores left the finite numbers.

    >>> import mine_fast, numpy as np
    >>> x, y = np.random.default_rng(0).standard_normal((2, 1000))   # independent: the truth is 0
    >>> r = mine_fast.estimate(x, y, steps=100)
    >>> abs(r.mi) < 0.05
    True
    """
    n_seeds = as_integer("n_seeds", n_seeds, least=1)
    processes = processes_of(process_group)
    if n_seeds > 1 or (processes is not None and processes.size > 1):
        return estimate_seeds(
            x,
            y,
            loss=loss,
            alpha=alpha,
            clip=clip,
            marginals=marginals,
            seed=seed,
            n_seeds=n_seeds,
            device=device,
            processes=processes,
            progress=progress,
            settings=settings,
        )
    with ordinary_autograd(), torch.device("cpu"):
        mine = MINE(loss=loss, alpha=alpha, seed=seed, clip=clip, marginals=marginals)
    return mine.fit(x, y, seed=seed, device=device, progress=progress, **settings)
