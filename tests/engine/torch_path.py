"""The engine's training in plain torch, in any dtype: the oracle of its tests."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mine_fast import reference


@dataclass
class TorchRun:
    """A critic as a list of weights, trained as csrc/engine/engine.h says."""

    x_width: int
    y_width: int
    hidden: list[int]
    activations: list[int]
    slopes: list[float]
    loss: int = 0
    alpha: float = 0.01
    seed: int = 0
    noise: list[float] | None = None
    input_noise: float = 0.0
    dtype: torch.dtype = torch.float64
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    log_ema: Tensor = field(default_factory=lambda: torch.tensor(-math.inf, dtype=torch.float64))
    offset: int = 0
    epoch: int = 0
    position: int = 0

    def set_parameters(self, flat: np.ndarray) -> None:
        """Torch's order: each Linear's weights [out, in], then its bias."""
        self.layers, at = [], 0
        widths = [self.x_width + self.y_width, *self.hidden, 1]
        for fan_in, fan_out in itertools.pairwise(widths):
            parts = []
            for shape in ((fan_out, fan_in), (fan_out,)):
                size = math.prod(shape)
                part = torch.from_numpy(np.array(flat[at : at + size])).to(self.dtype).reshape(shape)
                parts.append(part.requires_grad_())
                at += size
            self.layers.append((parts[0], parts[1]))

    @property
    def leaves(self) -> list[Tensor]:
        return [p for layer in self.layers for p in layer]

    def flat(self) -> np.ndarray:
        return torch.cat([p.detach().flatten() for p in self.leaves]).numpy()

    def scores(self, x: Tensor, y: Tensor, pairs: Tensor | None = None) -> Tensor:
        """Scores of rows; with `pairs`, the numbers of the pairs, noise is added as in training."""
        hidden = torch.cat([x, y], 1)
        for level, (weight, bias) in enumerate(self.layers):
            hidden = hidden @ weight.T + bias
            if level < len(self.hidden):
                name = reference.ACTIVATIONS[self.activations[level]]
                hidden = reference.activate(hidden, name, self.slopes[level])
                if pairs is not None and self.noise and self.noise[level] > 0:
                    drawn = normal_noise(self.seed, self.offset, level, pairs, self.hidden[level])
                    hidden = hidden + self.noise[level] * drawn.to(self.dtype)
        return hidden[:, 0]

    def batch(self, x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
        n = x.shape[0]
        size = min(size, n)
        if self.position + size > n:
            self.epoch, self.position = self.epoch + 1, 0
        order = reference.bijection(torch.tensor([self.seed, self.epoch]), reference.PASS_STREAM, n)
        rows = order[self.position : self.position + size]
        return x[rows].to(self.dtype), y[rows].to(self.dtype)

    def loss_of_next_step(self, x: Tensor, y: Tensor, size: int, shuffles: int) -> tuple[Tensor, Tensor]:
        """The loss and the new log-EMA."""
        x, y = self.batch(x, y, size)
        rows = x.shape[0]
        if self.input_noise > 0:
            drawn = [normal_noise(self.seed, self.offset, side, torch.arange(rows), v.shape[1])
                     for side, v in ((-1, x), (-2, y))]  # fmt: skip
            x, y = (v + self.input_noise * n.to(self.dtype) for v, n in zip((x, y), drawn, strict=True))
        index = reference.shuffle_index(torch.tensor([self.seed, self.offset]), rows, shuffles)
        y_all = torch.cat([y[None], y[index]]).flatten(0, 1)
        x_all = x.expand(1 + shuffles, *x.shape).flatten(0, 1)
        scores = self.scores(x_all, y_all, torch.arange(x_all.shape[0]))
        log_ema = self.log_ema.to(self.dtype)
        loss, log_ema, _ = reference.dv_term(scores, rows, log_ema, self.alpha, reference.LOSSES[self.loss])
        return loss, log_ema

    def train(
        self,
        x: Tensor,
        y: Tensor,
        steps: int,
        size: int,
        shuffles: int,
        optimizer: torch.optim.Optimizer,
        max_grad_norm: float | None = None,
    ) -> list[float]:
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss, log_ema = self.loss_of_next_step(x, y, size, shuffles)
            loss.backward()
            if max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.leaves, max_grad_norm)
            optimizer.step()
            if self.loss == 0:
                self.log_ema = log_ema
            self.offset += 1
            self.position += min(size, x.shape[0])
            losses.append(float(loss.detach()))
        return losses


_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _mix64(v: int) -> int:
    v = ((v ^ (v >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    v = ((v ^ (v >> 27)) * 0x94D049BB133111EB) & _MASK
    return v ^ (v >> 31)


def _scrambled(h: np.ndarray) -> np.ndarray:
    h = ((h ^ (h >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 0x735A2D97) & 0xFFFFFFFF
    return h ^ (h >> 15)


def normal_noise(seed: int, offset: int, layer: int, pairs: Tensor, width: int) -> Tensor:
    """csrc/engine/noise.h: standard normal values by counter, [pairs, width] float64."""
    groups = (width + 15) // 16
    out = np.empty((len(pairs), groups, 2, 8))
    draws = np.arange(8 * groups, dtype=np.uint64).reshape(groups, 8)
    base = _mix64((seed + _GOLDEN) & _MASK)
    base = _mix64(base ^ ((offset * 0xD1342543DE82EF95 + layer * 0xAF251AF3B0F025B5) & _MASK))
    for row, pair in enumerate(pairs.tolist()):
        state = _mix64(base ^ ((pair * _GOLDEN) & _MASK))
        one = _scrambled((draws * 0x9E3779B9 + (state & 0xFFFFFFFF)) & 0xFFFFFFFF)
        two = _scrambled(one ^ (state >> 32))
        radius = np.sqrt(-2 * np.log(((one >> 9) + 0.5) * 2.0**-23))
        angle = 2 * math.pi * 2.0**-32 * two
        out[row] = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return torch.from_numpy(out.reshape(len(pairs), -1)[:, :width])
