"""The separable critic T(x, y) = phi(x) . psi(y) + a(x) + b(y), which scores all pairs of a batch in one product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mine_fast.checks import as_integer
from mine_fast.perceptrons import checked_layers, perceptron

__all__ = ["SeparableCritic"]

#: The towers' last layers start this much smaller than torch would have them: the scores of all pairs start near 0.
INITIAL_SCALE = 0.1


class SeparableCritic(nn.Module):
    """T(x, y) = phi(x) . psi(y) + a(x) + b(y), a perceptron on x and one on y (Poole et al. 2019, arXiv 1905.06922).

    As the critic of a `MINE` in training mode it is trained on all B (B - 1) marginal pairs of a batch, which cost it
    one product: on shuffles, a critic that reads pairs needs a pass of its layers for each of them. In evaluation mode
    marginal pairs are drawn as for any critic.

    Args:
        x_width: columns of x.
        y_width: columns of y.
        hidden: widths of the hidden layers of both perceptrons.
        outputs: the length of phi and psi.
        activation: class of the activation between the layers.
        generator: draws the weights, on the CPU; None is torch's global one.

    Attributes:
        x_tower, y_tower: x [N, x_width] -> [phi, a] and y [N, y_width] -> [psi, b], both [N, outputs + 1]. Modules of
            one's own may take their places; the native engine trains perceptrons alone.

    Raises:
        ValueError, TypeError: widths that are none; not a class of modules.

    >>> import torch, mine_fast
    >>> critic = mine_fast.SeparableCritic(3, 1)
    >>> x, y = torch.randn(5, 3), torch.randn(5, 1)
    >>> f, g = critic.factors(x, y)
    >>> f.shape, torch.allclose(critic(x, y), (f @ g.T).diagonal(), atol=1e-6)
    (torch.Size([5, 34]), True)
    """

    x_tower: nn.Module
    y_tower: nn.Module

    def __init__(
        self,
        x_width: int,
        y_width: int,
        hidden: Sequence[int] = (64, 64, 64),
        outputs: int = 32,
        activation: type[nn.Module] = nn.SiLU,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        hidden = checked_layers(hidden, activation)
        self.outputs = as_integer("outputs", outputs, least=1)
        towers = [
            perceptron(as_integer(name, width, least=1), hidden, activation, generator, self.outputs + 1)
            for name, width in (("x_width", x_width), ("y_width", y_width))
        ]
        with torch.no_grad():
            for tower in towers:
                for parameter in tower[-1].parameters():
                    parameter.mul_(INITIAL_SCALE)
        self.x_tower, self.y_tower = towers

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores [N] of the pairs (x_i, y_i)."""
        f, g = self.factors(x, y)
        return (f * g).sum(1)

    def factors(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """F = [phi, a, 1] and G = [psi, 1, b], [N, outputs + 2] and [M, outputs + 2]: all scores are F G^T, [N, M]."""
        f, g = self.x_tower(x), self.y_tower(y)
        return torch.cat([f, torch.ones_like(f[:, :1])], 1), torch.cat(
            [g[:, :-1], torch.ones_like(g[:, :1]), g[:, -1:]], 1
        )

    def all_pairs(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores of the pairs (x_i, y_i), [B], then of all others, [B (B - 1)], in B - 1 groups of B in x's order."""
        f, g = self.factors(x, y)
        rows = torch.arange(len(f), device=f.device)
        partners = (rows[:, None] + rows) % len(f)
        return (f @ g.T).gather(1, partners).T.reshape(-1)
