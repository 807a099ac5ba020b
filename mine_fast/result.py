"""What an estimate gives back: the number, its error bar, and what it takes to judge them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from mine_fast.checks import as_number
from mine_fast.plain_json import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FailedEstimate", "Flag", "History", "MIResult", "without_scores"]

_BITS_PER_NAT = 1 / math.log(2)


class Flag(str):
    """What a reader of an estimate should know: the message itself, with a short code to test for.

    Args:
        code (str): lower-case words joined by underscores.
        message (str): one sentence for a person.
        level (str): "warning" for what may have spoilt the estimate or its error bar, "note" for what the data are
            like.

    Raises:
        ValueError: a code of another form, another level.

    >>> flag = Flag("few_rows", "few rows were held out; the error bar is rough")
    >>> print(flag)
    few rows were held out; the error bar is rough
    >>> flag.code
    'few_rows'
    """

    code: str
    level: str

    def __new__(cls, code: str, message: str, level: str = "warning") -> Flag:
        """Make a flag; a str is immutable, so its text is set here."""
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", code):
            raise ValueError(f"code must be lower-case words joined by underscores, got {code!r}")
        if level not in ("warning", "note"):
            raise ValueError(f"level must be 'warning' or 'note', got {level!r}")
        flag = super().__new__(cls, message)
        flag.code = code
        flag.level = level
        return flag

    def __getnewargs__(self) -> tuple[str, str, str]:  # type: ignore[override]  # str's own has one
        return self.code, str(self), self.level

    def __repr__(self) -> str:
        level = "" if self.level == "warning" else f", {self.level!r}"
        return f"Flag({self.code!r}, {str(self)!r}{level})"


@dataclass(frozen=True)
class History:
    """The curves of training, fold by fold, in nats: entry `[k][i]` is the i-th reading in fold k.

    Attributes:
        steps: training steps done at each reading.
        train: bound on the training batches since the reading before; NaN at step 0, where there were none.
        validation: bound on the fold's validation rows, which chose the critic and are no part of the estimate.

    Raises:
        ValueError: curves of unequal length.

    >>> history = History(steps=[[0, 50]], train=[[math.nan, 0.4]], validation=[[0.0, 0.5]])
    >>> max(history.validation[0])
    0.5
    """

    steps: Sequence[Sequence[int]]
    train: Sequence[Sequence[float]]
    validation: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        lengths = [[len(curve) for curve in curves] for curves in (self.steps, self.train, self.validation)]
        if not lengths[0] == lengths[1] == lengths[2]:
            raise ValueError(
                f"steps, train and validation must have as many readings in every fold, got {lengths[0]}, {lengths[1]} "
                f"and {lengths[2]}"
            )

    def __eq__(self, other: object) -> bool:
        """Equal curves; a reading that is NaN in both is no difference."""
        if not isinstance(other, History):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in ("steps", "train", "validation"))

    __hash__ = None  # type: ignore[assignment]  # lists inside


@dataclass(frozen=True, eq=False)
class MIResult:
    """An estimate of mutual information with its error; every value is in nats unless its name says bits.

    `float(r)` is the estimate, `print(r)` the summary, `f"{r:.3f}"` the formatted estimate.

    Attributes:
        mi: the Donsker-Varadhan bound on held-out rows, mean(T_joint) - log mean exp(T_marginal), a lower bound in
            expectation; it may come out negative, and is never clipped at 0. Scores so high that the marginal term
            would rest on less than one row are cut, which keeps each fold of n rows at or below ln(n) (McAllester &
            Stratos 2020, arXiv 1811.04251).
        stderr: its standard error from the sampling of the held-out rows. It covers neither the bias of a lower bound,
            which is downwards, nor that another training (another seed) would give another critic.
        p_value: one-sided, of independence (I = 0): the share of shuffled orders of the rows that score as high as the
            pairs as they came, of all that the rotations of the folds combine to (see
            `evaluation.permutation_p_value`). It may be small where mi is not above 0.
        n: rows scored while held out.
        flags: what a careful reader should know, in words, each with a `code`; empty when nothing stood out. Those of
            level "warning" say what may have spoilt the estimate or its error bar: "few_rows", "not_certifiable",
            "few_effective_marginals", "below_zero", "diverged", "still_rising", "overfitted", "deterministic",
            "constant_column", "duplicate_columns", "duplicate_rows", "many_levels", "rare_codes" (of `conditional`),
            "heavy_tails" (where the critic reads raw values).
            Those of level "note" say what the data are like and that it was dealt with: "discrete", "heavy_tails"
            (where the critic reads ranks). docs/flags.md tells what each means and what to do.
        history: training curves.
        seed: the seed that gives this result again.
        settings: all other settings by name, as arguments of what made it.
        fold_mi: the estimate of every fold.
        joint_scores: [m], critic scores T(x_i, y_i) of held-out pairs, a sample for plotting.
        marginal_scores: [k], scores of shuffled pairs, likewise.
        seconds: wall time.
        certified_mi: what `lower` starts from: the bound with scores cut where the marginal term would rest on less
            than ten rows, so that its error bar holds too. None: mi.
        certified_stderr: its standard error. None: stderr.
        certifiable: the most that `lower` can say with these rows, about ln(n / 10) of a fold's n.
        quantity: what was estimated: "I(X;Y)", or "I(X;Y|Z)" by `mine_fast.conditional`, which says what its `mi`,
            `stderr`, `p_value` and `lower` are.
        parts: the results of which a conditional information is the difference.
        trainings: the results of the trainings of which this is the mean, with `n_seeds` of `mine_fast.estimate`;
            `history`, `fold_mi` and the scores are those of the first.
        training_spread: the standard deviation of mi over those trainings, which `stderr` counts then. None: there was
            only one, and nobody knows.

    >>> r = MIResult(mi=0.829, stderr=0.016, p_value=0.005, n=3000, seed=0)
    >>> print(r)
    I(X;Y) = 0.829 +- 0.016 nats (1.196 bits)
      lower bound (95%)  0.803 nats
      p-value, I = 0     0.005
      rows held out      3000
      flags              none
    """

    mi: float
    stderr: float
    p_value: float
    n: int
    flags: tuple[Flag, ...] = ()
    history: History = field(default_factory=lambda: History([], [], []), repr=False)
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    fold_mi: tuple[float, ...] = ()
    joint_scores: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)
    marginal_scores: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)
    seconds: float = 0.0
    certified_mi: float | None = field(default=None, repr=False)
    certified_stderr: float | None = field(default=None, repr=False)
    certifiable: float = field(default=math.inf, repr=False)
    quantity: str = "I(X;Y)"
    parts: tuple[MIResult, ...] = field(default=(), repr=False)
    trainings: tuple[MIResult, ...] = field(default=(), repr=False)
    training_spread: float | None = field(default=None, repr=False)

    @property
    def error(self) -> None:
        """None: there is a result. A `FailedEstimate` of `mine_fast.estimate_many` has its exception here."""
        return None

    @property
    def bits(self) -> float:
        """The estimate in bits, mi / ln 2.

        >>> MIResult(mi=math.log(2), stderr=0.01, p_value=0.01, n=100).bits
        1.0
        """
        return self.mi * _BITS_PER_NAT

    @property
    def stderr_bits(self) -> float:
        """The standard error in bits, stderr / ln 2.

        >>> MIResult(mi=1.0, stderr=math.log(2), p_value=0.01, n=100).stderr_bits
        1.0
        """
        return self.stderr * _BITS_PER_NAT

    def lower(self, confidence: float = 0.95) -> float:
        """One-sided lower confidence bound on the mutual information, in nats.

        min(mi, certified_mi) - z * certified_stderr, with z the `confidence` quantile of the standard normal
        distribution, and never more than `certifiable`. A Donsker-Varadhan bound is below I(X;Y) in expectation, so the
        mutual information lies above `lower` with at least this probability, up to the normal approximation. That
        needs a marginal term whose error can be told from the rows, so scores are cut where it would rest on less than
        ten of them: with n rows no bound that holds for every distribution says more than about ln(n) (McAllester &
        Stratos 2020, arXiv 1811.04251).

        Args:
            confidence: in (0, 1).

        Raises:
            ValueError: a confidence outside (0, 1).
            TypeError: a confidence that is no number.

        >>> round(MIResult(mi=1.0, stderr=0.1, p_value=0.01, n=100).lower(0.975), 3)
        0.804
        """
        confidence = as_number("confidence", confidence, "a number in (0, 1)")
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must be in (0, 1), for example 0.95, got {confidence}")
        mi = self.mi if self.certified_mi is None else min(self.mi, self.certified_mi)
        stderr = self.stderr if self.certified_stderr is None else self.certified_stderr
        return min(mi - NormalDist().inv_cdf(confidence) * stderr, self.certifiable)

    def summary(self, unit: str = "nats") -> str:
        """The estimate, its bound, test, rows and flags as a block of text.

        Args:
            unit: "nats" or "bits".

        Raises:
            ValueError: another unit.

        >>> print(MIResult(mi=math.log(2), stderr=0.01, p_value=0.005, n=1000).summary("bits"))
        I(X;Y) = 1.000 +- 0.014 bits (0.693 nats)
          lower bound (95%)  0.976 bits
          p-value, I = 0     0.005
          rows held out      1000
          flags              none
        """
        if unit not in ("nats", "bits"):
            raise ValueError(f"unit must be 'nats' or 'bits', got {unit!r}")
        scale, other = (1.0, "bits") if unit == "nats" else (_BITS_PER_NAT, "nats")
        in_other = self.bits if unit == "nats" else self.mi
        digits = 3
        if 0 < self.stderr * scale < 0.001:
            digits = min(9, 1 - math.floor(math.log10(self.stderr * scale)))
        p_value = f"{self.p_value:.2g}" if self.p_value >= 1e-12 else "< 1e-12"
        lines = [
            f"{self.quantity} = {self.mi * scale:.{digits}f} +- {self.stderr * scale:.{digits}f} {unit} "
            f"({in_other:.{digits}f} {other})",
            *(f"  {part.quantity:17}  {part.mi * scale:.{digits}f} {unit}" for part in self.parts),
            f"  lower bound (95%)  {self.lower() * scale:.{digits}f} {unit}",
            f"  p-value, I = 0     {p_value}",
            f"  rows held out      {self.n}",
            *self._trainings_line(scale, digits, unit),
        ]
        for title, level, otherwise in (("flags", "warning", ["none"]), ("notes", "note", [])):
            texts = [f"{flag} [{flag.code}]" for flag in self.flags if flag.level == level] or otherwise
            lines += [f"  {title if i == 0 else '':17}  {text}" for i, text in enumerate(texts)]
        return "\n".join(lines)

    def _trainings_line(self, scale: float, digits: int, unit: str) -> list[str]:
        if self.training_spread is None:
            return []
        spread = f"they differ by {self.training_spread * scale:.{digits}f} {unit} (standard deviation)"
        return [f"  trainings          {len(self.trainings)}; {spread}"]

    def __str__(self) -> str:
        return self.summary()

    def __float__(self) -> float:
        return float(self.mi)

    def __format__(self, spec: str) -> str:
        return format(self.mi, spec) if spec else str(self)

    def to_dict(self) -> dict[str, Any]:
        """All but the curves and scores, as plain values that `json.dumps` takes; what is not finite becomes None.

        pickle keeps all of a result, curves and scores too.

        >>> MIResult(mi=0.5, stderr=0.1, p_value=0.01, n=100).to_dict()["mi"]
        0.5
        """
        values = {
            "quantity": self.quantity,
            "mi": self.mi,
            "stderr": self.stderr,
            "lower_95": self.lower(0.95),
            "certifiable": self.certifiable,
            "bits": self.bits,
            "stderr_bits": self.stderr_bits,
            "p_value": self.p_value,
            "n": self.n,
            "flags": [{"code": flag.code, "level": flag.level, "message": str(flag)} for flag in self.flags],
            "fold_mi": self.fold_mi,
            "seed": self.seed,
            "settings": self.settings,
            "seconds": self.seconds,
            "parts": {part.quantity: {"mi": part.mi, "stderr": part.stderr} for part in self.parts},
        }
        if self.trainings:
            values["training_mi"] = [training.mi for training in self.trainings]
            values["training_spread"] = self.training_spread
        return {name: plain(value) for name, value in values.items()}

    def plot(self, truth: float | None = None, *, figure: Figure | None = None) -> Figure:
        """Draw the training curves with the estimate, and the histograms of the critic's scores.

        Args:
            truth: the true mutual information in nats, if it is known, drawn as a line.
            figure: an empty matplotlib figure to draw into; None makes one with pyplot.

        Returns:
            The figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from mine_fast.plotting import plot_result

        return plot_result(self, truth, figure)


