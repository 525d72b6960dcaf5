"""The optimizer of the DQN papers, which torch's own RMSprop only comes close to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import Tensor


class CentredRMSProp(torch.optim.Optimizer):
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
