"""A headless Chromium for tests, found on the path or named in the environment.

`CHROMIUM` and `CHROMEDRIVER` name other executables than Debian's. Nothing is downloaded.

Limits: the sandbox is off, as containers that run as root need it: it opens our own pages only.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
READY = "return document.documentElement.dataset.ready === 'yes'"
ROOT = Path(__file__).parents[2]
AXE = ROOT / "out" / "axe" / "package" / "axe.min.js"


def find_browser() -> tuple[str, str] | None:
    """Chromium and its driver, or None where one of them is not there."""
    names = [os.environ.get("CHROMIUM", ""), *NAMES]
    browser = next((path for name in names if name and (path := shutil.which(name))), None)
    driver = shutil.which(os.environ.get("CHROMEDRIVER", "chromedriver"))
    return (browser, driver) if browser and driver else None


@contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator[Any]:
    """A WebDriver; what it logs is kept for `console_errors`."""
    from selenium import webdriver

    found = find_browser()
    assert found is not None
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for word in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(found[1]))
    try:
        set_screen(driver, width, height)
        yield driver
    finally:
        driver.quit()


def set_screen(driver: Any, width: int, height: int, scheme: str = "light") -> None:
    """A screen of that size in a system of that colour scheme."""
    metrics = {
        "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
    }  # fmt: skip
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def open_page(driver: Any, path: Path, address: str = "", timeout_s: float = 20.0) -> float:
    """Opens a page from the disk; seconds until it says that it is drawn."""
    driver.get("about:blank")
    started = time.perf_counter()
    driver.get(path.as_uri() + address)
    if path.name == "index.html":
        wait_until(lambda: driver.execute_script(READY), timeout_s)
    return time.perf_counter() - started


def wait_until(is_so: Any, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def console_errors(driver: Any) -> list[str]:
    """What the console has said since the last time, warnings included."""
    return [one["message"] for one in driver.get_log("browser") if one["level"] != "INFO"]
