"""The critics that `MINE` makes by itself, from the data: a perceptron, and what `estimate` stacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mine_fast.pair_inputs import PairInputs
from mine_fast.pair_scoring import PairScorer, by_rows, factor_scores
from mine_fast.perceptrons import checked_layers, perceptron, widths_in_state
from mine_fast.separable import SeparableCritic

__all__ = ["MLPCritic", "StackedCritic", "is_default"]


class MLPCritic(nn.Module):
    """A perceptron on the concatenated plain features of x and y (see `PairInputs`).

    Args:
        hidden: widths of the hidden layers.
        activation: class of the activation between them.

    Raises:
        ValueError, TypeError: no widths, or not widths; not a class of modules.

    The network is built by `prepare`, which learns the inputs from training rows and so knows their widths; before it
    (or `MINE.fit`, which calls it) there is nothing to score by, and `forward` and `features` raise a ValueError.

    >>> import torch, mine_fast
    >>> critic = mine_fast.MLPCritic().prepare(torch.randn(100, 3), torch.randn(100, 1))
    >>> critic(torch.randn(5, 3), torch.randn(5, 1)).shape
    torch.Size([5, 1])
    """

    def __init__(self, hidden: Sequence[int] = (64, 64, 64), activation: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.hidden = checked_layers(hidden, activation)
        self.activation = activation
        self.inputs = PairInputs()
        self.layers = nn.Sequential()

    def prepare(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> MLPCritic:
        """Learn the inputs from training rows x [N, dx], y [N, dy] and make the network for them.

        The weights are drawn from `generator`, on the CPU; None is torch's global one.
        """
        self.inputs.fit(x, y)
        self.layers = perceptron(sum(self.inputs.plain_widths), self.hidden, self.activation, generator)
        return self.to(x.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A critic that was not prepared takes its widths from the state.
        widths = widths_in_state(state_dict, prefix + r"layers\.")
        if not len(self.layers) and widths:
            self.hidden = tuple(widths[1:-1])
            self.layers = perceptron(widths[0], self.hidden, self.activation)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def features(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What the network reads of x [N, dx] and y [N, dy].

        Raises:
            ValueError: before `prepare`.
        """
        if not len(self.layers):
            raise ValueError("T: the default critic has no network before prepare(x, y) or fit(x, y)")
        x_features, y_features = self.inputs(x, y)
        x_width, y_width = self.inputs.plain_widths
        return x_features[:, :x_width], y_features[:, :y_width]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores [N, 1] of the pairs (x_i, y_i).

        Raises:
            ValueError: before `prepare`.
        """
        return self.layers(torch.cat(self.features(x, y), 1))


class StackedCritic(nn.Module):
    """The critic of `estimate`: a weighted sum of three Gaussian critics, a perceptron and a separable critic.

    The perceptron, of ReLUs, finds edges and, by the waves among its features (see `PairInputs`), fine structure; the
    separable critic, smooth and trained on all pairs, finds what bends. It reads the plain features and the canonical
    variates. Made and trained by a fit (`fold_fitting`), which finds the weights on rows that trained none of the five.

    Attributes:
        weights: [5], of each critic's scores.
        offsets: [5], each one's log mean exp over marginal pairs, which is taken off its scores.
        floor, ceiling: [], [5], beyond which no score counts, lest one pair that no row before was like decide a mean.
    """

    hidden = (64, 64, 64)
    outputs = 32
    weights: Tensor
    offsets: Tensor
    floor: Tensor
    ceiling: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inputs = PairInputs()
        self.perceptron = nn.Sequential()
        self.separable: Any = nn.Module()  # a SeparableCritic, once there are widths for it
        for name, shape in (("weights", (5,)), ("offsets", (5,)), ("floor", ()), ("ceiling", (5,))):
            self.register_buffer(name, torch.zeros(shape, device="cpu", dtype=torch.float32))

    def prepare(self, x: Tensor, y: Tensor, generator: torch.Generator) -> StackedCritic:
        """Learn the inputs from training rows x [N, dx], y [N, dy] and make the networks for them."""
        self.inputs.fit(x, y)
        self.perceptron = perceptron(sum(self.inputs.wave_widths), self.hidden, nn.ReLU, generator)
        widths = self.inputs.variate_widths
        self.separable = SeparableCritic(*widths, self.hidden, self.outputs, generator=generator)
        return self.to(x.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        widths = widths_in_state(state_dict, prefix + r"perceptron\.")
        if widths:
            self.perceptron = perceptron(widths[0], widths[1:-1], nn.ReLU)
        towers = [widths_in_state(state_dict, prefix + rf"separable\.{side}_tower\.") for side in "xy"]
        if all(towers):
            (x_width, *hidden, outputs), (y_width, *_) = towers
            self.separable = SeparableCritic(x_width, y_width, hidden, outputs - 1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def networks(self) -> list[tuple[nn.Module, int, int]]:
        """What is trained, and of how many features of x and of y each reads the first."""
        return [
            (self.perceptron, *self.inputs.wave_widths),
            (self.separable, *self.inputs.variate_widths),
        ]

    def with_factors(self, x_features: Tensor, y_features: Tensor) -> tuple[Tensor, Tensor]:
        """Features of `inputs` with the separable critic's factors behind them: what the five critics read.

        A row's factors are the same in all of its pairs.
        """
        x_width, y_width = self.inputs.variate_widths
        f, g = self.separable.factors(x_features[:, :x_width], y_features[:, :y_width])
        return torch.cat([x_features, f], 1), torch.cat([y_features, g], 1)

    def members(self, perceptron: PairScorer | None = None) -> list[PairScorer]:
        """The five critics on features with factors.

        Args:
            perceptron: scores pairs of its features in the place of torch.
        """
        x_width, y_width = self.inputs.wave_widths
        factors = self.separable.outputs + 2
        score = perceptron or by_rows(lambda x, y: self.perceptron(torch.cat([x, y], 1))[:, 0])

        def of_pairs(x: Tensor, y: Tensor, partner: Tensor) -> Tensor:
            return score(x[:, :x_width], y[:, :y_width], partner)

        def separable(x: Tensor, y: Tensor, partner: Tensor) -> Tensor:
            return factor_scores(x[:, -factors:], y[:, -factors:], partner)

        return [*self.inputs.gaussian_critics(), of_pairs, separable]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores [N] of the pairs (x_i, y_i)."""
        own = torch.arange(len(x), device=x.device)[None]
        return self.score(self.members(), *self.with_factors(*self.inputs(x, y)), own)[0]

    def score(self, members: list[PairScorer], x_read: Tensor, y_read: Tensor, partner: Tensor) -> Tensor:
        """Scores [S, n] of pairs of features with factors; see `PairScorer`."""
        total = x_read.new_zeros(partner.shape)
        limits = zip(self.weights.tolist(), self.offsets, self.ceiling, members, strict=True)
        for weight, offset, ceiling, member in limits:
            if weight > 0:  # most are 0
                scores = member(x_read, y_read, partner) - offset
                total = total + weight * torch.minimum(torch.maximum(scores, self.floor), ceiling)
        return total

    def limited(self, scores: Tensor) -> Tensor:
        """Scores [5, N] of the critics as they enter the sum."""
        offsets, floor, ceiling = (limit.to(scores) for limit in (self.offsets, self.floor, self.ceiling))
        return torch.minimum(torch.maximum(scores - offsets[:, None], floor), ceiling[:, None])


def is_default(critic: object) -> bool:
    """Whether a critic is one of these, which take rows in any dtype and learn their inputs from them."""
    return critic is None or isinstance(critic, MLPCritic | StackedCritic)
