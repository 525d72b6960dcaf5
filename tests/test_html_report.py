"""The HTML report in a real browser, opened as the file that it is.

`RL_LAB_SCREENSHOTS=docs pytest tests/test_html_report.py` takes the README's pictures anew.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from rl_lab.cli.main import main
from tests.browser import browser
from tests.report_examples import write_experiments, write_scores

LIKE = Path(__file__).parent.parent / "docs" / "results" / "like"
HOSTILE = (
    "<script>window.hostile = 1</script>",
    '"><img src=x onerror="window.hostile = 1">',
    "</title></style><svg onload=window.hostile=1>",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnirts\x00\x1b[31m",
)


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three games, three experiments and a published agent."""
    folder = tmp_path_factory.mktemp("report")
    write_experiments(folder / "runs")
    return written(folder / "runs", "--reference", "dqn_nature_2015", "--reference", "dopamine_dqn_cnn")


def written(runs: Path, *arguments: str) -> Path:
    """The report of the runs, beside their folder."""
    path = runs.parent / "report.html"
    assert main(["compare", str(runs), *arguments, "--html", str(path)]) == 0
    return path


def show(chrome: Chrome, page: Path, *, scheme: str = "light", width: int = 1_280, height: int = 960) -> None:
    """Open the page as a reader's system would; nothing may be logged, and nothing but the page asked for."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chrome.get(page.as_uri())
    assert logged(chrome) == []
    assert chrome.execute_script("return performance.getEntriesByType('resource').length") == 0


def logged(chrome: Chrome) -> list[dict[str, Any]]:
    """What was written to the console since this was last asked, breaches of the policy among it."""
    messages: list[dict[str, Any]] = chrome.get_log("browser")  # type: ignore[no-untyped-call]  # selenium's gap
    return messages


def column(chrome: Chrome, table: str, index: int) -> list[str]:
    """The texts of a column of the table whose caption has this id."""
    cells = chrome.find_elements(By.CSS_SELECTOR, f"[aria-labelledby={table}-caption] tbody tr > :nth-child({index})")
    return [cell.text for cell in cells]


def contrast(chrome: Chrome, selector: str) -> float:
    """Of an element's colour with the page's, by WCAG's formula."""
    colours = chrome.execute_script(
        "return [getComputedStyle(document.querySelector(arguments[0])).fill, "
        "getComputedStyle(document.body).backgroundColor]",
        selector,
    )
    light, dark = sorted((luminance(colour) for colour in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_picture_is_seen_and_has_a_name_a_description_and_its_numbers(chrome: Chrome, report: Path) -> None:
    show(chrome, report)
    figures = chrome.find_elements(By.TAG_NAME, "figure")
    assert len(figures) == 10
    for figure in figures:
        pictures = figure.find_elements(By.CSS_SELECTOR, "svg[role=img]")
        assert pictures
        for picture in pictures:
            assert picture.size["width"] > 200
            assert picture.size["height"] > 100
            name = picture.get_attribute("aria-labelledby") or ""
            texts = [chrome.find_element(By.ID, part).get_attribute("textContent") for part in name.split()]
            assert len(texts) == 2
            assert all(texts)
        assert figure.find_elements(By.CSS_SELECTOR, "details table td")


def test_ids_are_unique_and_every_link_leads_somewhere(chrome: Chrome, report: Path) -> None:
    show(chrome, report)
    ids = chrome.execute_script("return Array.from(document.querySelectorAll('[id]'), element => element.id)")
    assert len(ids) == len(set(ids))
    links = chrome.execute_script("return Array.from(document.querySelectorAll('[href]'), e => e.getAttribute('href'))")
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_the_policy_lets_nothing_in_but_the_page_itself(chrome: Chrome, report: Path) -> None:
    show(chrome, report)
    policy = chrome.find_element(By.CSS_SELECTOR, "meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    chrome.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.injected = 1';"
        "document.body.append(script)"
    )
    assert chrome.execute_script("return window.injected") is None
    assert len(logged(chrome)) == 1


def test_tables_are_sorted_by_their_headers_up_then_down(chrome: Chrome, report: Path) -> None:
    show(chrome, report)
    games = column(chrome, "evaluation-1-1", 1)
    assert games == ["Breakout", "Pong", "Seaquest"]
    header = chrome.find_element(By.CSS_SELECTOR, "[aria-labelledby=evaluation-1-1-caption] thead th:nth-child(2)")
    header.find_element(By.TAG_NAME, "button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(chrome, "evaluation-1-1", 1) == ["Pong", "Breakout", "Seaquest"]
    header.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert header.get_attribute("aria-sort") == "descending"
    assert column(chrome, "evaluation-1-1", 1) == ["Seaquest", "Breakout", "Pong"]
    assert chrome.switch_to.active_element == header.find_element(By.TAG_NAME, "button")


def test_numbers_with_thousands_are_sorted_as_numbers_and_absent_ones_come_last(chrome: Chrome, report: Path) -> None:
    show(chrome, report)
    button = chrome.find_element(By.CSS_SELECTOR, "[aria-labelledby=agents-caption] thead th:nth-child(2) button")
    button.click()
    assert column(chrome, "agents", 2) == ["1,200,000", "1,200,000", "1,200,000", "200,000,000"]
    hours = chrome.find_element(By.CSS_SELECTOR, "[aria-labelledby=agents-caption] thead th:nth-child(6) button")
    for _ in range(2):
        hours.click()
        assert column(chrome, "agents", 6)[-1] == "-"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_and_curves_stand_out_in_both_schemes(scheme: str, chrome: Chrome, report: Path) -> None:
    show(chrome, report, scheme=scheme)
    background = chrome.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (luminance(background) < 0.05) == (scheme == "dark")
    assert contrast(chrome, "figure text") > 7
    for series in range(6):
        chrome.execute_script("document.querySelector('main').style.fill = arguments[0]", f"var(--series-{series})")
        assert contrast(chrome, "main") > 3, series


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_barrier_is_found_in_either_scheme(scheme: str, chrome: Chrome, report: Path) -> None:
    show(chrome, report, scheme=scheme)
    # Rows like those above them are left out: axe's rules for tables take a minute for some hundred of them.
    chrome.execute_script(
        "for (const row of document.querySelectorAll('tbody tr:nth-child(n + 12)')) row.remove();"
        "for (const details of document.querySelectorAll('details')) details.open = true"
    )
    chrome.set_script_timeout(120)
    found = Axe().run(chrome)
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]] == []
    assert "color-contrast" in [rule["id"] for rule in found["passes"]]


def test_a_phone_shows_the_page_without_scrolling_sideways(chrome: Chrome, report: Path) -> None:
    show(chrome, report, width=360)
    assert chrome.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    widths = chrome.execute_script("return Array.from(document.querySelectorAll('svg'), e => e.clientWidth)")
    assert max(widths) <= 360
    assert chrome.execute_script(
        "return Array.from(document.querySelectorAll('.scroll')).some(e => e.scrollWidth > e.clientWidth)"
    )


def test_the_keyboard_reaches_the_content_first(chrome: Chrome, report: Path) -> None:
    show(chrome, report)
    chrome.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    link = chrome.switch_to.active_element
    assert link.text == "Skip to the content"
    link.send_keys(Keys.ENTER)
    assert chrome.switch_to.active_element.get_attribute("id") == "content"


def test_headings_are_in_order(chrome: Chrome, report: Path) -> None:
    show(chrome, report)
    levels = [int(name[1]) for name in re.findall(r"<(h\d)", report.read_text(encoding="utf-8"))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_strangers_are_text_wherever_they_stand(name: str, tmp_path: Path, chrome: Chrome) -> None:
    for seed in range(2):
        folder = tmp_path / "runs" / str(seed)
        write_scores(folder, name, name, seed, [1, 2, 3], folder="run", label=name, command=[name], note=name)
    show(chrome, written(tmp_path / "runs"))
    assert chrome.execute_script("return window.hostile") is None
    assert len(chrome.find_elements(By.TAG_NAME, "script")) == 1
    assert chrome.find_elements(By.CSS_SELECTOR, "img, [onload], [onerror]") == []
    expected = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)
    assert expected in chrome.find_element(By.TAG_NAME, "h1").text


def test_warnings_come_before_any_number(chrome: Chrome, report: Path) -> None:
    show(chrome, report)
    first = chrome.find_element(By.CSS_SELECTOR, "main > section")
    assert "rainbow in Breakout, Pong, Seaquest" in first.text


def test_settings_and_origins_that_differ_are_told_apart_from_common_ones(chrome: Chrome, report: Path) -> None:
    show(chrome, report)
    assert column(chrome, "settings-differing", 1) == ["dqn", "rainbow", "sb3"]
    assert column(chrome, "settings-differing", 2) == ["0.1", "0.1", "0.2"]
    common = dict(zip(column(chrome, "provenance-common", 1), column(chrome, "provenance-common", 2), strict=True))
    assert common["git.commit"] == "4fb4e7ce"
    assert common["command"] == "rl-lab train dqn/quick"
    assert common["resumes"] == "none"


def test_a_resume_with_another_version_is_told(chrome: Chrome, tmp_path: Path) -> None:
    resumed = [{"at_steps": 500, "threads": 1, "packages": {"torch": "3.0"}}]
    write_scores(tmp_path / "runs", "Pong", "dqn", 0, [1, 2, 3], resumes=resumed)
    show(chrome, written(tmp_path / "runs"))
    common = dict(zip(column(chrome, "provenance-common", 1), column(chrome, "provenance-common", 2), strict=True))
    assert common["resumes"] == "at 500 steps, with another packages"


def test_the_same_runs_give_the_same_file(tmp_path: Path) -> None:
    write_scores(tmp_path / "runs", "Pong", "dqn", 0, [1, 2, 3])
    assert written(tmp_path / "runs").read_bytes() == written(tmp_path / "runs").read_bytes()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_of_published_runs_can_be_looked_at(scheme: str, chrome: Chrome, tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(LIKE)
    chrome.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    show(chrome, written(tmp_path / "runs", "--reference", "dqn_nature_2015"), scheme=scheme, height=1_900)
    assert "dqn-like has 0.159" in chrome.find_element(By.CSS_SELECTOR, ".summary").text
    if "RL_LAB_SCREENSHOTS" in os.environ:
        picture = chrome.execute_cdp_cmd("Page.captureScreenshot", {})["data"]
        Path(os.environ["RL_LAB_SCREENSHOTS"], f"report-{scheme}.png").write_bytes(base64.b64decode(picture))
