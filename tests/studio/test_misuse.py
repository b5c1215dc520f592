"""The page when it is not used as it was meant: reloads, absurd fields, a server that is gone."""

import base64
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import soundfile
from tests.studio.conftest import READY, Running, start, visit
from tests.studio.test_browser import copied, download, drag, here, samples, settings, stop, wait


def state(page: Any, tab: str) -> str:
    return page.locator(f"#{tab}-result .ditto-part").get_attribute("data-state")


def test_a_reload_keeps_what_was_set_and_the_job(page: Any) -> None:
    page.check("#loudness-on")
    page.fill("#create-loudness input.code", "0:-40 3:-12")
    page.press("#create-loudness input.code", "Enter")
    settings(page, "create", iterations=500, seed=5)
    page.click("#create-go", click_count=3)  # the second and third do nothing
    page.wait_for_selector("#create-result .state:has-text('left')")
    page.reload(wait_until="commit")
    page.wait_for_function(READY)
    stop(page, "create")
    wait(page, "create", "stopped")
    assert page.locator("#create-result .clip").count() == 1
    assert "Seed 5," in page.locator("#create-result .clip .hint").first.text_content()
    assert page.is_checked("#loudness-on")
    assert page.input_value("#create-loudness input.code") == "0:-40 3:-12"
    assert page.input_value('#create-music [aria-label="Iterations K"]') == "500"
    # Back is to the tab before, not out of the studio.
    page.click("#tab-edit")
    page.click("#tab-loop")
    page.go_back()
    page.wait_for_selector("#tab-edit[aria-selected=true]")
    page.go_back()
    page.wait_for_selector("#tab-create[aria-selected=true]")


def test_a_waiting_job_is_cancelled_at_once(page: Any, browser: Any, studio: Running) -> None:
    page.check("#loudness-on")
    settings(page, "create", iterations=500)
    page.click("#create-go")
    page.wait_for_selector('#create-result [data-state="running"]')
    context = browser.new_context()
    other = context.new_page()
    visit(other, studio)
    other.click("#create-go")
    other.wait_for_selector("#create-result .state:has-text('waiting: 1 before this one')")
    other.click("#create-result button:has-text('Cancel')")
    assert wait(other, "create", "failed") == "stopped before it began"
    assert state(page, "create") == "running"
    context.close()
    stop(page, "create")
    wait(page, "create", "stopped")


def test_absurd_fields_neither_hang_the_page_nor_reach_the_model(page: Any) -> None:
    page.check("#loudness-on")
    page.check("#melody-on")
    for tempo in ("-5", "0", "1e9", "1e-9"):
        page.fill("#create-music [aria-label=Tempo]", tempo)
        assert page.locator("#create-loudness .beat").count() < 100
        assert page.locator("#create-melody .beat").count() < 100
    page.click("#create-go")
    told = page.locator("#create-result .message").first
    page.wait_for_function(
        "document.querySelector('#create-result .message').textContent.includes('tempo must be')"
    )
    page.fill("#create-music [aria-label=Tempo]", "110")
    for text in ("constructor", "__proto__", "0:-30 1e300:-20", "<img src=x onerror=a.b>"):
        page.fill("#create-loudness input.code", text)
        page.press("#create-loudness input.code", "Enter")
        assert page.get_attribute("#create-loudness input.code", "aria-invalid") == "true"
    page.click("#create-go")
    page.wait_for_function(
        "document.querySelector('#create-result .message').textContent.includes('<img src=x')"
    )
    assert told.locator("img").count() == 0
    for text, fine in (("C4:1/2 E4/8. Bb4", True), ("C4:x", False), ("B9", False), ("C4:0", False)):
        page.fill("#create-melody input.code", text)
        page.press("#create-melody input.code", "Enter")
        assert page.get_attribute("#create-melody input.code", "aria-invalid") in (
            (None, "false") if fine else ("true",)
        )
        said = page.locator("#create-melody .message").text_content()
        assert ("cannot be read" in said) != fine
    assert page.locator("#create-melody .note").count() == 3


