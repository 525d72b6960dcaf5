"""The dashboard CUSTOM SCALARS as people see it, in a real browser.

`RL_LAB_SCREENSHOTS=docs pytest tests/test_dashboard.py` takes the README's picture anew.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser import browser
from tests.runs import train
from tests.tiny import tiny_experiment

PUBLISHED = Path(__file__).parent.parent / "docs" / "results"
# querySelectorAll ends at the border of each web component, so it is asked in each. A curve of one point has no line.
COLOURS_OF_EACH_CHART = """
const components = root => [...root.querySelectorAll("*")].filter(element => element.shadowRoot)
    .flatMap(element => [element, ...components(element.shadowRoot)]);
const drawn = chart => [...chart.shadowRoot.querySelectorAll("path.line[d], path.symbol[d]")];
const colour = path => getComputedStyle(path)[path.matches(".line") ? "stroke" : "fill"];
return components(document).filter(element => element.localName == "vz-line-chart2")
    .map(chart => new Set(drawn(chart).map(colour)).size);
"""


@contextmanager
def dashboard(runs: Path, *, width: int = 1_280, height: int = 960) -> Iterator[Chrome]:
    """The dashboard of `rl-lab tensorboard` with a published agent, without smoothing."""
    command = [sys.executable, "-m", "rl_lab", "tensorboard", str(runs), "--reference", "dqn_nature_2015"]
    with (
        browser(width, height) as chrome,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            address = next(found[1] for line in lines if (found := re.search(r"by game: (\S+)\)", line)))
            chrome.get(f"{address}&_smoothingWeight=0")
            yield chrome
        finally:
            process.send_signal(signal.SIGTERM)


def wait_for_curves(chrome: Chrome, curves: list[int]) -> None:
    """Until each chart has drawn so many."""
    WebDriverWait(chrome, 60).until(
        lambda chrome: chrome.execute_script(COLOURS_OF_EACH_CHART) == curves, f"not {curves} curves in the charts"
    )


# In a section: human-normalized by frames and by seconds, evaluation, training. The published scores are evaluations.
def test_each_chart_of_a_real_run_draws_its_curve_beside_the_published_score(tmp_path: Path) -> None:
    train(tiny_experiment(), tmp_path)
    with dashboard(tmp_path) as chrome:
        wait_for_curves(chrome, [2, 1, 2, 1])


@pytest.mark.skipif("RL_LAB_SCREENSHOTS" not in os.environ, reason="RL_LAB_SCREENSHOTS names no folder for pictures")
def test_the_picture_in_the_readme_can_be_taken_anew(tmp_path: Path) -> None:
    for game in ("Assault", "Boxing"):
        shutil.copytree(PUBLISHED / "like" / game, tmp_path / game, ignore=shutil.ignore_patterns("seed-[12]"))
    with dashboard(tmp_path, width=1_400, height=1_100) as chrome:
        wait_for_curves(chrome, [3, 2, 3, 2, 3, 2, 3, 2])
        assert chrome.save_screenshot(str(Path(os.environ["RL_LAB_SCREENSHOTS"]) / "dashboard.png"))
