"""The native training engine (csrc/engine): which critics it trains, and the way there and back.

It trains stacks of Linear layers with an activation and Gaussian noise between them, and separable critics of two such
stacks (without noise), in float32 on the CPU, by Adam or AdamW. The same seed gives the same pairs as the torch path
and, without noise, the same parameters to rounding. Noise comes from a counter instead of torch's generator: the same
distribution, other numbers. Afterwards the parameters are back in the module, and the optimiser's moments in the
optimiser, so that a user can go on in torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mine_fast.bounds import fused_name
from mine_fast.critics import call_critic, check_width, critic_layers, scores_all_pairs
from mine_fast.describing import describe
from mine_fast.layer_stack import Stack, read_critic, read_stack
from mine_fast.loss import DVLoss
from mine_fast.modules import has_parameter_hooks, is_plain
from mine_fast.ops import LOSSES
from mine_fast.pair_scoring import PairScorer, by_rows
from mine_fast.settings import check_engine

__all__ = [
    "EngineCritic",
    "critic_obstacle",
    "engine_rows",
    "engine_shuffles",
    "network_stacks",
    "optimizer_obstacle",
    "pair_scorer",
    "use_engine",
]

#: The number of what `EngineCritic.state_dict` holds.
STATE_FORMAT = 1
#: What it holds of the engine: vectors as long as the parameters, and plain numbers.
_VECTORS = ("parameters", "adam_m", "adam_v", "average")
_NUMBERS = ("adam_step", "average_updates", "log_ema", "offset", "epoch", "position")


def use_engine(engine: str, obstacle: str | None) -> bool:
    """Whether to train natively.

    Args:
        engine: "auto": if nothing is in the way; "native": or it is an error; "torch", "graph": never.
        obstacle: what is in the way, or None.

    Raises:
        ValueError: an unknown engine, or "native" with an obstacle.
    """
    check_engine(engine)
    if engine == "native" and obstacle:
        raise ValueError(f"engine='native' cannot train this: {obstacle}; engine='auto' falls back to torch")
    return engine in ("auto", "native") and obstacle is None


def network_stacks(mine: DVLoss) -> list[nn.Sequential]:
    """The stacks of layers that the critic of a loss module is: one that reads pairs, or two towers; [] if neither."""
    if scores_all_pairs(mine.T, mine.method):
        towers = [mine.T.x_tower, mine.T.y_tower]
        return towers if all(isinstance(tower, nn.Sequential) for tower in towers) else []
    layers = critic_layers(mine.T, mine.method)
    return [] if layers is None else [layers]


def _stack_obstacle(stacks: list[nn.Sequential]) -> str | None:
    for layers in stacks:
        stack = read_critic(layers) if len(stacks) == 1 else read_stack(layers)
        if isinstance(stack, str):
            return stack
        if len(stacks) == 2 and (stack.input_noise or any(stack.noise)):
            return "a tower of T has noise"
    return None


def critic_obstacle(mine: DVLoss) -> str | None:
    """Why the engine cannot train the critic of a loss module, or None."""
    if type(mine).forward is not DVLoss.forward or not is_plain(mine):
        return f"{type(mine).__name__} has hooks or a forward of its own"
    if fused_name(mine.loss) is None:
        return f"loss {mine.loss!r} is not the engine's"
    stacks = network_stacks(mine)
    if not stacks:
        return (
            "T is not a torch.nn.Sequential of Linear layers and activations with method='concat' (nor a "
            "SeparableCritic with method=None), free of hooks"
        )
    obstacle = _stack_obstacle(stacks)
    if obstacle is not None:
        return obstacle
    if mine.training and not all(module.training for stack in stacks for module in stack):
        return "a part of T is in evaluation mode"
    parameters = [parameter for stack in stacks for module in stack for parameter in module.parameters()]
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        return "layers of T share parameters"
    for parameter in parameters:
        if has_parameter_hooks(parameter):
            return "a parameter of T has hooks"
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            return f"the parameters of T are {parameter.dtype} on {parameter.device}, not float32 on the CPU"
        if not parameter.requires_grad:
            return "a parameter of T is frozen"
    return None


def optimizer_obstacle(optimizer: torch.optim.Optimizer, layers: nn.Module) -> str | None:
    """Why the engine cannot stand in for an optimiser of these layers, or None."""
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        return f"opt is {type(optimizer).__name__}, not Adam or AdamW"
    if len(optimizer.param_groups) != 1:
        return "opt has several parameter groups"
    group = optimizer.param_groups[0]
    if any(group.get(flag) for flag in ("amsgrad", "maximize", "differentiable", "capturable")):
        return "opt has amsgrad, maximize, differentiable or capturable on"
    if isinstance(group["lr"], Tensor):
        return "opt has its learning rate in a tensor"
    if [id(p) for p in group["params"]] != [id(p) for p in layers.parameters()]:
        return "opt does not train exactly the parameters of T"
    if "step" in vars(optimizer):
        return "opt.step is wrapped, by a learning-rate scheduler for example"
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    return "opt has hooks" if any(hooks) else None


def pair_scorer(mine: DVLoss, engine: str = "auto") -> PairScorer:
    """Scores by the critic of a loss module as it is at the call, without gradient.

    Args:
        mine: whose critic.
        engine: see `TrainingSettings`.
    """
    called = by_rows(lambda x, y: call_critic(mine.T, mine.method, x, y))

    def of_pairs(x: Tensor, y: Tensor, partner: Tensor) -> Tensor:
        if x.ndim != 2 or x.device.type != "cpu" or not use_engine(engine, critic_obstacle(mine)):
            return called(x, y, partner)
        critic = EngineCritic(mine, x.shape[1], y.shape[1])
        return torch.from_numpy(critic.engine.score(engine_rows(x), engine_rows(y), partner=partner.numpy()))

    return of_pairs


class EngineCritic:
    """An engine that holds a copy of a critic's layers.

    Args:
        mine: the loss module without `critic_obstacle`, for its critic, loss, alpha, moving average and shuffle key.
        x_width: columns of x.
        y_width: columns of y.
    """

    def __init__(self, mine: DVLoss, x_width: int, y_width: int) -> None:
        from mine_fast import _engine

        stacks = network_stacks(mine)
        read = [stack for stack in map(read_stack, stacks) if isinstance(stack, Stack)]
        seed, offset = (int(v) for v in mine.shuffle_key)
        loss = (LOSSES.index(fused_name(mine.loss) or ""), mine.alpha, seed % 2**64)
        # What the engine was made for, and a state of it fits.
        self.made_for = {
            "widths": [x_width, y_width],
            "layers": [dataclasses.asdict(stack) for stack in read],
            "loss": fused_name(mine.loss),
            "alpha": mine.alpha,
            "seed": seed % 2**64,
        }
        self.parameters = [parameter for stack in stacks for parameter in stack.parameters()]
        self.mine = mine
        self.divergence: type[Exception] = _engine.DivergenceError
        self.engine: Any
        if len(read) == 1:
            hidden = [values[:-1] for values in (read[0].widths, read[0].codes, read[0].slopes, read[0].noise)]
            check_width(_first_linear(stacks[0]), x_width, y_width)
            self.engine = _engine.Engine(x_width, y_width, *hidden, *loss, read[0].input_noise)
        else:
            for stack, width in zip(stacks, (x_width, y_width), strict=True):
                check_width(_first_linear(stack), width)
            towers = [(stack.widths, stack.codes, stack.slopes) for stack in read]
            self.engine = _engine.Engine.separable(x_width, y_width, *towers, *loss)
        self.engine.parameters = self.flat(self.parameters)
        self.engine.offset = offset % 2**64
        self.engine.log_ema = float(mine.log_ema)

    def state_dict(self) -> dict[str, Any]:
        """All that the engine's next step depends on beside the rows and the settings of `train`.

        Returns:
            Tensors and plain numbers: what `torch.save` writes and `torch.load(weights_only=True)` reads.
        """
        vectors = {name: torch.from_numpy(getattr(self.engine, name)) for name in _VECTORS}
        numbers = {name: getattr(self.engine, name) for name in _NUMBERS}
        return {"format": STATE_FORMAT, **self.made_for, **vectors, **numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where an engine for the same critic was; one that raises has changed nothing.

        Args:
            state: of `state_dict`.

        Raises:
            ValueError: of another format, critic, loss or seed; parts that are missing or have another shape.
        """
        if state.get("format") != STATE_FORMAT:
            raise ValueError(
                f"the state of an engine must have format {STATE_FORMAT}, got {state.get('format')!r}: it is of "
                "another version of mine_fast, or of something else"
            )
        missing = [name for name in (*self.made_for, *_VECTORS, *_NUMBERS) if name not in state]
        if missing:
            raise ValueError(f"the state of an engine lacks {', '.join(missing)}")
        for name, wanted in self.made_for.items():
            if state[name] != wanted:
                raise ValueError(f"the engine was made for {name} {wanted!r}, the state is of one for {state[name]!r}")
        size = self.engine.parameters.shape
        vectors = {name: state[name] for name in _VECTORS}
        for name, vector in vectors.items():
            if not isinstance(vector, Tensor) or vector.dtype != torch.float32 or vector.shape != size:
                raise ValueError(
                    f"{name} in the state of an engine must be float32 {list(size)}, got {describe(vector)}"
                )
        for name in _NUMBERS:
            kind: type = float if name == "log_ema" else int
            if type(state[name]) is not kind or (kind is int and state[name] < 0):
                raise ValueError(f"{name} in the state of an engine must be a {kind.__name__}, got {state[name]!r}")
        for name, vector in vectors.items():
            setattr(self.engine, name, vector.contiguous().numpy())
        for name in _NUMBERS:
            setattr(self.engine, name, state[name])

    @staticmethod
    def flat(tensors: Any) -> np.ndarray:
        """Tensors one after the other, float32 [P]."""
        return torch.cat([t.detach().reshape(-1) for t in tensors]).numpy()

    def unflatten(self, flat: np.ndarray) -> list[Tensor]:
        """Views of a flat vector [P] in the shapes of the parameters."""
        parts = torch.from_numpy(flat).split([p.numel() for p in self.parameters])
        return [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]

    @torch.no_grad()
    def write_parameters(self, flat: np.ndarray | None = None) -> None:
        """Put the engine's parameters, or those given, into the layers."""
        values = self.unflatten(self.engine.parameters if flat is None else flat)
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    @torch.no_grad()
    def write_loss_state(self, log_ema: float | None = None, offset: int | None = None) -> None:
        """Put the moving average and the position in the stream of shuffles, or those given, into the loss module."""
        self.mine.log_ema.fill_(self.engine.log_ema if log_ema is None else log_ema)
        offset = int(self.engine.offset if offset is None else offset)
        self.mine.shuffle_key[1] = offset - 2**64 if offset >= 2**63 else offset

    def read_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Take over the moments of Adam or AdamW, where it has made steps already."""
        states = [optimizer.state.get(p) for p in self.parameters]
        if all(states):
            self.engine.adam_m = self.flat(state["exp_avg"] for state in states if state)
            self.engine.adam_v = self.flat(state["exp_avg_sq"] for state in states if state)
            self.engine.adam_step = int(states[0]["step"])  # type: ignore[index]

    def write_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Hand the moments over, so that `optimizer.step()` goes on from here."""
        moments = zip(
            self.parameters,
            self.unflatten(self.engine.adam_m),
            self.unflatten(self.engine.adam_v),
            strict=True,
        )
        for parameter, first, second in moments:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(self.engine.adam_step)),
                "exp_avg": first.clone(),
                "exp_avg_sq": second.clone(),
            }


def _first_linear(stack: nn.Sequential) -> nn.Linear:
    return next(module for module in stack if isinstance(module, nn.Linear))


def engine_rows(samples: Tensor) -> np.ndarray:
    """Rows for the engine: float32, contiguous, [N, d]."""
    return samples.detach().float().contiguous().numpy()


def engine_shuffles(mine: DVLoss) -> int:
    """The engine's number of shuffles of a loss module; 0 is all pairs."""
    return 0 if mine.marginals == "all" else mine.shuffles
