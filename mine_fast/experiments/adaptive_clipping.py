"""Adaptive gradient clipping: an information term that never outweighs the adversarial one.

The information of two continuous variables has no upper limit, so its gradient can drown the one that it is added to.
Belghazi et al. (2018, arXiv 1801.04062, section 5.1) scale it to at most the norm of the other, over all
parameters together:

    g = g_a + min(|g_a|, |g_m|) g_m / |g_m|
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["adaptively_clipped", "backward_adaptively"]


def adaptively_clipped(adversarial: Sequence[Tensor], information: Sequence[Tensor]) -> list[Tensor]:
    """The sum of two gradients of the same parameters, the second scaled to at most the norm of the first.

    >>> adaptively_clipped([torch.tensor([3.0, 4.0])], [torch.tensor([0.0, 50.0])])
    [tensor([3., 9.])]
    >>> adaptively_clipped([torch.tensor([3.0, 4.0])], [torch.tensor([0.0, 2.0])])
    [tensor([3., 6.])]
    """
    limit, norm = nn.utils.get_total_norm(adversarial), nn.utils.get_total_norm(information)
    scale = torch.where(norm > limit, limit / norm, torch.ones_like(norm))
    return [a + scale * m for a, m in zip(adversarial, information, strict=True)]


def backward_adaptively(
    adversarial_loss: Tensor, mi_loss: Tensor, parameters: Iterable[Tensor], critic_parameters: Iterable[Tensor]
) -> None:
    """`(adversarial_loss + mi_loss).backward()` with adaptive clipping: sets `.grad`, does not add to it.

    Args:
        adversarial_loss: of the generator (and encoder).
        mi_loss: what `MINE` gives, times its weight.
        parameters: of the generator (and encoder): they get the clipped sum.
        critic_parameters: of `MINE`: they get the gradient of `mi_loss` as it is. The discriminator's get none.
    """
    parameters, critic_parameters = list(parameters), list(critic_parameters)
    adversarial = torch.autograd.grad(adversarial_loss, parameters, retain_graph=True, materialize_grads=True)
    information = torch.autograd.grad(mi_loss, [*parameters, *critic_parameters], materialize_grads=True)
    count = len(parameters)
    for parameter, gradient in zip(parameters, adaptively_clipped(adversarial, information[:count]), strict=True):
        parameter.grad = gradient
    for parameter, gradient in zip(critic_parameters, information[count:], strict=True):
        parameter.grad = gradient
