"""Make the pictures of docs/studio.md: ``python -m tests.studio.pictures``, from a checkout."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright
from tests.studio.conftest import BROWSERS, ROOT, start, visit
from tests.studio.test_browser import drag, settings, wait

FOLDER = ROOT / "docs" / "studio"
SONG = ROOT / "docs" / "audio" / "outpaint.mp3"
COLOURS = 128
LARGEST = 300_000
"""Bytes of a picture."""


def picture(page: Any, name: str) -> None:
    """Save the page at both widths, in few colours."""
    for width, tall in ((1280, 900), (390, 844)):
        page.set_viewport_size({"width": width, "height": tall})
        page.wait_for_timeout(700)
        file = FOLDER / f"{name}-{width}.png"
        page.screenshot(path=file, full_page=True)
        small = Image.open(file).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        small.save(file, optimize=True)
        assert file.stat().st_size <= LARGEST, file
    page.set_viewport_size({"width": 1280, "height": 900})


def create(page: Any) -> None:
    page.check("#loudness-on")
    drag(page, "#create-loudness svg", (0.09, 0.75), (0.3, 0.55), (0.62, 0.22), (0.97, 0.72))
    page.check("#melody-on")
    page.fill("#create-melody input.code", "C4:1 E4:1 G4:2 A4:1 G4:1 E4:2 D4:1 C4:1.5")
    page.press("#create-melody input.code", "Enter")
    settings(page, "create", iterations=40, seed=7)
    page.click("#create-go")
    wait(page, "create")
    page.wait_for_selector("#create-result .sides-switch button:nth-child(2)")


def edit(page: Any) -> None:
    page.click("#tab-edit")
    page.set_input_files("#recording-file", SONG)
    page.wait_for_selector(f"#edit-recording .message:has-text('{SONG.name}: ')")
    drag(page, "#edit-recording svg.big", (0.2, 0.5), (0.34, 0.5))
    drag(page, "#edit-recording svg.big", (0.7, 0.5), (0.8, 0.5))
    page.select_option('#edit-music [aria-label="Genre"]', "jazz")
    settings(page, "edit", iterations=40)
    page.click("#edit-go")
    wait(page, "edit")


def main() -> None:
    """Make all pictures."""
    FOLDER.mkdir(exist_ok=True)
    found = next(path for name in BROWSERS if (path := shutil.which(name)))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as run:
        process, studio = start(Path(folder))
        try:
            chromium = run.chromium.launch(executable_path=found, args=["--no-sandbox"])
            page = chromium.new_page(
                viewport={"width": 1280, "height": 900}, reduced_motion="reduce"
            )
            page.set_default_timeout(120_000)
            visit(page, studio)
            create(page)
            picture(page, "create")
            edit(page)
            picture(page, "edit")
            page.click("#tab-loop")
            settings(page, "loop", iterations=20)
            page.click("#loop-go")
            wait(page, "loop")
            picture(page, "loop")
            page.click("#tab-create")
            page.click("#create-result button:has-text('vary this')")
            page.fill('#vary-how [aria-label="clips"]', "3")
            page.fill('#vary-how [aria-label="steps T"]', "8")
            page.click("#vary-go")
            wait(page, "vary")
            picture(page, "vary")
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
