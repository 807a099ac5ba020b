"""`MutualInfoSelector`: a scikit-learn transformer that keeps the columns which tell of y. Needs scikit-learn."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mine_fast.checks import as_number
from mine_fast.column_pairs import narrow_settings
from mine_fast.many import estimate_many
from mine_fast.multiple_testing import q_values
from mine_fast.result import FailedEstimate, without_scores

try:
    from sklearn.base import BaseEstimator
    from sklearn.feature_selection import SelectorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "MutualInfoSelector needs scikit-learn 1.6 or later: pip install '.[sklearn]' in the repository"
    ) from error

if TYPE_CHECKING:
    import torch

    from mine_fast.jobs import Progress

__all__ = ["MutualInfoSelector"]

#: What q-value is asked for where no criterion is given.
DEFAULT_ALPHA = 0.05


class MutualInfoSelector(SelectorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Keep the features whose mutual information with y is large, or significant.

    Every column of X is taken by itself: its score is `mine_fast.estimate(X[:, j], y)`, held-out and with a p-value, by
    `mine_fast.estimate_many` on all threads. So a feature that repeats another is kept beside it, and one that tells
    of y only together with others is not seen.

    A feature is kept if it meets every criterion that is given; with none, its q-value has to be at most 0.05. The
    criteria are read when features are selected: `set_params(alpha=0.01)` after `fit` selects from the same scores.

    Args:
        n_features_to_select: at most so many, those with the highest scores; a float is a share of the features.
        threshold: nats that the score has to reach.
        alpha: what the q-value of Benjamini and Hochberg may be at most: among the features taken, at most this share
            is expected to be independent of y.
        loss: see `mine_fast.MINE`.
        n_seeds: trainings to average per feature, see `mine_fast.estimate`.
        random_state: seed of every estimate. An int gives the same scores again; None or a RandomState draws one.
        device: where to compute; None: the CPU.
        max_memory: see `mine_fast.estimate_many`.
        settings: fields of `mine_fast.TrainingSettings` by name, for example {"steps": 400}. None: those of
            `mine_fast.pairwise` for a y of one column, else those of `mine_fast.estimate`.
        progress: called as progress(steps done, steps in all, latest validation bound of some feature).

    Attributes:
        scores_: float [d], estimates in nats, not clipped at 0; NaN where a feature could not be estimated.
        stderr_: float [d], their standard errors.
        pvalues_: float [d], of independence, feature by feature.
        qvalues_: float [d], of Benjamini and Hochberg over the features.
        results_: the `MIResult` or `FailedEstimate` of each feature, with its flags, without its scores.
        n_features_in_: d.
        feature_names_in_: names of the columns, where X had any.

    A feature that could not be estimated (fewer than 20 rows, a training that diverged) is never kept; `fit` warns, and
    its result says why. y is a number, a class label (text too) or several columns of numbers per row. Numbers of few
    distinct values, such as class labels, are read as codes.

    >>> import numpy as np
    >>> from mine_fast import MutualInfoSelector
    >>> X = np.random.default_rng(0).standard_normal((400, 4))
    >>> y = X[:, 1] ** 2 > 0.5
    >>> selector = MutualInfoSelector(settings={"steps": 100}).fit(X, y)
    >>> selector.get_support()
    array([False,  True, False, False])
    >>> selector.transform(X).shape
    (400, 1)
    """

    def __init__(
        self,
        n_features_to_select: int | float | None = None,
        *,
        threshold: float | None = None,
        alpha: float | None = None,
        loss: str = "mine",
        n_seeds: int = 1,
        random_state: int | np.random.RandomState | None = 0,
        device: torch.device | str | None = None,
        max_memory: float | None = None,
        settings: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.n_features_to_select = n_features_to_select
        self.threshold = threshold
        self.alpha = alpha
        self.loss = loss
        self.n_seeds = n_seeds
        self.random_state = random_state
        self.device = device
        self.max_memory = max_memory
        self.settings = settings
        self.progress = progress

    def fit(self, X: Any, y: Any) -> MutualInfoSelector:
        """Estimate the information of every feature about y.

        Args:
            X: [N, d] numbers, a row per observation.
            y: [N] numbers or class labels, or [N, k] numbers.

        Returns:
            self.

        Raises:
            ValueError, TypeError: bad data or parameters; the message says which.
        """
        self._check_criteria()
        if self.settings is not None and not isinstance(self.settings, Mapping):
            raise TypeError(f"settings must be a dict of training settings or None, got {self.settings!r}")
        parameters = {name: name for name in self.get_params(deep=False)} | {"seed": "random_state"}
        for name in self.settings or {}:
            if name in parameters:
                raise TypeError(f"settings must be training settings, got {name}: set {parameters[name]} itself")
        X, y = validate_data(self, X, y, ensure_min_samples=2, multi_output=True)
        single = y.ndim == 1 or y.shape[1] == 1
        settings = dict(self.settings or {})
        if single:
            settings = {**narrow_settings(len(X)), **settings}
        results = estimate_many(
            [(column, y) for column in X.T],
            n_seeds=self.n_seeds,
            max_memory=self.max_memory,
            loss=self.loss,
            seed=self._seed(),
            device=self.device,
            progress=self.progress,
            **settings,
        )
        self.results_ = [without_scores(result) for result in results]
        self.scores_ = self._of_results("mi")
        self.stderr_ = self._of_results("stderr")
        self.pvalues_ = self._of_results("p_value")
        self.qvalues_ = q_values(self.pvalues_)
        self._warn_of_failures()
        return self

    def _check_criteria(self) -> None:
        count = self.n_features_to_select
        if count is not None:
            as_number("n_features_to_select", count, "a whole number, a share or None")
            whole = isinstance(count, numbers.Integral)
            if not (count >= 1 if whole else 0 < count <= 1):
                raise ValueError(f"n_features_to_select must be at least 1, or a share in (0, 1], got {count!r}")
        for name, value in (("threshold", self.threshold), ("alpha", self.alpha)):
            if value is not None:
                as_number(name, value, "a number or None")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha!r}")

    def _seed(self) -> int:
        if isinstance(self.random_state, numbers.Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _of_results(self, name: str) -> np.ndarray:
        return np.array([getattr(result, name, np.nan) for result in self.results_], dtype=float)

    def _warn_of_failures(self) -> None:
        failed = [result for result in self.results_ if isinstance(result, FailedEstimate)]
        if failed:
            warnings.warn(
                f"{len(failed)} of {len(self.results_)} features could not be estimated and are not selected; the "
                f"first is feature {failed[0].index}: {failed[0].error}",
                stacklevel=3,
            )

    def _get_support_mask(self) -> np.ndarray:
        """Bool [d], which features are kept."""
        check_is_fitted(self)
        self._check_criteria()
        mask = ~np.isnan(self.scores_)
        alpha, count = self.alpha, self.n_features_to_select
        if alpha is None and count is None and self.threshold is None:
            alpha = DEFAULT_ALPHA
        if alpha is not None:
            mask &= self.qvalues_ <= alpha
        if self.threshold is not None:
            mask &= self.scores_ >= self.threshold
        if count is not None:
            most = int(count) if isinstance(count, numbers.Integral) else max(1, round(count * len(mask)))
            # Of equal scores the first goes first.
            ranked = np.argsort(np.where(mask, -self.scores_, np.inf), kind="stable")
            mask[ranked[most:]] = False
        return mask

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags
