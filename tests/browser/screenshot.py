"""Makes the picture of the gallery that the READMEs show, from the demo's own.

    make screenshot

Limits: what fits on one screen. Needs the Chromium of `make test-browser`.
"""

import io
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support")]

from chromium import chromium, find_browser, open_page
from PIL import Image

WIDTH, HEIGHT = 1440, 1180


def main() -> None:
    site, picture = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    if find_browser() is None:
        sys.exit("no chromium and chromedriver on the path: `make test-browser` installs them")
    with chromium(WIDTH, HEIGHT) as driver:
        driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        open_page(driver, site / "index.html")
        shot = Image.open(io.BytesIO(driver.get_screenshot_as_png()), formats=["PNG"])
        shot.convert("RGB").save(picture, quality=80, method=6)


if __name__ == "__main__":
    main()
