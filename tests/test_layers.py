"""The import rules of the lab: lower layers never import higher ones, and heavy libraries stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rl_lab"
LAYERS = (
    {
        "errors",
        "checks",
        "columns",
        "schedules",
        "seeding",
        "files",
        "system",
        "scores",
        "statistics",
        "switches",
        "config",
        "records",
        "untrusted",
        "storage",
        "video",
        "saved",
        "lock",
        "watchdog",
        "ray_environment",
    },
    {"atari", "augmentation", "losses", "networks", "optimizers"},
    {"replay", "weights", "resets", "values", "tensors", "guards"},
    {"agent", "events", "tensorboard"},
    {"experiment", "sb3"},
    {"evaluation", "provenance", "ray_cluster"},
    {"run", "checkpoint", "saved_agent", "apex"},
    {"position", "carried"},
    {"curves"},
    {"training", "report", "benchmarks", "viewing"},
    {"sweep"},
    {"tune"},
    {"cli"},
)
USES_RAY = {"apex/cluster.py", "apex/processes.py", "ray_cluster.py", "sweep/ray_pool.py"}
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    """Full names of all that the file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_imports_a_higher_layer(path: Path) -> None:
    if layer(path) in ("__init__", "__main__"):
        return
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "rl_lab" and parts[1] in LEVEL:
            assert LEVEL[parts[1]] <= LEVEL[layer(path)], f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_sb3_imports_stable_baselines3_and_no_algorithm_of_it_and_only_atari_imports_ale_py(path: Path) -> None:
    names = imported_modules(path)
    roots = {name.split(".")[0] for name in names}
    of_sb3 = {name for name in names if name.split(".")[0] == "stable_baselines3"}
    assert not of_sb3 or layer(path) == "sb3"
    assert all(name.startswith("stable_baselines3.common.") for name in of_sb3)
    assert "sb3_contrib" not in roots
    assert "ale_py" not in roots or layer(path) == "atari"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_their_places_import_what_may_be_missing(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported_modules(path)}
    assert not roots & {"av", "tkinter"} or layer(path) == "viewing"
    assert "ray" not in roots or path.relative_to(PACKAGE).as_posix() in USES_RAY
    assert "submitit" not in roots or path.relative_to(PACKAGE).as_posix() == "sweep/slurm.py"


def test_our_dqn_never_imports_stable_baselines3() -> None:
    names = imported_modules(PACKAGE.parent / "agents" / "dqn.py")
    assert not {name for name in names if name.split(".")[0] == "stable_baselines3" or name.startswith("rl_lab.sb3")}


@pytest.mark.parametrize(
    "module",
    [
        "rl_lab",
        "rl_lab.cli.main",
        "rl_lab.report.text",
        "rl_lab.scores",
        "rl_lab.statistics",
        "rl_lab.cli.sweep",
        "rl_lab.cli.tune",
        "rl_lab.training",
        "rl_lab.viewing",
    ],
)
def test_light_modules_import_neither_torch_nor_optuna(module: str) -> None:
    code = f"import sys, {module}; sys.exit(not {{'torch', 'optuna'}}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