@dataclass(frozen=True)
class FailedEstimate:
    """What `estimate_many` gives for a pair that could not be estimated.

    Whatever else is asked of it that an `MIResult` has raises an AttributeError with the reason: a number is never made
    up. `r.error is None` tells the results that are there from those that are not.

    Attributes:
        error: the exception that `mine_fast.estimate` would have raised for this pair.
        index: the number of the pair.

    >>> import mine_fast
    >>> r = mine_fast.FailedEstimate(ValueError("x must be finite"), 3)
    >>> print(r)
    pair 3 failed: ValueError: x must be finite
    >>> r.mi
    Traceback (most recent call last):
    ...
    AttributeError: no mi: pair 3 failed: ValueError: x must be finite
    """

    error: Exception
    index: int

    def __str__(self) -> str:
        return f"pair {self.index} failed: {type(self.error).__name__}: {self.error}"

    def __getattr__(self, name: str) -> Any:
        if name in _RESULT_NAMES:
            raise AttributeError(f"no {name}: {self}") from self.error
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


_RESULT_NAMES = {field.name for field in fields(MIResult)} | {name for name in vars(MIResult) if name[0] != "_"}


def without_scores(result: MIResult | FailedEstimate) -> MIResult | FailedEstimate:
    """Thousands of pairs would fill the memory with what histograms are drawn from."""
    if isinstance(result, FailedEstimate):
        return result
    return replace(
        result,
        joint_scores=result.joint_scores[:0].copy(),
        marginal_scores=result.marginal_scores[:0].copy(),
        trainings=tuple(without_scores(one) for one in result.trainings),  # type: ignore[misc]
    )


def _same(curves: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> bool:
    return len(curves) == len(others) and all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(curves, others, strict=True)
    )
