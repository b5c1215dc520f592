"""Inpainting, outpainting and looping on a tiny model: what is kept bit for bit, exact lengths,
files, and refusals."""

import json
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.conftest import Command

from ditto import plots
from ditto.audio.io import read_tags
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.regions import SelfLoop
from ditto.edit.edits import inpaint, outpaint
from ditto.edit.loops import loop, loop_recording, loop_seconds
from ditto.edit.result import Edit
from ditto.edit.timeline import FADE_SECONDS
from ditto.errors import RequestError
from ditto.methods.ditto import Ditto
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.runner import run

QUICK = Request(tags=Tags("jazz", tempo=120), iterations=4, method=Ditto(steps=2, lr=0.05))
RATE = 12_000


@pytest.fixture
def song(tmp_path: Path) -> Path:
    """1.2 s, stereo, 24 bit at 12 kHz."""
    samples = 0.1 * np.random.default_rng(0).standard_normal((int(1.2 * RATE), 2)) * [1.0, 0.5]
    soundfile.write(tmp_path / "song.wav", samples, RATE, subtype="PCM_24")
    return tmp_path / "song.wav"


def integers(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="int32", always_2d=True)[0]


def saved(edit: Edit, path: Path) -> np.ndarray:
    edit.save(path)
    about = soundfile.info(path)
    assert (about.samplerate, about.channels, about.subtype) == (RATE, 2, "PCM_24")
    return integers(path)


def improved(edit: Edit) -> bool:
    return all(part.losses.min() < part.losses[0] for part in edit.parts)


def test_inpainting_keeps_all_but_the_region_bit_for_bit(
    tiny_model: MusicModel, song: Path, tmp_path: Path
) -> None:
    edit = inpaint(tiny_model, song, [(0.3, 0.5)], QUICK, overlap=0.1)
    before, after = integers(song), saved(edit, tmp_path / "out.wav")
    fade = round(FADE_SECONDS * RATE)
    start, end = round(0.3 * RATE), round(0.5 * RATE)
    assert after.shape == before.shape
    np.testing.assert_array_equal(after[: start - fade], before[: start - fade])
    np.testing.assert_array_equal(after[end + fade :], before[end + fade :])
    assert (after[start:end] != before[start:end]).mean() > 0.9
    assert improved(edit)
    assert set(edit.errors) == {"inpaint_mse"}


@pytest.mark.parametrize(
    "regions", [[(0.0, 0.2)], [(1.0, 1.2)], [(0.2, 1.0)], [(0.0, 0.1), (0.4, 0.5), (1.1, 1.2)]]
)
def test_regions_at_the_ends_long_ones_and_several(
    tiny_model: MusicModel, song: Path, tmp_path: Path, regions: list[tuple[float, float]]
) -> None:
    edit = inpaint(tiny_model, song, regions, QUICK, overlap=0.1)
    before, after = integers(song), saved(edit, tmp_path / "out.wav")
    time = np.arange(len(before)) / RATE
    kept = np.ones(len(before), bool)
    for start, end in regions:
        kept &= (time < start - 0.1 - 1e-4) | (time >= end + 0.1 + 1e-4)
    np.testing.assert_array_equal(after[kept], before[kept])
    assert len(edit.parts) == len(regions) + (regions == [(0.2, 1.0)]) * 2 or len(edit.parts) >= 3


@pytest.mark.parametrize("overlap", [0.1, 0.2, 0.3])
def test_outpainting_forwards(
    tiny_model: MusicModel, song: Path, tmp_path: Path, overlap: float
) -> None:
    steps: list[tuple[int, int]] = []
    edit = outpaint(
        tiny_model,
        song,
        2.0,
        QUICK,
        overlap=overlap,
        progress=lambda part, of, step: steps.append((part, of)),
    )
    before, after = integers(song), saved(edit, tmp_path / "out.wav")
    assert len(after) == 2 * RATE
    kept = len(before) - round(FADE_SECONDS * RATE)
    np.testing.assert_array_equal(after[:kept], before[:kept])
    assert np.abs(after[len(before) :]).max() > 0
    assert improved(edit)
    assert len(edit.seams()) == len(edit.parts) > 1  # the recording's end, and where windows meet
    assert steps == [(part, len(edit.parts)) for part in range(len(edit.parts)) for _ in range(4)]


def test_outpainting_backwards(tiny_model: MusicModel, song: Path, tmp_path: Path) -> None:
    edit = outpaint(tiny_model, song, 2.0, QUICK, overlap=0.2, direction="backwards")
    before, after = integers(song), saved(edit, tmp_path / "out.wav")
    assert len(after) == 2 * RATE
    kept = len(before) - round(FADE_SECONDS * RATE)
    np.testing.assert_array_equal(after[-kept:], before[-kept:])
    beats = [part.request.tags.beat for part in edit.parts]
    assert all(beat is not None and beat < 0 for beat in beats[1:])


