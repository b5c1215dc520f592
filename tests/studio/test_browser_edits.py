"""Edits, loops, variations and songs in a real browser, and their commands in a real shell."""

import base64
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.studio.test_browser import (
    copied,
    download,
    drag,
    in_a_shell,
    is_best,
    samples,
    settings,
    stop,
    switch_while_playing,
    wait,
)

RATE = 44_100


def dropped(page: Any, song: Path) -> None:
    """Drop a file on the recording."""
    content = page.evaluate_handle(
        """([name, text]) => {
            const data = new DataTransfer();
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            data.items.add(new File([bytes], name, { type: "audio/wav" }));
            return data;
        }""",
        [song.name, base64.b64encode(song.read_bytes()).decode()],
    )
    page.dispatch_event("#edit-recording .ditto-part", "drop", {"dataTransfer": content})


def regions(page: Any) -> list[float]:
    """Return what the fields of the regions hold: from, to, from, to, …"""
    fields = page.locator("#edit-recording .regions input")
    return [float(fields.nth(i).input_value()) for i in range(fields.count())]


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven seconds in stereo."""
    time = np.arange(7 * RATE) / RATE
    beats = 0.3 * np.exp(-6 * (time % 0.5)) * np.sin(2 * np.pi * 330 * time)
    file = tmp_path_factory.mktemp("song") / "my song.wav"
    soundfile.write(file, np.stack([beats, 0.5 * beats], axis=1), RATE)
    return file


def test_edit_loop_and_vary_are_their_commands(page: Any, tmp_path: Path, song: Path) -> None:
    shell = {name: tmp_path / name for name in ("edit", "loop", "vary")}
    for folder in shell.values():
        folder.mkdir()
    commands, expected = {}, {}

    page.click("#tab-edit")
    dropped(page, song)
    page.wait_for_selector("#edit-recording .message:has-text('7.00 s, 44100 Hz, stereo')")
    drag(page, "#edit-recording svg.big", (0.3, 0.5), (0.42, 0.5))
    assert regions(page) == pytest.approx([2.1, 2.94], abs=0.05)
    # Its right edge is dragged, and undone.
    drag(page, "#edit-recording svg.big", (regions(page)[1] / 7, 0.5), (0.6, 0.5))
    assert regions(page)[1] == pytest.approx(4.2, abs=0.05)
    page.click('#edit-recording button[aria-label="Undo"]')
    assert regions(page) == pytest.approx([2.1, 2.94], abs=0.05)
    # A second one is drawn where the wave is zoomed: half of the file, around the first.
    first_of_view = 2.52 - 0.5 * 2.52
    page.click('#edit-recording button[aria-label="Zoom in"]')
    drag(page, "#edit-recording svg.big", (0.7, 0.5), (0.9, 0.5))
    second = [first_of_view + 0.7 * 3.5, first_of_view + 0.9 * 3.5]
    assert regions(page)[2:] == pytest.approx(second, abs=0.05)
    page.click('#edit-recording button[aria-label="Zoom out"]')
    # Playing it goes round and round.
    page.check('#edit-recording [aria-label="Loop the region"]')
    heard = heard_of_the_recording(page)
    assert any(later < now for now, later in pairwise(heard))
    assert second[0] - 0.05 <= min(heard) < max(heard) <= second[1] + 0.05

    page.check("#edit-beats-on")
    page.fill("#edit-beats textarea", "120")
    settings(page, "edit", iterations=2)
    page.click("#edit-go")
    wait(page, "edit")
    edited = samples(download(page, "edit", "WAV", tmp_path / "page"))
    before, fade = samples(song), round(0.1 * RATE)
    ends = [round(second * RATE) for second in regions(page)]
    for start, end in ((0, ends[0]), (ends[1], ends[2]), (ends[3], len(before))):
        kept = slice(start + fade * (start > 0), end - fade * (end < len(before)))
        np.testing.assert_array_equal(edited[kept], before[kept])
    for start, end in (ends[:2], ends[2:]):
        assert (edited[start:end] != before[start:end]).any()
    figure = page.locator("#edit-result figure.panel")
    assert figure.locator("figcaption").all_text_contents() == ["Beats"]
    assert figure.locator(".during").count() == 2
    # The switch between before and after keeps the playhead.
    page.wait_for_selector("#edit-result .sides-switch button:has-text('Without control')")
    shown = switch_while_playing(page, "edit")
    assert (shown["side"], shown["playing"]) == ("1", "true")
    assert shown["after"] >= shown["before"] > 0.3
    commands["edit"] = copied(page, "edit", "command")
    assert "--beats 120" in commands["edit"]
    expected["edit", "out.wav"] = edited
    (shell["edit"] / song.name).write_bytes(song.read_bytes())

    page.click("#tab-loop")
    settings(page, "loop", iterations=2)
    page.click("#loop-go")
    wait(page, "loop")
    expected["loop", "out.wav"] = samples(download(page, "loop", "WAV", tmp_path / "page"))
    assert len(expected["loop", "out.wav"]) == 4 * 22_050
    commands["loop"] = copied(page, "loop", "command")

    page.click("#tab-create")
    page.check("#structure-on")
    drag(page, "#create-structure .blocks", (0.333, 0.5), (0.5, 0.5))
    form = page.input_value("#create-structure input.code")
    assert re.fullmatch(r"A:2\.9\d B:(0\.9|1\.0)\d* A:1\.98", form)
    settings(page, "create", iterations=1)
    page.click("#create-go")
    wait(page, "create")
    download(page, "create", ".latent", shell["vary"])
    page.click("#create-result button:has-text('vary this')")
    page.fill('#vary-how [aria-label="clips"]', "2")
    page.fill('#vary-how [aria-label="steps T"]', "3")
    page.click("#vary-go")
    wait(page, "vary")
    page.wait_for_selector(
        "#vary-result .clip:nth-child(2) .sides-switch button:has-text('Source')"
    )
    commands["vary"] = copied(page, "vary", "command")
    for clip in (0, 1):
        sound = download(page, "vary", "WAV", tmp_path / f"vary-{clip}", clip)
        expected["vary", f"variations/00{clip}.wav"] = samples(sound)
    first, second = (expected["vary", f"variations/00{clip}.wav"] for clip in (0, 1))
    assert (first != second).any()

    # Each in a process of its own, at once: most of the time they load the same things.
    together = [f"(cd {name} && {command})" for name, command in commands.items()]
    in_a_shell(
        f"{' & a=$!; '.join(together[:2])} & b=$!; {together[2]} && wait $a && wait $b", tmp_path
    )
    for (name, file), values in expected.items():
        np.testing.assert_array_equal(samples(shell[name] / file), values, err_msg=name)


def heard_of_the_recording(page: Any) -> list[float]:
    """Play the recording until it has gone round, or for long; return the times it showed."""
    return page.evaluate(
        """async () => {
            const part = document.querySelector("#edit-recording .ditto-part");
            const clock = part.querySelector(".clock"), times = [];
            const play = [...part.querySelectorAll("button")].find(
                (button) => button.textContent.includes("play"));
            const until = performance.now() + 30000, round = () => times.some(
                (time, i) => i && time < times[i - 1]);
            while (!round() && performance.now() < until) {
                if (part.dataset.playing !== "true") play.click();
                await new Promise((done) => setTimeout(done, 30));
                if (part.dataset.playing === "true") times.push(parseFloat(clock.textContent));
            }
            play.click();
            return times;
        }"""
    )


def test_an_edit_goes_backwards_and_a_stopped_one_keeps_its_best(
    page: Any, tmp_path: Path, song: Path
) -> None:
    page.click("#tab-edit")
    page.set_input_files("#recording-file", song)
    page.wait_for_selector("#edit-recording .message:has-text('7.00 s')")
    page.select_option('#edit-what [aria-label="action"]', "backwards")
    page.fill('#edit-what [aria-label="seconds in all"]', "9")
    settings(page, "edit", iterations=1)
    page.click("#edit-go")
    wait(page, "edit")
    longer, before = samples(download(page, "edit", "WAV", tmp_path)), samples(song)
    new = 2 * RATE
    assert len(longer) == 9 * RATE
    fade = round(0.1 * RATE)
    np.testing.assert_array_equal(longer[new + fade :], before[fade:])
    assert longer[:new].any()

    page.select_option('#edit-what [aria-label="action"]', "inpaint")
    drag(page, "#edit-recording svg.big", (0.3, 0.5), (0.5, 0.5))
    settings(page, "edit", iterations=500)
    page.click("#edit-go")
    page.wait_for_selector("#edit-result .state:has-text('left')")
    stop(page, "edit")
    line = wait(page, "edit", "stopped")
    assert re.fullmatch(r"stopped: this is the best of \d+ iterations", line)
    report = json.loads(download(page, "edit", "JSON", tmp_path).read_text())
    (part,) = report["parts"]
    assert 2 <= len(part["loss"]) == int(re.findall(r"\d+", line)[0]) < 500
    is_best(page, "edit", part["loss"])


def test_a_song_is_longer_than_a_window(page: Any, tmp_path: Path) -> None:
    page.check("#loudness-on")
    settings(page, "create", iterations=1, seconds=12)
    # The axis is that of the song.
    drag(page, "#create-loudness svg", (0.09, 0.8), (0.97, 0.2))
    drawn = page.input_value("#create-loudness input.code")
    assert float(drawn.split()[-1].split(":")[0]) == 12
    page.check("#melody-on")
    page.fill("#create-melody input.code", "C4:8 R:8 E4:4")  # its last note begins after 8.7 s
    page.press("#create-melody input.code", "Enter")
    box = page.locator("#create-melody svg").bounding_box()
    last = page.locator("#create-melody .note").last.bounding_box()
    assert last["x"] + last["width"] <= box["x"] + box["width"]
    page.click("#create-go")
    wait(page, "create")
    sound, rate = soundfile.read(download(page, "create", "WAV", tmp_path))
    assert len(sound) / rate == pytest.approx(12)
    report = json.loads(download(page, "create", "JSON", tmp_path).read_text())
    assert (report["edit"], len(report["parts"])) == ("song", 3)
    captions = page.locator("#create-result figure.panel figcaption").all_text_contents()
    assert captions == ["Loudness", "Melody"]
    assert "--seconds 12" in copied(page, "create", "command")
    page.wait_for_selector("#create-result .sides-switch button:has-text('Without control')")
