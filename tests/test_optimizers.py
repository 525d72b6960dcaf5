"""RMSProp against Graves 2013, eqs. 38 to 40, written out in Python floats; the others by their first steps."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from rl_lab.optimizers import OPTIMIZERS, CentredRMSProp, build_optimizer


def descend(gradients: list[float], *, start: float, learning_rate: float, decay: float, epsilon: float) -> list[float]:
    """The parameter after each step of the optimizer."""
    parameter = torch.tensor([start], dtype=torch.float64, requires_grad=True)
    optimizer = CentredRMSProp([parameter], learning_rate, decay=decay, epsilon=epsilon)
    trace = []
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        trace.append(parameter.item())
    return trace


def test_first_step_is_the_one_worked_by_hand() -> None:
    # n = 0.5 * 2^2 = 2;  g = 0.5 * 2 = 1;  delta = -0.3 * 2 / sqrt(2 - 1 + 8) = -0.2
    assert descend([2.0], start=1.0, learning_rate=0.3, decay=0.5, epsilon=8.0) == pytest.approx([0.8])


def test_steps_follow_the_equations_of_graves() -> None:
    gradients = [0.5, -2.0, 3.0, 0.0, 1.5, -0.25]
    parameter, n, g, expected = 1.0, 0.0, 0.0, []
    for gradient in gradients:
        n = 0.95 * n + 0.05 * gradient**2
        g = 0.95 * g + 0.05 * gradient
        parameter -= 0.00025 * gradient / math.sqrt(n - g**2 + 0.01)
        expected.append(parameter)
    trace = descend(gradients, start=1.0, learning_rate=0.00025, decay=0.95, epsilon=0.01)
    assert trace == pytest.approx(expected, rel=1e-12)


def test_parameter_without_a_gradient_stays() -> None:
    parameter = torch.ones(3, requires_grad=True)
    CentredRMSProp([parameter], 0.1, decay=0.95, epsilon=0.01).step()
    assert parameter.tolist() == [1.0, 1.0, 1.0]


def test_steady_gradients_give_finite_steps_in_spite_of_rounding() -> None:
    parameter = torch.zeros(1_000, requires_grad=True)
    optimizer = CentredRMSProp([parameter], 0.00025, decay=0.95, epsilon=0.01 / 32**2)
    gradient = torch.linspace(1, 100, 1_000)
    for _ in range(500):
        parameter.grad = gradient.clone()
        optimizer.step()
    assert parameter.isfinite().all()


def test_moments_are_in_the_state_that_is_saved() -> None:
    parameter = torch.zeros(2, requires_grad=True)
    optimizer = CentredRMSProp([parameter], 0.1, decay=0.5, epsilon=0.01)
    parameter.grad = torch.tensor([2.0, 4.0])
    optimizer.step()
    state = optimizer.state_dict()["state"][0]
    assert state["mean"].tolist() == [1.0, 2.0]
    assert state["mean_square"].tolist() == [2.0, 8.0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # rmsprop: mean 2, mean square 8, variance 4: 0.1 * 4 / sqrt(4 + 5)
        ("rmsprop", [1 - 0.4 / 3]),
        # adam: both moments without their bias are those of the one gradient: 0.1 * 4 / (4 + 5)
        ("adam", [1 - 0.4 / 9]),
        # adamw: first the weight loses 0.1 * 0.5 of itself
        ("adamw", [0.95 - 0.4 / 9]),
        # sgd: 0.1 * 4;  then 0.1 * (2 + 0.25 * 4)
        ("sgd", [1 - 0.4, 1 - 0.4 - 0.3]),
    ],
)
def test_the_first_steps_by_name_are_those_worked_by_hand(name: str, expected: list[float]) -> None:
    weights = torch.tensor([1.0], requires_grad=True)
    optimizer = build_optimizer(name, weights, 0.1, epsilon=5.0, rmsprop_decay=0.5, momentum=0.25, weight_decay=0.5)
    for gradient, after in zip([4.0, 2.0], expected, strict=False):
        weights.grad = torch.tensor([gradient])
        optimizer.step()
        assert weights.item() == pytest.approx(after)


def test_no_run_waits_for_the_modules_of_the_compiler() -> None:
    program = f"""
import sys, torch
from rl_lab.networks import build_network
from rl_lab.optimizers import build_optimizer, load_optimizer_state, optimizer_state
from rl_lab.weights import MasterWeights
for name in {OPTIMIZERS}:
    weights = MasterWeights(build_network("nature", 6, torch.Generator()), "bf16")
    optimizer = build_optimizer(
        name, weights.values, 0.1, epsilon=1.0, rmsprop_decay=0.9, momentum=0.5, weight_decay=0.0
    )
    optimizer.step()
    load_optimizer_state(optimizer, optimizer_state(optimizer))
sys.exit(", ".join(sorted({{"torch._dynamo", "sympy"}} & set(sys.modules))) or 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