def test_controls_count_in_an_edit_over_its_whole(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = tmp_path / "C# – 100%!.wav"
    soundfile.write(song, 0.1 * np.random.default_rng(0).standard_normal(5 * 22_050), 22_050)
    # The sound comes late, as it does from a busy machine: the playhead does not wait for it.
    late: list[Any] = []
    page.route("**/studio/files/**", lambda route: late.append(route))
    page.click("#tab-edit")
    page.set_input_files("#recording-file", song)
    page.wait_for_selector(f"#edit-recording .message:has-text('{song.name}: 5.00 s')")
    # By keyboard: the playhead, a region at it, and its fields, which keep to the recording.
    page.focus("#edit-recording svg.big")
    for key in ("PageUp", "PageUp", "ArrowRight"):
        page.keyboard.press(key)
    page.click("#edit-recording button:has-text('add region')")
    fields = page.locator("#edit-recording .regions input")
    assert [fields.nth(i).input_value() for i in (0, 1)] == ["2.1", "3.1"]
    assert late
    for route in late:
        route.continue_()
    page.unroute_all()
    for typed, kept in (("1e9", "5"), ("", "5"), ("3.1", "3.1")):
        fields.nth(1).fill(typed)
        fields.nth(1).press("Enter")
        assert fields.nth(1).input_value() == kept
    page.check("#edit-loudness-on")
    drag(page, "#edit-loudness svg", (0.09, 0.3), (0.97, 0.8))
    drawn = page.input_value("#edit-loudness input.code")
    assert float(drawn.split()[-1].split(":")[0]) == 5.0  # the axis is the recording's
    page.check("#edit-melody-on")
    settings(page, "edit", iterations=1)
    page.click("#edit-go")
    wait(page, "edit")
    edited = samples(download(page, "edit", "WAV", tmp_path / "page"))
    command = copied(page, "edit", "command")
    assert drawn in command
    here(command, tmp_path, monkeypatch)
    np.testing.assert_array_equal(samples(tmp_path / "out.wav"), edited)


def test_a_studio_that_is_gone_is_told(browser: Any, model_folder: Path, tmp_path: Path) -> None:
    process, studio = start(tmp_path, "--model", model_folder)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    try:
        visit(page, studio)
        page.check("#loudness-on")
        settings(page, "create", iterations=500)
        page.click("#create-go")
        page.wait_for_selector('#create-result [data-state="running"]')
    finally:
        process.kill()
        process.wait()
    page.wait_for_selector('#create-result [data-state="lost"]')
    assert "the studio does not answer" in page.locator("#create-result .message").text_content()
    page.click("#tab-edit")  # nothing lies over the tabs
    page.set_input_files("#recording-file", Path(__file__))
    page.wait_for_selector("#edit-recording .message:has-text('does not answer')")
    context.close()


LATE = """async ([slow, quick]) => {
    const real = window.fetch;
    window.fetch = async (url, ...more) => {
        if (String(url).includes("slow")) await new Promise((go) => setTimeout(go, 1000));
        return real(url, ...more);
    };
    if (!slow) return;
    const player = new ditto.Player(() => {});
    const first = player.load([{ url: `${slow}#slow` }], 1);
    await player.load([{ url: quick }], 1);
    await first;
    return player.duration;
}"""
"""Have what is called slow come a second late; of two sounds, ask for the slow one first."""


def test_what_is_asked_for_last_counts_whatever_comes_last(page: Any, tmp_path: Path) -> None:
    page.evaluate(LATE, ["", ""])
    for name, pitch in (("slow", 60), ("quick", 64)):
        track = mido.MidiTrack(
            [
                mido.Message("note_on", note=pitch, velocity=80, time=0),
                mido.Message("note_off", note=pitch, velocity=0, time=480),
            ]
        )
        mido.MidiFile(tracks=[track]).save(tmp_path / f"{name}.mid")
    page.check("#melody-on")
    page.set_input_files("#score-file", tmp_path / "quick.mid")  # the model is there from here on
    page.wait_for_selector("#create-melody .message:has-text('1 notes from quick.mid')")
    with page.expect_response(lambda answer: "slow.mid" in answer.url):
        for name in ("slow", "quick"):
            page.set_input_files("#score-file", tmp_path / f"{name}.mid")
    addresses = []
    for seconds in (0.5, 0.25):
        file = tmp_path / "a.wav"
        soundfile.write(file, np.zeros(int(48_000 * seconds)), 48_000)
        text = base64.b64encode(file.read_bytes()).decode()
        addresses.append(f"data:audio/wav;base64,{text}")
    assert page.evaluate(LATE, addresses) == pytest.approx(0.25, abs=0.01)
    page.wait_for_timeout(500)
    assert page.input_value("#create-melody input.code") == "E4:1"
