"""Say how long a user waits: ``python -m tests.studio.times``, on a machine that does nothing else.

From the command to a page that is drawn, and from *Generate* to the first preview that plays: a
line each, and exit status 1 where the slowest of the starts is over its limit.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright
from tests.studio.conftest import BROWSERS, start, visit
from tests.studio.test_browser import settings, wait

TIMES = 3
PAGE_SECONDS, PREVIEW_SECONDS = 6.0, 2.0
"""Limits: from the command to a drawn page, and from *Generate* to the first preview."""


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


def within(what: str, seconds: list[float], limit: float) -> bool:
    """Say how long something took, each time; tell whether all were within a limit."""
    fine = max(seconds) < limit
    each = ", ".join(f"{one:.2f}" for one in seconds)
    print(f"{what}: {each} s; {'within' if fine else 'OVER'} {limit:g} s", flush=True)
    return fine


def main() -> int:
    """Measure a few times; return 1 if a limit was passed."""
    browser = next(path for name in BROWSERS if (path := shutil.which(name)))
    measured = []
    with sync_playwright() as run:
        chromium = run.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for _ in range(TIMES):
            with tempfile.TemporaryDirectory() as folder:
                measured.append(times(Path(folder), chromium))
    answered, drawn, heard = (list(each) for each in zip(*measured, strict=True))
    print(f"address: {', '.join(f'{one:.2f}' for one in answered)} s")
    fine = [
        within("page drawn", drawn, PAGE_SECONDS),
        within("first preview after Generate", heard, PREVIEW_SECONDS),
    ]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
