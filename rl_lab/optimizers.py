"""The optimizer of the DQN papers, which torch's own RMSprop only comes close to, torch's, and what they remember."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import overload

import torch
from torch import Tensor

ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")
_STATE = {
    "rmsprop": ("mean", "mean_square"),
    "adam": ADAM_STATE,
    "adamw": ADAM_STATE,
    "sgd": ("momentum_buffer",),
}
"""What the optimizers remember of each parameter, by their own names."""
OPTIMIZERS: tuple[str, ...] = tuple(_STATE)


def build_optimizer(
    name: str,
    weights: Tensor,
    learning_rate: float,
    *,
    epsilon: float,
    rmsprop_decay: float,
    momentum: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """The optimizer called `name`, which takes of the settings what it knows.

    rmsprop is centred (Mnih et al. 2015); adam Kingma and Ba 2015; adamw with the decay apart from the gradient
    (Loshchilov and Hutter 2019); sgd with momentum (Sutskever et al. 2013).
    """
    match name:
        case "rmsprop":
            return CentredRMSProp([weights], learning_rate, decay=rmsprop_decay, epsilon=epsilon)
        # The fused kernels take a tenth of the default loop's time on a CPU.
        case "adam":
            return _Adam([weights], learning_rate, eps=epsilon, fused=True)
        case "adamw":
            return _AdamW([weights], learning_rate, eps=epsilon, weight_decay=weight_decay, fused=True)
        case "sgd":
            return _SGD([weights], learning_rate, momentum=momentum, fused=True)
    raise AssertionError(name)


def state_names(name: str, *, momentum: float) -> tuple[str, ...]:
    """What the optimizer called `name` remembers after a step."""
    return () if name == "sgd" and not momentum else _STATE[name]


class _Eager(torch.optim.Optimizer):
    """An optimizer without torch's compiler, whose modules take long to import (docs/benchmarks.md).

    torch wraps these methods to keep the compiler out of them, and imports it to do so.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class _Adam(_Eager, torch.optim.Adam):
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class _AdamW(_Eager, torch.optim.AdamW):
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class _SGD(_Eager, torch.optim.SGD):
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class CentredRMSProp(_Eager):
    """RMSProp divided by the gradient's running standard deviation (Graves 2013, eqs. 38-40; Mnih et al. 2015).

    `epsilon` is added to the variance, inside the root; torch adds it outside, where it means another thing.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float, *, decay: float, epsilon: float) -> None:
        super().__init__(parameters, {"lr": learning_rate, "decay": decay, "epsilon": epsilon})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient; closures are not supported."""
        assert closure is None
        for group in self.param_groups:
            decay, epsilon = group["decay"], group["epsilon"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["mean"] = torch.zeros_like(parameter)
                    state["mean_square"] = torch.zeros_like(parameter)
                mean, mean_square = state["mean"], state["mean_square"]
                mean.lerp_(parameter.grad, 1 - decay)
                mean_square.mul_(decay).addcmul_(parameter.grad, parameter.grad, value=1 - decay)
                # Rounding can make a steady gradient's variance negative: by more than epsilon from gradients of 3 on.
                variance = mean_square.addcmul(mean, mean, value=-1).clamp_(min=0)
                parameter.addcdiv_(parameter.grad, variance.add_(epsilon).sqrt_(), value=-group["lr"])
        return None


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers of its parameters, as <number>.<name>; nothing before the first step."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": tensor for number, tensors in state.items() for name, tensor in tensors.items()}


def optimizer_state_like(optimizer: torch.optim.Optimizer, names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors of the types and shapes that it remembers after a step, without memory of their own."""
    parameters = optimizer.param_groups[0]["params"]
    like = {}
    for number, parameter in enumerate(parameters):
        for name in names:
            shape = () if name == "step" else parameter.shape
            like[f"{number}.{name}"] = torch.empty(shape, dtype=torch.float32, device="meta")
    return like


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Let it go on from an `optimizer_state`, which it moves to its device."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