def test_a_melody_outside_what_is_new_is_said(tiny_model: MusicModel, song: Path) -> None:
    melody = Melody.from_notes("C4:1 E4:1", bpm=300)
    for gap, notes in (((0.3, 0.5), 0), ((0.7, 0.9), 1)):
        edit = inpaint(tiny_model, song, [gap], replace(QUICK, controls=(melody,)), overlap=0.1)
        said = [note for note in edit.notes if "nothing of a melody lies in what is new" in note]
        assert len(said) == notes
        assert all(note in edit.report()["notes"] for note in said)


def test_outpainting_with_a_loudness_curve_over_the_whole(
    tiny_model: MusicModel, song: Path
) -> None:
    request = Request(Intensity("0:-30 2:-10"), QUICK.tags, iterations=3, method=Ditto(steps=2))
    edit = outpaint(tiny_model, song, 1.6, request, overlap=0.2)
    assert set(edit.errors) == {"outpaint_mse", "intensity_mse_db2", "intensity_rho"}


def test_a_loop_of_a_recording_is_exact_and_repeats(
    tiny_model: MusicModel, song: Path, tmp_path: Path
) -> None:
    edit = loop_recording(tiny_model, song, QUICK, seconds=1.5, overlap=0.1, repeats=3)
    before, after = integers(song), saved(edit, tmp_path / "out.wav")
    length = round(1.5 * RATE)
    assert len(after) == 3 * length
    fade = round(FADE_SECONDS * RATE)
    np.testing.assert_array_equal(
        after[fade : len(before) - fade], before[fade : len(before) - fade]
    )
    np.testing.assert_array_equal(after[:length], after[length : 2 * length])
    assert {seam["seconds"] for seam in edit.seams()} == {1.2, 1.5, 2.7, 3.0, 4.2, 4.5}


def test_a_loop_from_nothing_is_exact_to_the_sample_and_joins_without_a_click(
    tiny_model: MusicModel,
) -> None:
    edit = loop(tiny_model, 0.31, QUICK, overlap=0.15, repeats=2)
    assert edit.samples.shape == (1, 2 * round(0.31 * 8000))
    assert improved(edit)
    once = edit.samples[0, :2480]
    np.testing.assert_array_equal(once, edit.samples[0, 2480:])
    # at the join the clip itself goes on: no step larger than those inside
    steps = np.abs(np.diff(once))
    assert abs(once[0] - once[-1]) <= steps.max() * 1.01
    overlap = round(0.15 * tiny_model.spec.frame_rate)
    plain = run(replace(QUICK, controls=()), tiny_model)
    control = SelfLoop(round(0.31 * tiny_model.spec.frame_rate), overlap, plain.x_0[0])
    clip = run(replace(QUICK, controls=(control,)), tiny_model).audio[0].numpy()
    assert once[0] == pytest.approx(clip[2480], abs=0.02)
    np.testing.assert_allclose(once[800:], clip[800:2480], atol=1e-6)


def test_loops_of_bars() -> None:
    assert loop_seconds(120, 2) == 4.0
    assert round(loop_seconds(120, 2) * 44_100) == 4 * 44_100
    assert loop_seconds(93, 1) == pytest.approx(240 / 93)
    for bpm, bars in ((0, 1), (1000, 1), (120, 0), (120, 1000)):
        with pytest.raises(RequestError):
            loop_seconds(bpm, bars)


