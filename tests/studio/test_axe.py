"""Screen readers, contrast, a phone's width: what axe-core finds on the page."""

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tests.studio.conftest import lacking
from tests.studio.test_browser import drag, settings, wait


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, from npm."""
    folder = tmp_path_factory.mktemp("axe")
    try:
        packed = subprocess.run(
            ["npm", "pack", "--silent", "axe-core@4.14.1"],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=120,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        lacking("axe-core cannot be had: there is no npm, or no registry")
    archive = (folder / packed.decode().split()[-1]).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        script = files.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def serious(page: Any, rules: str = "{}") -> list[str]:
    """Return what axe-core calls serious or worse."""
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:150]}"
        for one in page.evaluate(f"axe.run(document, {rules})")["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def test_screen_readers_and_phones_find_their_way(page: Any, axe: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for switch in ("loudness", "melody", "structure", "text", "brightness"):
        page.check(f"#{switch}-on")
    page.evaluate(axe)
    for tab in ("create", "edit", "loop", "vary"):
        page.click(f"#tab-{tab}")
        page.wait_for_selector(f"#panel-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert serious(page) == [], tab
    # The check can fail: a picture without a text is found.
    page.evaluate("document.querySelector('.ditto-part').append(document.createElement('img'))")
    assert [line.split(":")[0] for line in serious(page)] == ["image-alt"]


def test_what_comes_to_a_page_can_be_read_in_light_and_dark(
    page: Any, axe: str, tune_wav: Path
) -> None:
    page.check("#loudness-on")
    settings(page, "create", iterations=1)
    page.click("#create-go")
    page.click("#tab-edit")
    page.set_input_files("#recording-file", tune_wav)
    page.wait_for_selector("#edit-recording .message:has-text('tune.wav: 6.00 s')")
    drag(page, "#edit-recording svg.big", (0.3, 0.5), (0.42, 0.5))
    page.click("#tab-loop")
    page.fill('#loop-length [aria-label="bpm"]', "7")
    page.click("#loop-go")
    page.click("#tab-vary")
    page.click("#vary-go")
    for tab, told in (
        ("loop", "bpm must be a number from 20 to 400"),
        ("vary", "give a latent first"),
    ):
        page.wait_for_selector(
            f"#{tab}-result .message[data-kind=error]:has-text('{told}')", state="attached"
        )
    page.click("#tab-create")
    wait(page, "create")
    page.wait_for_selector("#create-result .sides-switch button:nth-child(2)")
    page.evaluate(
        "document.querySelectorAll('#panel-create details').forEach((one) => { one.open = true; })"
    )
    page.evaluate(axe)
    for scheme, background, rules in (
        ("light", "rgb(244, 243, 239)", "{}"),
        ("dark", "rgb(18, 20, 26)", '{runOnly: ["color-contrast"]}'),
    ):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(
            f"getComputedStyle(document.body).backgroundColor === '{background}'"
        )
        for tab in ("create", "edit", "loop", "vary"):
            page.click(f"#tab-{tab}")
            page.wait_for_selector(f"#panel-{tab}")
            assert serious(page, rules) == [], (scheme, tab)
