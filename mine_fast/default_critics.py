"""The critics that `MINE` makes by itself, from the data: a perceptron, and what `estimate` stacks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mine_fast.checks import as_integer
from mine_fast.pair_inputs import PairInputs

__all__ = ["MLPCritic", "StackedCritic", "is_default"]


def perceptron(
    features: int, hidden: Sequence[int], activation: type[nn.Module], generator: torch.Generator | None = None
) -> nn.Sequential:
    """Linear layers of these widths with an activation between them and one output, on the CPU in float32.

    Weights are torch's own initial distribution, uniform within 1 / sqrt(fan_in), drawn from the generator.
    """
    widths = [features, *hidden]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [_linear(fan_in, fan_out, generator), activation()]
    return nn.Sequential(*layers, _linear(widths[-1], 1, generator))


def _linear(fan_in: int, fan_out: int, generator: torch.Generator | None) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, device="cpu", dtype=torch.float32)
    bound = fan_in**-0.5
    nn.init.uniform_(layer.weight, -bound, bound, generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator)
    return layer


def _widths_in_state(state_dict: dict[str, Any], prefix: str) -> list[int]:
    """Inputs and hidden widths of a perceptron in a state; [] if it is none."""
    weights = [value for name, value in state_dict.items() if re.fullmatch(prefix + r"\d+\.weight", name)]
    return [weights[0].shape[1], *(weight.shape[0] for weight in weights[:-1])] if weights else []


class MLPCritic(nn.Module):
    """A perceptron on the concatenated plain features of x and y (see `PairInputs`).

    Args:
        hidden: widths of the hidden layers.
        activation: class of the activation between them.

    Raises:
        ValueError, TypeError: no widths, or not widths; not a class of modules.

    The network is built by `prepare`, which learns the inputs from training rows and so knows their widths.

    >>> import torch, mine_fast
    >>> critic = mine_fast.MLPCritic().prepare(torch.randn(100, 3), torch.randn(100, 1))
    >>> critic(torch.randn(5, 3), torch.randn(5, 1)).shape
    torch.Size([5, 1])
    """

    def __init__(self, hidden: Sequence[int] = (64, 64, 64), activation: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.hidden = tuple(as_integer("hidden", width, least=1) for width in hidden)
        if not self.hidden:
            raise ValueError("hidden must name at least one width, got none: without a hidden layer T is additive")
        if not (isinstance(activation, type) and issubclass(activation, nn.Module)):
            raise TypeError(f"activation must be a class of modules such as torch.nn.SiLU, got {activation!r}")
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
        widths = _widths_in_state(state_dict, prefix + r"layers\.")
        if not len(self.layers) and widths:
            self.hidden = tuple(widths[1:])
            self.layers = perceptron(widths[0], self.hidden, self.activation)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def features(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What the network reads of x [N, dx] and y [N, dy]."""
        if not len(self.layers):
            raise ValueError("T: the default critic has no network before prepare(x, y) or fit(x, y)")
        x_features, y_features = self.inputs(x, y)
        x_width, y_width = self.inputs.plain_widths
        return x_features[:, :x_width], y_features[:, :y_width]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores [N, 1] of the pairs (x_i, y_i)."""
        return self.layers(torch.cat(self.features(x, y), 1))


class StackedCritic(nn.Module):
    """The critic of `estimate`: a weighted sum of three Gaussian critics and two perceptrons, one of which reads waves.

    Made and trained by a fit (`fold_fitting`), which finds the weights on rows that trained none of the five.

    Attributes:
        weights: [5], of each critic's scores.
        offsets: [5], each one's log mean exp over marginal pairs, which is taken off its scores.
        floor, ceiling: [], [5], beyond which no score counts, lest one pair that no row before was like decide a mean.
    """

    hidden = (64, 64, 64)
    weights: Tensor
    offsets: Tensor
    floor: Tensor
    ceiling: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inputs = PairInputs()
        self.without_waves = nn.Sequential()
        self.with_waves = nn.Sequential()
        for name, shape in (("weights", (5,)), ("offsets", (5,)), ("floor", ()), ("ceiling", (5,))):
            self.register_buffer(name, torch.zeros(shape, device="cpu", dtype=torch.float32))

    def prepare(self, x: Tensor, y: Tensor, generator: torch.Generator) -> StackedCritic:
        """Learn the inputs from training rows x [N, dx], y [N, dy] and make the networks for them."""
        self.inputs.fit(x, y)
        self.without_waves = perceptron(sum(self.inputs.plain_widths), self.hidden, nn.SiLU, generator)
        self.with_waves = perceptron(sum(self.inputs.wave_widths), self.hidden, nn.SiLU, generator)
        return self.to(x.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("without_waves", "with_waves"):
            widths = _widths_in_state(state_dict, prefix + name + r"\.")
            if widths:
                setattr(self, name, perceptron(widths[0], widths[1:], nn.SiLU))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def members(self) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """The five critics: features of `inputs` -> scores [N]."""

        def gaussian(i: int) -> Callable[[Tensor, Tensor], Tensor]:
            return lambda x, y: self.inputs.gaussian_score(i, x, y)

        def perceptron_of(network: nn.Module, x_width: int, y_width: int) -> Callable[[Tensor, Tensor], Tensor]:
            return lambda x, y: network(torch.cat([x[:, :x_width], y[:, :y_width]], 1))[:, 0]

        return [*map(gaussian, range(3)), *(perceptron_of(*network) for network in self.networks())]

    def networks(self) -> list[tuple[nn.Sequential, int, int]]:
        """The perceptrons, and of how many features of x and of y they read the first."""
        return [(self.without_waves, *self.inputs.plain_widths), (self.with_waves, *self.inputs.wave_widths)]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores [N] of the pairs (x_i, y_i)."""
        return self.score_features(*self.inputs(x, y))

    def score_features(self, x_features: Tensor, y_features: Tensor) -> Tensor:
        """Scores [N] of features of `inputs`."""
        return self.weights @ self.limited(torch.stack([score(x_features, y_features) for score in self.members()]))

    def limited(self, scores: Tensor) -> Tensor:
        """Scores [5, N] of the critics as they enter the sum."""
        offsets, floor, ceiling = (limit.to(scores) for limit in (self.offsets, self.floor, self.ceiling))
        return torch.minimum(torch.maximum(scores - offsets[:, None], floor), ceiling[:, None])


def is_default(critic: object) -> bool:
    """Whether a critic is one of these, which take rows in any dtype and learn their inputs from them."""
    return critic is None or isinstance(critic, MLPCritic | StackedCritic)
