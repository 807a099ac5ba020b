"""The engine's module, the package's own or compiled for the tests."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import itertools

import build_engine
from torch_path import TorchRun


@pytest.fixture(scope="session")
def engine_module() -> ModuleType:
    return build_engine.load()


class Case:
    """An engine, the torch run that it must equal, and data for both."""

    def __init__(self, module, x_width=2, y_width=3, hidden=(7, 5), activation=1, slope=0.1, loss=0, alpha=0.01,
                 seed=3, noise=0.0, input_noise=0.0, rows=97, scale=1.0, outer=1.0):  # fmt: skip
        depth = len(hidden)
        activations = list(activation) if isinstance(activation, tuple) else [activation] * depth
        settings = (x_width, y_width, list(hidden), activations, [slope] * depth)
        self.engine = module.Engine(*settings, [noise] * depth, loss, alpha, seed, input_noise)
        self.torch = TorchRun(*settings, loss, alpha, seed, [noise] * depth, input_noise)
        generator = torch.Generator().manual_seed(seed)
        parts = []
        widths = [x_width + y_width, *hidden, 1]
        for level, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            bound = (outer if level == depth else scale) / fan_in**0.5
            parts.append((torch.rand(fan_out * (fan_in + 1), generator=generator) * 2 - 1) * bound)
        self.parameters = torch.cat(parts).numpy()
        self.engine.parameters = self.parameters
        self.torch.set_parameters(self.parameters)
        self.x = torch.randn(rows, x_width, generator=generator)
        self.y = torch.randn(rows, y_width, generator=generator)
        shared = min(x_width, y_width)
        self.y[:, :shared] = 0.8 * self.x[:, :shared] + 0.6 * self.y[:, :shared]

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self.x.numpy(), self.y.numpy()


@pytest.fixture
def case(engine_module):
    def make(**settings) -> Case:
        return Case(engine_module, **settings)

    return make


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-30))
