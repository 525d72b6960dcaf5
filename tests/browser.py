"""A real browser for tests, without a window and without the internet: Debian's chromium and chromium-driver."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

_FLAGS = (
    "--headless",
    "--no-sandbox",  # which refuses to run as root, as in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",  # 64 MB in containers: tabs crash
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Pages of the tests come from this machine; what they would load from elsewhere fails at once.
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    "--force-device-scale-factor=1",
)


@contextmanager
def browser(width: int = 1_280, height: int = 960) -> Iterator[Chrome]:
    """A new browser, closed afterwards; the test is skipped where none is installed."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no browser: the Debian packages chromium and chromium-driver are not installed")
    with tempfile.TemporaryDirectory(prefix="rl-lab-browser-") as user_data, pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "localhost")  # where selenium asks the driver
        options = ChromeOptions()
        options.binary_location = chromium
        for flag in (*_FLAGS, f"--user-data-dir={user_data}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        # With both paths given, selenium's manager has nothing to look for, and downloads nothing.
        with Chrome(options, Service(chromedriver)) as driver:
            yield driver
