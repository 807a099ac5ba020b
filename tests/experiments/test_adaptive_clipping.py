"""Adaptive clipping: its identities by hand, and which parameters get what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mine_fast.experiments.adaptive_clipping import adaptively_clipped, backward_adaptively


def test_a_small_information_gradient_is_added_as_it_is():
    g_a, g_m = [torch.randn(4, 3), torch.randn(5)], [1e-3 * torch.randn(4, 3), 1e-3 * torch.randn(5)]
    for summed, a, m in zip(adaptively_clipped(g_a, g_m), g_a, g_m, strict=True):
        torch.testing.assert_close(summed, a + m)


def test_a_large_one_gets_the_norm_of_the_adversarial_over_all_parameters_together():
    # |g_a| = 13 only over both tensors (5 and 12), |g_m| = 26 (0 and 26).
    g_a = [torch.tensor([3.0, 4.0]), torch.tensor([[12.0]])]
    g_m = [torch.tensor([0.0, 0.0]), torch.tensor([[-26.0]])]
    first, second = adaptively_clipped(g_a, g_m)
    torch.testing.assert_close(first, torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(second, torch.tensor([[-1.0]]))


def test_no_gradient_makes_no_nan():
    zero, one = [torch.zeros(2)], [torch.ones(2)]
    assert adaptively_clipped(zero, zero)[0].tolist() == [0, 0]
    assert adaptively_clipped(one, zero)[0].tolist() == [1, 1]
    assert adaptively_clipped(zero, one)[0].tolist() == [0, 0]


@pytest.mark.parametrize("weight", [1e-3, 1e3])
def test_backward(weight):
    torch.manual_seed(0)
    generator, discriminator, critic = nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(2, 1)
    unused = nn.Parameter(torch.ones(3))
    fake = generator(torch.randn(8, 2))
    adversarial, information = discriminator(fake).square().mean(), weight * critic(fake).exp().mean()
    parameters = [*generator.parameters(), unused]
    g_a = torch.autograd.grad(adversarial, list(generator.parameters()), retain_graph=True)
    g_m = torch.autograd.grad(information, list(generator.parameters()), retain_graph=True)
    g_t = torch.autograd.grad(information, list(critic.parameters()), retain_graph=True)
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 7.0)  # of the last step
    backward_adaptively(adversarial, information, parameters, critic.parameters())

    norm_a, norm_m = (sum(float(g.square().sum()) for g in gradients) ** 0.5 for gradients in (g_a, g_m))
    assert (norm_m > norm_a) == (weight > 1)
    for parameter, a, m in zip(generator.parameters(), g_a, g_m, strict=True):
        torch.testing.assert_close(parameter.grad, a + min(norm_a, norm_m) * m / norm_m)
    for parameter, gradient in zip(critic.parameters(), g_t, strict=True):  # not clipped
        torch.testing.assert_close(parameter.grad, gradient)
    assert unused.grad.tolist() == [0, 0, 0]
    assert all(parameter.grad is None for parameter in discriminator.parameters())
