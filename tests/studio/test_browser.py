"""The page in a real browser: drawn, heard, downloaded, and compared with the command line.

The machine may be slow: what lasts a moment only is watched for by the page itself.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import soundfile
from tests.studio.conftest import READY, Running, lacking

from ditto import cli

OVER = ("done", "stopped", "failed")


def settings(page: Any, tab: str, **values: object) -> None:
    """Fill in fields under "More settings"."""
    details = page.locator(f"#{tab}-music details")
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    labels = {
        "iterations": "Iterations K",
        "seed": "Seed",
        "overlap": "Overlap in seconds",
        "seconds": "Seconds",
    }
    for name, value in values.items():
        page.fill(f'#{tab}-music [aria-label="{labels[name]}"]', str(value))


def stop(page: Any, tab: str) -> None:
    """Press stop at once: a click waits for the page to be still, and meanwhile a job may end."""
    page.wait_for_selector(f"#{tab}-result button.stop")
    page.dispatch_event(f"#{tab}-result button.stop", "click")


def wait(page: Any, tab: str, *states: str) -> str:
    """Wait until the tab's job is over; return its line."""
    wanted = "".join(f'[data-state="{state}"],' for state in states or ("done",))
    any_end = ",".join(f'#{tab}-result [data-state="{state}"]' for state in OVER)
    page.wait_for_selector(any_end, timeout=150_000)
    line = page.locator(f"#{tab}-result > * .message").first.text_content()
    assert page.locator(f"#{tab}-result .ditto-part").get_attribute("data-state") in wanted, line
    return line


def drag(page: Any, canvas: str, *places: tuple[float, float]) -> None:
    """Press the mouse at the first place (shares of the canvas), move, and release at the last."""
    page.locator(canvas).scroll_into_view_if_needed()
    box = page.locator(canvas).bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()


def download(page: Any, tab: str, label: str, folder: Path, clip: int = 0) -> Path:
    """Press a download of one of the tab's clips."""
    links = page.locator(f"#{tab}-result .downloads").nth(clip).locator("a")
    with page.expect_download() as waiting:
        links.filter(has_text=re.compile(f"^{re.escape(label)}$")).click()
    file = folder / waiting.value.suggested_filename
    waiting.value.save_as(file)
    return file


def watch_for(page: Any, condition: str) -> None:
    """Let the page note when a condition in JavaScript holds, however short; see `was_seen`."""
    page.evaluate(
        """(condition) => {
            const holds = Function(`return ${condition}`);
            window.seen = false;
            new MutationObserver((_, self) => {
                if (!holds()) return;
                window.seen = true;
                self.disconnect();
            }).observe(document.body,
                { subtree: true, childList: true, attributes: true, characterData: true });
        }""",
        condition,
    )


def was_seen(page: Any) -> None:
    """Wait until the page has seen what it watches for."""
    page.wait_for_function("window.seen")


def switch_while_playing(page: Any, tab: str) -> dict[str, Any]:
    """Play the tab's clip, change to its other side, and pause; return what it then shows."""
    page.wait_for_selector(f"#{tab}-result .clip[data-loaded] .sides-switch button:nth-child(2)")
    page.click(f"#{tab}-result button.play")
    return page.evaluate(
        """async (tab) => {
            const clip = document.querySelector(`#${tab}-result .clip`);
            const play = clip.querySelector("button.play"), until = performance.now() + 30000;
            while (!(clip.dataset.time > 0.3) && performance.now() < until) {
                if (clip.dataset.playing !== "true") play.click();
                await new Promise((done) => setTimeout(done, 20));
            }
            const before = Number(clip.dataset.time);
            clip.querySelector(".sides-switch button:nth-child(2)").click();
            const { side, time, playing } = clip.dataset;
            play.click();
            return { side, playing, before, after: Number(time) };
        }""",
        tab,
    )


def copied(page: Any, tab: str, kind: str) -> str:
    """Return what "copy as" offers for the tab's first clip."""
    return page.locator(f'#{tab}-result [data-copy="{kind}"] code').first.text_content()


def samples(file: Path) -> np.ndarray:
    return soundfile.read(file, dtype="int16")[0]


def in_a_shell(command: str, folder: Path) -> None:
    """Run a command of the page in a shell."""
    shell = f'ditto-music() {{ {shlex.quote(sys.executable)} -m ditto "$@"; }}; {command}'
    subprocess.run(["bash", "-c", shell], cwd=folder, check=True, capture_output=True)


