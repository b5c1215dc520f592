"""A studio that runs, and a browser that looks at it."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parent.parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
START_SECONDS = 120.0
"""A busy machine may be slow; what a quiet one needs is said in docs/studio.md."""


@dataclass(frozen=True)
class Running:
    """A studio in a process of its own."""

    address: str
    log: Path

    def lines(self) -> str:
        """Return what it has said so far, but for the first line."""
        return "\n".join(self.log.read_text().splitlines()[1:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder: Path, *options: object) -> tuple[subprocess.Popen[bytes], Running]:
    """Start ``ditto-music studio`` and wait until its page answers."""
    port, log = free_port(), folder / "studio.log"
    command = [sys.executable, "-m", "ditto", "studio", "--port", port, *options]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    until = time.monotonic() + START_SECONDS
    while "is open at" not in log.read_text():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            pytest.fail(f"the studio did not start: {log.read_text()}")
        time.sleep(0.1)
    return process, Running(f"http://127.0.0.1:{port}/", log)


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The studio on the embedded model."""
    process, running = start(tmp_path_factory.mktemp("studio"))
    yield running
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def tune_wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds at 48 kHz of C5, E5 and G5, each two seconds long."""
    seconds = np.arange(2 * 48_000) / 48_000
    ramp = np.minimum(1, np.minimum(seconds, seconds[::-1]) * 20)
    tones = [0.4 * ramp * np.sin(2 * np.pi * hertz * seconds) for hertz in (523.25, 659.26, 783.99)]
    file = tmp_path_factory.mktemp("tune") / "tune.wav"
    soundfile.write(file, np.concatenate(tones), 48_000)
    return file


def lacking(what: str) -> NoReturn:
    """Skip a test for want of something, or fail it in continuous integration, which installs it.

    What is skipped there would be tested nowhere.
    """
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def browser(tune_wav: Path) -> Iterator[Any]:
    """A browser whose microphone hears `tune_wav`."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        lacking("there is no browser: install Debian's chromium, as .ci/run does")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("there is no playwright: install ditto-music[dev]")
    with sync_playwright() as run:
        chromium = run.chromium.launch(
            executable_path=found,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={tune_wav}",
            ],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, studio: Running) -> Iterator[Any]:
    """The studio's page; a fault of its scripts, and a request to elsewhere, fails the test."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, accept_downloads=True, reduced_motion="reduce"
    )
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if is_fault(line) else None)
    page.on("request", lambda request: faults.append(request.url) if outside(request.url) else None)
    page.set_default_timeout(60_000)
    visit(page, studio)
    yield page
    context.close()
    assert faults == []


NO_FAULTS = ("Failed to load resource", "AbortError", "Unexpected error Connection errored out")
"""How lines begin that the browser writes for a refusal, and Gradio when a reload cuts it off."""


def is_fault(line: Any) -> bool:
    """Tell whether a line of the console is an error of a script, not a refusal of the studio."""
    return line.type == "error" and not line.text.startswith(NO_FAULTS)


READY = """() => {
    const parts = [...document.querySelectorAll(".ditto-part")];
    const hidden = document.querySelector("#panel-vary");
    return document.querySelector("#vary-result .ditto-part")
        && parts.every((part) => part.childElementCount)
        && document.querySelector("#tab-create[aria-selected=true]")
        && getComputedStyle(hidden).display === "none";
}"""
"""The page's last part is there, all are made, a tab is chosen, and the style sheet is there.

The first part stands alone for a moment: that the parts that are there are made is not enough."""


def visit(page: Any, studio: Running) -> None:
    """Open the studio, and wait until every part of its page is made and has told its value."""
    page.goto(studio.address, wait_until="commit")
    page.wait_for_function(READY)
    page.evaluate("new Promise((done) => setTimeout(done, 0))")


def outside(url: str) -> bool:
    """Tell whether an address is on another machine."""
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))
