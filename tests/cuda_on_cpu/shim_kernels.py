"""The CUDA kernels in CPU memory, callable as the raw ops of `torch.ops.mine_fast` are: arguments and results alike."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # in the order of driver.cpp's codes


class ShimKernels:
    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.scratch_of_dv_term.restype = ctypes.c_int64

    def set_order(self, seed: int) -> None:
        """Choose the order in which blocks, and threads between barriers, run; 0 is in sequence."""
        self._library.shim_configure(ctypes.c_uint64(seed))

    def _run(self, name: str, *arguments: Any) -> None:
        function = getattr(self._library, name)
        function.restype = ctypes.c_char_p
        converted = [
            ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor)
            else ctypes.c_int(DTYPES.index(a)) if isinstance(a, torch.dtype)
            else ctypes.c_double(a) if isinstance(a, float)
            else ctypes.c_int64(a)
            for a in arguments
        ]  # fmt: skip
        error = function(*converted)
        if error is not None:
            raise RuntimeError(error.decode())

    def divergent_barrier(self) -> None:
        self._run("run_divergent_barrier")

    def advance_key(self, key: Tensor) -> tuple[Tensor, Tensor]:
        current, following = torch.empty_like(key), torch.empty_like(key)
        self._run("run_advance_key", key, current, following)
        return current, following

    def shuffle_index(self, key: Tensor, rows: int, shuffles: int, inverse: bool) -> Tensor:
        index = key.new_empty(shuffles, rows)
        self._run("run_shuffle_index", key, rows, shuffles, int(inverse), index)
        return index

    def sum_layout(self, rows: int, packs: int) -> tuple[list[int], list[int]]:
        """The grid and the block of the kernels that sum over shuffles."""
        sizes = (ctypes.c_uint32 * 6)()
        self._library.shim_sum_layout(ctypes.c_int64(rows), ctypes.c_int64(packs), sizes)
        return sizes[:3], sizes[3:]

    def marginal_shuffle(self, y: Tensor, key: Tensor, shuffles: int) -> Tensor:
        shuffled = y.new_empty(shuffles, *y.shape)
        row_bytes = y[0].numel() * y.element_size()
        self._run("run_marginal_shuffle", y, key, y.shape[0], row_bytes, shuffles, shuffled)
        return shuffled

    def marginal_shuffle_backward(self, grad: Tensor, key: Tensor) -> Tensor:
        grad_y = grad.new_empty(grad.shape[1:])
        shuffles, rows = grad.shape[:2]
        self._run(
            "run_marginal_shuffle_backward", grad.dtype, grad, key, rows, grad_y.numel() // rows, shuffles, grad_y
        )
        return grad_y

    def pair(self, x: Tensor, y: Tensor, key: Tensor, shuffles: int) -> Tensor:
        paired = x.new_empty((1 + shuffles) * x.shape[0], x.shape[1] + y.shape[1])
        x_bytes, y_bytes = (t.shape[1] * t.element_size() for t in (x, y))
        self._run("run_pair", x, y, key, x.shape[0], x_bytes, y_bytes, shuffles, paired)
        return paired

    def pair_backward(self, grad: Tensor, key: Tensor, x_width: int, shuffles: int) -> tuple[Tensor, Tensor]:
        rows, y_width = grad.shape[0] // (1 + shuffles), grad.shape[1] - x_width
        grad_x, grad_y = grad.new_empty(rows, x_width), grad.new_empty(rows, y_width)
        self._run("run_pair_backward", grad.dtype, grad, key, rows, x_width, y_width, shuffles, grad_x, grad_y)
        return grad_x, grad_y

    def paired_first_layer(
        self, x_part: Tensor, y_part: Tensor, bias: Tensor, key: Tensor, shuffles: int, activation: int, slope: float
    ) -> Tensor:
        rows, width = x_part.shape
        hidden = x_part.new_empty((1 + shuffles) * rows, width)
        self._run(
            "run_paired_first_layer",
            x_part.dtype, activation, x_part, y_part, bias, key, rows, width, shuffles, slope, hidden,
        )  # fmt: skip
        return hidden

    def paired_first_layer_backward(
        self,
        grad: Tensor,
        x_part: Tensor,
        y_part: Tensor,
        bias: Tensor,
        key: Tensor,
        shuffles: int,
        activation: int,
        slope: float,
    ) -> tuple[Tensor, Tensor]:
        rows, width = x_part.shape
        grad_x, grad_y = torch.empty_like(x_part), torch.empty_like(y_part)
        self._run(
            "run_paired_first_layer_backward",
            grad.dtype, activation, grad, x_part, y_part, bias, key, rows, width, shuffles, slope, grad_x, grad_y,
        )  # fmt: skip
        return grad_x, grad_y

    def dv_term(
        self, scores: Tensor, joint_rows: int, log_ema: Tensor, alpha: float, loss: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        partials = torch.empty(self._library.scratch_of_dv_term(ctypes.c_int64(scores.numel())), dtype=torch.float64)
        value, new_log_ema, statistics = log_ema.new_empty(()), log_ema.new_empty(()), log_ema.new_empty(3)
        self._run(
            "run_dv_term",
            scores.dtype, scores, joint_rows, scores.numel(), log_ema, alpha, loss, partials, value, new_log_ema,
            statistics,
        )  # fmt: skip
        return value, new_log_ema, statistics

    def dv_term_backward(self, grad: Tensor, scores: Tensor, joint_rows: int, statistics: Tensor) -> Tensor:
        grad_scores = torch.empty_like(scores)
        self._run(
            "run_dv_term_backward", scores.dtype, grad, scores, statistics, joint_rows, scores.numel(), grad_scores
        )
        return grad_scores
