"""Say how long a user waits: ``python -m tests.studio.times``, on a machine that does nothing else.

From the command to a page that is drawn, and from *Generate* to the first preview that plays.
"""

import shutil
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright
from tests.studio.conftest import BROWSERS, start, visit
from tests.studio.test_browser import settings, wait

TIMES = 3


def times(folder: Path, chromium: object) -> tuple[float, float, float]:
    """Return the seconds to the address, to the drawn page, and to the first preview."""
    began = time.monotonic()
    process, studio = start(folder)
    try:
        answered = time.monotonic() - began
        page = chromium.new_page()  # pyright: ignore[reportAttributeAccessIssue]
        page.set_default_timeout(120_000)
        visit(page, studio)
        drawn = time.monotonic() - began
        page.check("#loudness-on")
        settings(page, "create", iterations=70)
        began = time.monotonic()
        page.click("#create-go")
        page.wait_for_selector("#create-result audio[src*=preview]:not([hidden])")
        heard = time.monotonic() - began
        wait(page, "create")
        page.close()
        return answered, drawn, heard
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Measure a few times."""
    browser = next(path for name in BROWSERS if (path := shutil.which(name)))
    with sync_playwright() as run:
        chromium = run.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for _ in range(TIMES):
            with tempfile.TemporaryDirectory() as folder:
                answered, drawn, heard = times(Path(folder), chromium)
            print(
                f"address after {answered:.2f} s, page drawn after {drawn:.2f} s, "
                f"first preview {heard:.2f} s after Generate",
                flush=True,
            )


if __name__ == "__main__":
    main()