def here(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of the page in this process, which has the model's code already."""
    monkeypatch.chdir(folder)
    cli.app(shlex.split(command)[1:], standalone_mode=False)


def loudness(sound: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return times and smoothed dB by scipy, which unlike librosa compiles nothing first."""
    power = scipy.ndimage.uniform_filter1d(sound**2, 2048, mode="constant")[::256]
    level = 10 * np.log10(np.maximum(power, 0) + 1e-12)
    smooth = scipy.signal.savgol_filter(level, 87, 1)
    return np.arange(len(level)) * 256 / rate, smooth


def test_a_drawn_curve_is_followed_and_the_command_gives_the_same(
    page: Any, tmp_path: Path
) -> None:
    page.check("#loudness-on")
    drag(page, "#create-loudness svg", (0.09, 0.75), (0.45, 0.2), (0.97, 0.75))
    drawn = page.input_value("#create-loudness input.code")
    points = np.array([part.split(":") for part in drawn.split()], float)
    assert points[0, 0] == 0
    assert points[-1, 0] == 5.94
    peak = points[points[:, 1].argmax()]
    assert 2.0 < peak[0] < 3.0
    assert peak[1] > points[:, 1].min() + 25
    settings(page, "create", iterations=20, seed=3)
    watch_for(page, "document.querySelector('#create-result .state').textContent.includes('loss')")
    page.click("#create-go")
    assert wait(page, "create") == ""
    was_seen(page)

    error = page.locator('#create-result [data-error="intensity_mse_db2"]').text_content()
    assert float(error.split()[0]) < 20
    sound = download(page, "create", "WAV", tmp_path)
    audio, rate = soundfile.read(sound)
    times, level = loudness(audio, rate)
    target = np.interp(times, points[:, 0], points[:, 1])
    inside = (times > 0.6) & (times < 5.3)
    assert np.corrcoef(level[inside], target[inside])[0, 1] > 0.9
    report = json.loads(download(page, "create", "JSON", tmp_path).read_text())
    assert report["request"]["controls"][0]["points"] == points.tolist()
    assert len(report["loss"]) == 20

    shown = switch_while_playing(page, "create")
    assert (shown["side"], shown["playing"]) == ("1", "true")
    assert shown["after"] >= shown["before"] > 0.3

    again, kept = tmp_path / "shell", samples(sound)
    again.mkdir()
    in_a_shell(copied(page, "create", "command"), again)
    np.testing.assert_array_equal(samples(again / "out.wav"), kept)


def test_a_curve_snaps_to_beats_and_has_presets(page: Any) -> None:
    page.check("#loudness-on")
    page.check('#create-loudness [aria-label="Snap to beats"]')
    drag(page, "#create-loudness svg", (0.09, 0.75), (0.97, 0.3))
    text = "#create-loudness input.code"
    times = [float(part.split(":")[0]) for part in page.input_value(text).split()]
    beat = 60 / 110
    assert times == pytest.approx([*(round(i * beat, 2) for i in range(len(times) - 1)), 5.94])
    assert len(times) == 12
    page.select_option('#create-loudness [aria-label="Loudness: presets"]', "swell")
    assert page.input_value(text) == "swell"
    heights = [float(y) for y in points_of(page, "#create-loudness polyline.curve")[:, 1]]
    assert min(heights) < heights[0] - 20  # it rises, and falls
    assert min(heights) < heights[-1] - 20
    page.click('#create-loudness button[aria-label="Undo"]')
    assert len(page.input_value(text).split()) == 12
    page.locator("#create-loudness .point").nth(1).dblclick()
    rest = [float(part.split(":")[0]) for part in page.input_value(text).split()]
    assert rest == [times[0], *times[2:]]


def points_of(page: Any, line: str) -> np.ndarray:
    """Return the places of a line's points in pixels, (points, 2)."""
    given = page.locator(line).get_attribute("points")
    return np.array([pair.split(",") for pair in given.split()], float)


SCORE = """<score-partwise version="3.1"><part-list><score-part id="P1"><part-name>a</part-name>
</score-part></part-list><part id="P1"><measure number="1"><attributes><divisions>1</divisions>
<time><beats>4</beats><beat-type>4</beat-type></time></attributes>{}</measure></part>
</score-partwise>"""


def test_notes_are_drawn_and_scores_are_imported(page: Any, tmp_path: Path) -> None:
    page.check("#melody-on")
    page.click("#create-melody button:has-text('clear')")
    box = page.locator("#create-melody svg").bounding_box()
    left, beats, rows = 40, 5.944 * 110 / 60, 25
    wide = box["width"] - left - 6

    def place(beat: float, pitch: int) -> tuple[float, float]:
        x = (left + beat / beats * wide) / box["width"]
        return x, ((84 - pitch) + 0.5) * 10 / box["height"]

    assert rows * 10 + 20 == pytest.approx(box["height"], abs=1)
    for beat, pitch in enumerate((60, 64, 67, 72)):
        drag(page, "#create-melody svg", place(beat + 0.1, pitch), place(beat + 0.9, pitch))
    assert page.input_value("#create-melody input.code") == "C4:1 E4:1 G4:1 C5:1"
    # By mouse one is moved, one stretched at its end and one removed, and all of it undone.
    drag(page, "#create-melody svg", place(1.4, 64), place(1.4, 69))
    assert page.input_value("#create-melody input.code") == "C4:1 A4:1 G4:1 C5:1"
    drag(page, "#create-melody svg", place(3.95, 72), place(5.1, 72))
    assert page.input_value("#create-melody input.code") == "C4:1 A4:1 G4:1 C5:2"
    page.locator("#create-melody .note").nth(1).dblclick()
    assert page.input_value("#create-melody input.code") == "C4:1 R:1 G4:1 C5:2"
    for _ in range(3):
        page.keyboard.press("Control+z")
    assert page.input_value("#create-melody input.code") == "C4:1 E4:1 G4:1 C5:1"
    page.locator("#create-melody .note").last.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowRight")
    assert page.input_value("#create-melody input.code") == "C4:1 E4:1 G4:1 C#5:1.5"
    page.keyboard.press("Control+z")
    watch_for(page, "document.querySelector('#create-melody [data-playing] .playhead')")
    page.click("#create-melody button:has-text('play')")
    was_seen(page)
    page.evaluate(
        """() => [...document.querySelectorAll("#create-melody button")]
            .find((button) => button.textContent.includes("stop"))?.click()"""
    )
    assert page.locator("#create-melody [data-playing]").count() == 0
    page.fill('#create-melody [aria-label*="when it counts"]', "0-1.5")
    page.fill('#create-melody [aria-label*="weight"]', "0.25")
    settings(page, "create", iterations=1)
    page.click("#create-go")
    wait(page, "create")
    report = json.loads(download(page, "create", "JSON", tmp_path).read_text())
    (asked,) = report["request"]["controls"][0]["terms"]
    assert (asked["during"], asked["weight"]) == ([[0, 1.5]], 0.25)
    beat = 60 / 110
    pitches = [60, 64, 67, 73]
    expected = [[i * beat, beat, pitch] for i, pitch in enumerate(pitches)]
    np.testing.assert_allclose(asked["notes"], expected, atol=1e-3)
    target = mido.MidiFile(download(page, "create", "MIDI of the target", tmp_path))
    assert [m.note for m in target if m.type == "note_on"] == pitches
    assert target.length == pytest.approx(4 * beat, abs=0.01)

    track = mido.MidiTrack()
    for pitch in (62, 65, 69):
        track.append(mido.Message("note_on", note=pitch, velocity=80))
        track.append(mido.Message("note_on", note=pitch - 12, velocity=80))
        track.append(mido.Message("note_off", note=pitch, time=480))
        track.append(mido.Message("note_off", note=pitch - 12))
    mido.MidiFile(tracks=[track]).save(tmp_path / "tune.mid")
    page.set_input_files("#score-file", tmp_path / "tune.mid")
    page.wait_for_selector("#create-melody .message:has-text('3 notes from tune.mid')")
    assert page.input_value("#create-melody input.code") == "D4:1 F4:1 A4:1"
    notes = "".join(
        f"<note><pitch><step>{step}</step><octave>4</octave></pitch><duration>{beats}</duration>"
        f"<type>{kind}</type></note>"
        for step, beats, kind in (("C", 2, "half"), ("E", 1, "quarter"), ("G", 1, "quarter"))
    )
    (tmp_path / "tune.musicxml").write_text(SCORE.format(notes))
    page.set_input_files("#score-file", tmp_path / "tune.musicxml")
    page.wait_for_selector("#create-melody .message:has-text('3 notes from tune.musicxml')")
    assert page.input_value("#create-melody input.code") == "C4:2 E4:1 G4:1"


def test_the_microphone_becomes_a_melody(page: Any) -> None:
    page.check("#melody-on")
    page.click("#create-melody button:has-text('microphone')")
    page.wait_for_selector("#create-melody .message:has-text('notes from microphone.wav')")
    heard = re.findall(r"[A-G]#?(?=\d)", page.input_value("#create-melody input.code"))
    assert {"C", "E", "G"} <= set(heard)


def test_a_second_press_ends_the_recording_and_begins_no_other(page: Any) -> None:
    page.check("#melody-on")
    button = page.query_selector("#create-melody button:has-text('microphone')")
    button.click()
    page.wait_for_function("button => button.textContent === '■ stop'", arg=button)
    page.wait_for_timeout(2000)
    button.click()
    page.wait_for_selector("#create-melody .message:has-text('notes from microphone.wav')")
    page.wait_for_timeout(500)
    assert button.text_content() == "● microphone"
    assert "notes from microphone.wav" in page.text_content("#create-melody .message")


def test_a_run_is_stopped_and_keeps_its_best(page: Any, tmp_path: Path, studio: Running) -> None:
    page.check("#loudness-on")
    settings(page, "create", iterations=500)
    page.click("#create-go")
    page.wait_for_selector("#create-result audio[src*=preview]:not([hidden])")
    page.wait_for_selector("#create-result .state:has-text('left')")
    stop(page, "create")
    assert re.fullmatch(
        r"stopped: this is the best of \d+ iterations", wait(page, "create", "stopped")
    )
    report = json.loads(download(page, "create", "JSON", tmp_path).read_text())
    assert 2 <= len(report["loss"]) < 500
    is_best(page, "create", report["loss"])


def is_best(page: Any, tab: str, losses: list[float]) -> None:
    """Check that the loss of the tab's clip is the lowest of a history.

    What is decoded corrects the surrogate now and then: earlier losses do not compare with it.
    """
    best = page.evaluate(
        """async (tab) => {
            const id = sessionStorage.getItem(`ditto job of ${tab}-result`);
            return (await (await fetch(`studio/jobs/${id}`)).json()).losses.at(-1);
        }""",
        tab,
    )
    at = [i for i, loss in enumerate(losses) if loss == pytest.approx(best, rel=1e-3)]
    assert at, (best, losses)
    assert min(losses[at[-1] :]) == pytest.approx(best, rel=1e-3)


def test_what_is_lacking_fails_where_it_should_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no browser"):
        lacking("no browser")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        lacking("no browser")


def test_a_file_that_cannot_be_edited_is_refused_in_one_line(
    page: Any, tmp_path: Path, studio: Running
) -> None:
    page.click("#tab-edit")
    noise = np.random.default_rng(0).standard_normal((22_050, 6)) * 0.1
    soundfile.write(tmp_path / "six.wav", noise, 22_050)
    (tmp_path / "text.wav").write_text("no sound at all")
    soundfile.write(tmp_path / "huge.wav", noise[:, 0], 22_050)
    header = bytearray((tmp_path / "huge.wav").read_bytes()[:44])
    header[4:8] = header[40:44] = (2_000_000_000).to_bytes(4, "little")
    (tmp_path / "huge.wav").write_bytes(header)
    for name, told in (
        ("text.wav", "cannot read text.wav: it is damaged or no sound file"),
        ("six.wav", "six.wav has 6 channels: mono and stereo can be edited here"),
        ("huge.wav", "huge.wav"),
    ):
        page.set_input_files("#recording-file", tmp_path / name)
        page.wait_for_selector(f"#edit-recording .message[data-kind=error]:has-text('{told}')")
        line = page.locator("#edit-recording .message").text_content()
        assert told in line
        assert "/" not in line
        page.set_input_files("#recording-file", [])
    big = tmp_path / "big.wav"
    with big.open("wb") as file:
        file.truncate(2 * 10**9)
    page.set_input_files("#recording-file", big)
    page.wait_for_selector("#edit-recording .message:has-text('at most 64 MB')")
    assert "Traceback" not in studio.lines()


def test_a_part_waits_for_its_script(page: Any, studio: Running) -> None:
    held: list[Any] = []
    page.route("**/static/result.js", lambda route: held.append(route))
    page.goto(studio.address, wait_until="commit")
    page.wait_for_selector("#vary-result .ditto-part", state="attached")
    assert held
    assert page.locator(".result").count() == 0
    for route in held:
        route.continue_()
    page.wait_for_function(READY)


def test_what_a_part_holds_moves_nothing_beside_it(page: Any) -> None:
    measure = """() => [...document.querySelectorAll("#panel-create .sides > .column")]
        .map((column) => column.getBoundingClientRect().width)"""
    before = page.evaluate(measure)
    assert before[0] == before[1] > 500
    for switch in ("loudness", "melody", "structure", "text", "brightness"):
        page.check(f"#{switch}-on")
    page.evaluate(
        """() => {
            const wide = document.createElement("p");
            Object.assign(wide.style, { width: "2000px" });
            document.querySelector("#create-result .ditto-part").append(wide);
        }"""
    )
    assert page.evaluate(measure) == before


def test_tabs_are_reached_by_keyboard(page: Any) -> None:
    page.focus("#tab-create")
    page.keyboard.press("ArrowRight")
    assert page.locator("#panel-edit").is_visible()
    assert not page.locator("#panel-create").is_visible()
    page.keyboard.press("ArrowLeft")
    page.check("#loudness-on")
    page.locator("#create-loudness .point").first.focus()
    page.keyboard.press("ArrowUp")
    assert page.input_value("#create-loudness input.code").startswith("0:-39 ")
    page.keyboard.press("Control+z")
    assert page.input_value("#create-loudness input.code") == "crescendo"
