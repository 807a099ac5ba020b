"""How a critic is trained: the settings of `fit` and `estimate`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mine_fast.checks import as_integer, as_number

__all__ = ["ENGINES", "TrainingSettings", "check_engine", "default_steps"]

#: What may train; see `TrainingSettings`.
ENGINES = ("auto", "native", "torch", "graph")


def check_engine(engine: str) -> None:
    """Refuse an unknown engine; whether it can train a critic shows when there is one."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")


@dataclass(frozen=True)
class TrainingSettings:
    """How a critic is trained; every field can be passed to `MINE.fit` and `mine_fast.estimate`.

    Attributes:
        steps: optimiser steps per network and fold. `fit` and `estimate` make fewer of few rows where none are given:
            300 up to 1000 rows, 600 from 4000 (see `default_steps`).
        batch_size: joint rows per step.
        learning_rate: peak of the schedule (linear warm-up over a tenth of the steps, then a cosine to zero).
        shuffles: marginal pairs per row and step.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm.
        averaging: decay of the moving average of the weights, which is what is validated and returned.
        evaluate_every: steps between validations; the best one, the start included, is kept.
        validation_fraction: share of a fold's training rows that choose the step and train nothing.
        folds: K of the cross-fitting: K critics, each evaluated on the K-th of the rows that it never saw.
        evaluation_shuffles: derangements of the held-out rows; None: as many as give about 10^6 pairs, 20 to 199.
        engine: "auto" trains by the native engine where it can (see `mine_fast.native`) and by torch elsewhere;
            "native" or "torch" insist. "graph" replays the steps of a critic on a GPU from a CUDA graph, as "auto" does
            for the critics that `estimate_many` and its like stack there (docs/benchmarks.md says what a GPU has run).

    Raises:
        ValueError: a number outside its range, such as 0 steps, one fold or an averaging of 1; an unknown engine.
        TypeError: a field that is no number, or no whole one where counts are meant.

    >>> import mine_fast
    >>> mine_fast.TrainingSettings(steps=300, folds=5).batch_size
    256
    """

    steps: int = 600
    batch_size: int = 256
    learning_rate: float = 1e-2
    shuffles: int = 2
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    averaging: float = 0.98
    evaluate_every: int = 50
    validation_fraction: float = 0.2
    folds: int = 4
    evaluation_shuffles: int | None = None
    engine: str = "auto"

    def __post_init__(self) -> None:
        check_engine(self.engine)
        for name, least in (("steps", 1), ("batch_size", 2), ("shuffles", 1), ("evaluate_every", 1), ("folds", 2)):
            object.__setattr__(self, name, as_integer(name, getattr(self, name), least))
        for name in ("learning_rate", "max_grad_norm", "validation_fraction", "averaging", "weight_decay"):
            object.__setattr__(self, name, as_number(name, getattr(self, name)))
        for name, low, high in (
            ("learning_rate", 0.0, math.inf),
            ("max_grad_norm", 0.0, math.inf),
            ("validation_fraction", 0.0, 1.0),
        ):
            if not low < getattr(self, name) < high:
                raise ValueError(f"{name} must be in ({low:g}, {high:g}), got {getattr(self, name)!r}")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging must be in [0, 1), got {self.averaging!r}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay!r}")
        if self.evaluation_shuffles is not None:
            shuffles = as_integer("evaluation_shuffles", self.evaluation_shuffles, least=1)
            object.__setattr__(self, "evaluation_shuffles", shuffles)


def default_steps(rows: int) -> int:
    """Optimiser steps for N rows: 300 sqrt(N / 1000), from 300 to 600.

    More of few rows is learnt by heart: over eleven distributions that are hard to learn, 300 steps left a mean error
    of 0.089 nats at N = 1000 and of 0.041 at N = 3000, 600 left 0.091 and 0.038.

    >>> default_steps(200), default_steps(2000), default_steps(10_000)
    (300, 424, 600)
    """
    return round(min(max(300 * math.sqrt(rows / 1000), 300), 600))
