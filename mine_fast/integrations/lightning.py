"""`MutualInfoCallback`: logs the information between two tensors of a model while Lightning trains it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mine_fast.checks import as_integer, as_seed
from mine_fast.cross_fitting import MINIMUM_ROWS_TO_FIT
from mine_fast.errors import DivergenceError
from mine_fast.estimate_request import make_request
from mine_fast.estimator import estimate
from mine_fast.integrations.row_sample import RowSample
from mine_fast.result import MIResult, without_scores

__all__ = ["MutualInfoCallback"]

#: Two packages of one library.
_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callback_class() -> Any:
    """The base class, of the package that the caller uses if one is imported already."""
    for package in sorted(_PACKAGES, key=lambda package: package not in sys.modules):
        try:
            return import_module(f"{package}.callbacks").Callback
        except ImportError:
            continue
    raise ImportError("MutualInfoCallback needs Lightning: pip install '.[lightning]' in the repository")


#: Of `estimate`, whose other arguments are training settings.
_DEFAULTS: dict[str, Any] = {
    "loss": "mine",
    "alpha": 0.01,
    "clip": 5.0,
    "marginals": "shuffle",
    "n_seeds": 1,
    "device": None,
}

Callback: Any = _callback_class()

#: A tensor of a batch: the name of the submodule that gives it out, or a function of (batch, outputs of the step).
Source = str | Callable[[Any, Any], Tensor]


class MutualInfoCallback(Callback):  # type: ignore[misc]  # of either package
    """Log I(X; Y) of two tensors of a LightningModule, held-out and with its standard error, as it trains.

        information = MutualInfoCallback(x=lambda batch, outputs: batch[0], y="encoder", name="I(X;Z)")
        Trainer(callbacks=[information]).fit(model, train_loader, validation_loader)

    By default the rows come from validation batches, where the weights stand still, and the estimate is made at the end
    of the validation. With `every_n_steps` they are the latest rows of the training batches before that step; weights
    move between those, so keep `rows` to a few batches.

    Two scalars are logged, `name` and `name`_stderr, in nats; `results` holds everything. Neither the model's weights
    nor torch's random numbers are touched: a training with the callback is the training without it. Where no estimate
    can be made (fewer than 20 rows, values that are not finite) a warning says why and nothing is logged.

    Args:
        x: the name of a submodule ("encoder", "net.3"), whose output is taken, the last one if it is called several
            times in a batch; or a function (batch, outputs) -> tensor, outputs being what the step returned. Dimensions
            after the first are flattened.
        y: the same; rows of x and y belong together.
        every_n_epochs: estimate at every n-th validation.
        every_n_steps: estimate after every n training batches instead.
        rows: how many to keep at most: of a validation a random sample, of the training the latest.
        name: of what is logged; several callbacks need different ones.
        seed: of the sample and the estimate.
        settings: fields of `mine_fast.TrainingSettings` and arguments of `mine_fast.estimate`, for example steps=200.

    Attributes:
        results: list of (global step, MIResult), one per estimate, without the scores.

    Under several processes rank 0 estimates from its own rows and logs; the others wait at their next exchange.

    Raises:
        ValueError, TypeError: bad arguments; when training begins, a submodule that there is none of.
    """

    def __init__(
        self,
        x: Source,
        y: Source,
        *,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        rows: int = 2000,
        name: str = "mi",
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__()
        for argument, source in (("x", x), ("y", y)):
            if not isinstance(source, str) and not callable(source):
                raise TypeError(f"{argument} must be the name of a submodule or a function, got {source!r}")
        self.sources = {"x": x, "y": y}
        self.every_n_epochs = as_integer("every_n_epochs", every_n_epochs, least=1)
        self.every_n_steps = None if every_n_steps is None else as_integer("every_n_steps", every_n_steps, least=1)
        self.rows = as_integer("rows", rows, least=MINIMUM_ROWS_TO_FIT)
        self.name = name
        self.seed = as_seed(seed)
        of_estimate = {name: settings.get(name, value) for name, value in _DEFAULTS.items()}
        rest = {name: value for name, value in settings.items() if name not in _DEFAULTS}
        make_request(**of_estimate, seed=self.seed, settings=rest)  # refuses what estimate would, before hours of work
        self.settings = settings
        self.results: list[tuple[int, MIResult]] = []
        self._validations = self._batches = self._batch_rows = 0
        self._collecting = False
        self._outputs: dict[str, Any] = {}
        self._hooks: list[Any] = []
        self._sample = RowSample(self.rows, latest=every_n_steps is not None, seed=self.seed)

    @property
    def state_key(self) -> str:
        """Tells several of these apart in a checkpoint: each logs under a name of its own."""
        return f"{type(self).__qualname__}({self.name!r})"

    def state_dict(self) -> dict[str, int]:
        """How many validations and batches there were, for a checkpoint."""
        return {"validations": self._validations, "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on counting."""
        self._validations, self._batches = state_dict["validations"], state_dict["batches"]

    def setup(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Refuse names that the model does not have, before it trains for hours."""
        for argument, source in self.sources.items():
            if isinstance(source, str) and source not in dict(pl_module.named_modules()):
                names = ", ".join(name for name, _ in pl_module.named_modules() if name)
                raise ValueError(f"{argument} must name a submodule of the model, got {source!r}; it has {names}")

    def teardown(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Leave no hook behind, also after an exception."""
        self._stop()

    # Validation -------------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Begin to collect, if it is this validation's turn."""
        if self.every_n_steps is None and not trainer.sanity_checking:
            self._validations += 1
            if self._validations % self.every_n_epochs == 0:
                self._sample.clear()
                self._start(pl_module)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: nn.Module, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect the rows of the batch."""
        if self._collecting and self.every_n_steps is None:
            self._collect(batch, outputs)

    def on_validation_epoch_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Estimate."""
        if self._collecting and self.every_n_steps is None:
            self._stop()
            self._estimate(trainer, pl_module)

    # Training ---------------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Any, pl_module: nn.Module, batch: Any, batch_idx: int) -> None:
        """Begin to collect when no more batches are left than fill the sample: copies to the CPU cost time."""
        if self.every_n_steps is not None and not self._collecting:
            left = self.every_n_steps - self._batches % self.every_n_steps
            if (left - 1) * self._batch_rows < self.rows:
                self._start(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Collect the rows of the batch, and estimate if it is its turn."""
        if self.every_n_steps is None:
            return
        self._batches += 1
        if self._collecting:
            self._batch_rows = self._collect(batch, outputs)
        if self._batches % self.every_n_steps == 0:
            self._stop()
            self._estimate(trainer, pl_module)
            self._sample.clear()

    # Both -------------------------------------------------------------------------------------------------------------

    def _start(self, pl_module: nn.Module) -> None:
        self._collecting = True
        for source in {source for source in self.sources.values() if isinstance(source, str)}:

            def keep(module: nn.Module, inputs: Any, output: Any, source: str = source) -> None:
                self._outputs[source] = output

            self._hooks.append(pl_module.get_submodule(source).register_forward_hook(keep))

    def _stop(self) -> None:
        self._collecting = False
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._outputs.clear()

    def _collect(self, batch: Any, outputs: Any) -> int:
        """Add a batch to the sample; how many rows it had."""
        x, y = (self._rows_of(name, batch, outputs) for name in ("x", "y"))
        if len(x) != len(y):
            raise ValueError(f"x and y must have the same number of rows, got {len(x)} in x and {len(y)} in y")
        self._sample.add(x, y)
        self._outputs.clear()
        return len(x)

    def _rows_of(self, argument: str, batch: Any, outputs: Any) -> np.ndarray:
        """One side of a batch as [B, d]."""
        source = self.sources[argument]
        if not isinstance(source, str):
            value = source(batch, outputs)
        elif source in self._outputs:
            value = self._outputs[source]
        else:
            raise ValueError(f"{argument}: submodule {source!r} was not called in this batch")
        if not isinstance(value, Tensor) or value.ndim == 0:
            what = f"the output of {source!r}" if isinstance(source, str) else "what the function returned"
            got = "a 0-d tensor" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{argument}: {what} must be a tensor with a row per sample, got {got}; use a function")
        value = value.detach().reshape(len(value), -1)
        # A copy: what a module gave out may be changed in place before the estimate, or be an inference tensor.
        value = value.double() if value.dtype == torch.float64 or not value.is_floating_point() else value.float()
        return value.cpu().numpy().copy()

    def _estimate(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        x, y = self._sample.rows()
        try:
            result = estimate(x, y, seed=self.seed, **self.settings)
        except (ValueError, DivergenceError) as error:
            # A long training is not worth ending for this.
            warnings.warn(f"{self.name} was not estimated at step {trainer.global_step}: {error}", stacklevel=2)
            return
        kept = without_scores(result)
        assert isinstance(kept, MIResult)
        self.results.append((trainer.global_step, kept))
        for name, value in ((self.name, result.mi), (f"{self.name}_stderr", result.stderr)):
            pl_module.log(name, value, rank_zero_only=True, batch_size=len(x))