@pytest.mark.parametrize(("bpm", "repeats"), [(120, 1), (97, 2)])
def test_eight_bars_of_the_embedded_model_are_exact_to_the_sample(
    ditto_music: Command, bpm: int, repeats: int
) -> None:
    words = "loop", "--bpm", bpm, "--bars", 8, "--repeats", repeats, "--tags", "genre=funk"
    code, _, err = ditto_music(*words, "-K", 1, "-o", "loop.wav")
    assert code == 0, err
    about = soundfile.info("loop.wav")
    length = round(Fraction(8 * 4 * 60, bpm) * about.samplerate)  # of bars of four beats
    assert about.frames == repeats * length
    report = json.loads(Path("loop.json").read_text())
    assert len(report["parts"]) > 1  # more than a window: begun, continued and led back
    assert [seam["seconds"] for seam in report["seams"]][-1] == pytest.approx(
        repeats * length / about.samplerate, abs=1e-4
    )
    sound = soundfile.read("loop.wav")[0]
    rounds = sound.reshape(repeats, length)
    assert (rounds == rounds[0]).all()
    # Made to the end: no tenth of a second is silent.
    tenths = rounds[0][: length // 2205 * 2205].reshape(-1, 2205)
    assert np.sqrt((tenths**2).mean(axis=1)).min() > 1e-5


def test_a_region_may_go_to_the_files_end_as_it_is_told(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal(16_537)
    soundfile.write(tmp_path / "s.wav", samples, 11_025)  # 1.49995 s, which is told as 1.500
    edit = inpaint(tiny_model, tmp_path / "s.wav", [(1.3, 1.5)], QUICK, overlap=0.1)
    assert edit.gaps == ((round(1.3 * 11_025), 16_537),)
    with pytest.raises(RequestError, match=r"is outside s.wav, which ends at 1\.500 s"):
        inpaint(tiny_model, tmp_path / "s.wav", [(1.3, 1.502)], QUICK, overlap=0.1)


def test_files_of_an_edit(tiny_model: MusicModel, song: Path, tmp_path: Path) -> None:
    edit = outpaint(tiny_model, song, 1.5, QUICK, overlap=0.2)
    paths = edit.save(tmp_path / "out.wav")
    assert [path.name for path in paths] == ["out.wav", "out.png", "out.json"]
    report = json.loads(paths[2].read_text())
    assert report["edit"] == "outpaint"
    assert report["sample_rate"] == RATE
    assert report["samples"] == round(1.5 * RATE)
    assert report["new"] == [[pytest.approx(1.2), 1.5]]
    assert [seam["seconds"] for seam in report["seams"]] == [1.2]  # a single window
    assert 0 <= report["seams"][0]["percentile"] <= 100
    assert report["parts"][0]["request"]["controls"][0]["control"] == "outpaint"
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    assert json.loads(read_tags(paths[0])["comment"])["edit"] == "outpaint"


def test_the_default_method_of_a_model_with_a_student_saves_too(
    student_model: MusicModel, song: Path, tmp_path: Path
) -> None:
    edit = outpaint(student_model, song, 1.5, Request(iterations=2), overlap=0.2)
    paths = edit.save(tmp_path / "out.wav")
    about, report = json.loads(read_tags(paths[0])["comment"]), json.loads(paths[2].read_text())
    assert about["request"]["seed"] == 0
    assert about == {name: report[name] for name in about}
    (part,) = report["parts"]
    assert part["request"]["method"].items() >= {"name": "ditto2", "decode_steps": 2}.items()
    assert report["model"] == student_model.describe()


BAD: dict[str, tuple[Any, str]] = {
    "no region": (lambda s, m: inpaint(m, s, [], QUICK), "at least one region"),
    "empty region": (lambda s, m: inpaint(m, s, [(0.5, 0.5)], QUICK), "not from 0.5 to 0.5"),
    "nan": (lambda s, m: inpaint(m, s, [(0.5, float("nan"))], QUICK), "not from 0.5 to nan"),
    "outside": (
        lambda s, m: inpaint(m, s, [(1.0, 3.0)], QUICK),
        "outside song.wav, which ends at 1.200 s",
    ),
    "touching": (
        lambda s, m: inpaint(m, s, [(0.1, 0.3), (0.2, 0.5)], QUICK),
        "overlap or nearly touch",
    ),
    "all": (
        lambda s, m: inpaint(m, s, [(0.0, 1.2)], QUICK, overlap=0.1),
        "nothing of the recording",
    ),
    "overlap longer than the file": (
        lambda s, m: outpaint(m, s, 9.0, QUICK, overlap=2.0),
        "at most the 1.20 s",
    ),
    "overlap longer than the window": (
        lambda s, m: outpaint(m, s, 9.0, QUICK, overlap=1.0),
        "at most 0.38 s",
    ),
    "shorter": (
        lambda s, m: outpaint(m, s, 1.0, QUICK, overlap=0.1),
        "above the 1.20 s of song.wav",
    ),
    "loop shorter": (
        lambda s, m: loop_recording(m, s, QUICK, seconds=1.0, overlap=0.1),
        "longer than the 1.20 s",
    ),
    "repeats": (
        lambda s, m: loop(m, 0.2, QUICK, overlap=0.1, repeats=0),
        "repeats must be a whole number from 1 to 1000",
    ),
    "loop longer than an hour": (lambda s, m: loop(m, 4000, QUICK), "to 3600 s"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_one_line(tiny_model: MusicModel, song: Path, name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(RequestError) as caught:
        call(song, tiny_model)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_memory_grows_by_the_recordings_samples_alone(
    tiny_model: MusicModel, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A picture is of some size whatever the length, which would hide what grows.
    monkeypatch.setattr(plots, "edit_picture", lambda *_, **__: None)
    request = replace(QUICK, iterations=1)

    def peak(seconds: float) -> int:
        tracemalloc.start()
        try:
            outpaint(tiny_model, song, seconds, request, overlap=0.1).save(
                tmp_path / "long.wav", force=True
            )
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(3.0)  # what is imported and kept on first use
    grown = peak(9.0) - peak(3.0)
    own = 6 * RATE * 2 * 4  # two channels of float32
    assert grown < 2.8 * own  # making room takes them twice, for a moment
