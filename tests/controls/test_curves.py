"""Loudness curves: everything that a user may write, and everything that is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import savgol_filter

from ditto.audio.features import rms_db, smoothing_window
from ditto.audio.spec import AudioSpec
from ditto.controls import curves
from ditto.controls.curves import (
    SHAPES,
    Curve,
    curve_of_recording,
    parse_curve,
    read_curve,
    smoothed,
)
from ditto.errors import AudioFileError, ControlError

SPEC = AudioSpec()


def refused(text: str) -> str:
    with pytest.raises(ControlError) as caught:
        parse_curve(text)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 500
    return message


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("0:-30 3:-12", ((0, -30), (3, -12))),
        ("0:-30,3:-12", ((0, -30), (3, -12))),
        ("  0.5:-30 ,  3e0:-12.5\t", ((0.5, -30), (3, -12.5))),
        ("2:-20", ((2, -20),)),
        ("0:0 1:-80", ((0, 0), (1, -80))),
    ],
)
def test_breakpoints(text: str, points: tuple) -> None:
    curve = parse_curve(text)
    assert curve.points == points
    assert not curve.relative


@pytest.mark.parametrize("name", SHAPES)
def test_named_shapes_fit_any_clip(name: str) -> None:
    curve = parse_curve(name)
    assert (curve.name, curve.relative, curve.last) == (name, True, 0.0)
    for frames in (1, 64, 512):
        levels = curve.levels(frames, SPEC)
        assert levels.shape == (frames,)
        assert levels.min() >= -80
        assert levels.max() <= 0
    assert curve.levels(512, SPEC)[0] == SHAPES[name][0][1]


def test_shapes_do_what_they_are_called() -> None:
    levels = {name: parse_curve(name).levels(512, SPEC) for name in SHAPES}
    assert (levels["crescendo"].diff() > 0).all()
    assert (levels["decrescendo"].diff() < 0).all()
    assert 200 < levels["swell"].argmax() < 312
    assert 200 < levels["dip"].argmin() < 312
    assert (levels["steps"].diff() >= 0).all()
    assert len(levels["steps"].unique()) >= 3
    assert len(levels["flat"].unique()) == 1


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("0:-30 3:-12 2:-20", "2 s comes after 3 s"),
        ("1:-30 1:-12 1:-20", "two are a step"),
        ("-1:-30 1:-12", "out of range"),
        ("0:-81", "out of range"),
        ("0:3", "-80 to 0 dB"),
        ("0:loud", "needs numbers, seconds and dB, in '0:loud'"),
        ("0:", "needs numbers"),
        (":-30", "needs numbers"),
        ("0:-30:4", "needs numbers"),
        ("0:nan", "finite"),
        ("inf:-30", "finite"),
        ("0:-1e999", "finite"),
        ("", "cannot read"),
        (" , ", "cannot read"),
        ("crescende", "crescendo, decrescendo, swell, dip, steps, flat"),
        ("0:-30 -12", "cannot read"),
        ("line\nbreak", r"line\nbreak"),
        ("missing.csv", "No such file"),
        ("song.wav", "cannot read"),
    ],
)
def test_bad_curves_are_refused_with_what_is_wrong(text: str, part: str) -> None:
    assert part in refused(text).replace("\\\\", "\\")


@given(
    st.text()
    | st.text(alphabet="0123456789:.,- eEnaif+_\n\0")
    | st.text(max_size=8).map(lambda text: text + ".csv")
)
def test_no_text_makes_the_reader_fail_otherwise(text: str) -> None:
    try:
        curve = parse_curve(text)
    except ControlError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - any other error must come through
    else:
        assert curve.levels(16, SPEC).isfinite().all()


CSVS = {
    "plain": b"0,-30\n3,-12\n",
    "headings": b"seconds,dB\n0,-30\n3,-12\n",
    "spaces and blank lines": b"\n 0 , -30 \n\n3,-12,ignored\n",
    "windows": b"\xef\xbb\xbftime,level\r\n0,-30\r\n3,-12\r\n",
    "quoted": b'"0","-30"\n"3","-12"\n',
}


@pytest.mark.parametrize("kind", CSVS)
def test_csv(tmp_path: Path, kind: str) -> None:
    (tmp_path / "Curve.CSV").write_bytes(CSVS[kind])
    curve = parse_curve(str(tmp_path / "Curve.CSV"))
    assert curve.points == ((0, -30), (3, -12))
    assert curve.name == "Curve.CSV"


BAD_CSVS = {
    "empty": (b"", "it is empty"),
    "headings alone": (b"seconds,dB\n", "not 0"),
    "one column": (b"0\n1\n", "line 1 .* two columns"),
    "words": (b"0,-30\n1,loud\n", "numbers, seconds and dB, on line 2"),
    "binary": (bytes(range(256)) * 4, "not a CSV file"),
    "wav": (b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\xff\xff", "not a CSV file"),
    "null characters": (b"0,-30\n\0,\0\n", "curve"),
    "huge field": (b'"' + b"1" * 200_000 + b",2", "not a CSV file"),
    "too many points": (b"\n".join(b"%d,-30" % i for i in range(20_001)), "points, not 20001"),
    "out of order": (b"0,-30\n2,-30\n1,-30\n", "must rise"),
    "out of range": (b"0,-30\n2,30\n", "out of range"),
}


@pytest.mark.parametrize("kind", BAD_CSVS)
def test_bad_csv(tmp_path: Path, kind: str) -> None:
    content, message = BAD_CSVS[kind]
    (tmp_path / "c.csv").write_bytes(content)
    with pytest.raises(ControlError, match=message) as caught:
        read_curve(tmp_path / "c.csv")
    assert len(str(caught.value).splitlines()) == 1


@given(content=st.binary(max_size=60))
def test_no_file_makes_the_reader_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        read_curve(path)
    except ControlError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - any other error must come through


def test_what_is_no_csv_file(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")  # opening it would wait for ever
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    with (tmp_path / "huge.csv").open("wb") as file:
        file.truncate(11_000_000)
    for name, part in (
        ("folder", "regular"),
        ("pipe", "regular"),
        ("zero", "regular"),
        ("huge", "over 10 MB"),
    ):
        assert part in refused(str(tmp_path / f"{name}.csv"))
    assert "not a CSV file" in refused("a\0.csv")


def test_levels_are_linear_between_points_and_level_beyond() -> None:
    levels = parse_curve("1:-40 3:-20").levels(512, SPEC)
    seconds = np.arange(512) * 256 / 22_050
    np.testing.assert_allclose(levels.numpy(), np.interp(seconds, [1, 3], [-40, -20]), atol=1e-4)
    assert levels[0] == -40
    assert levels[-1] == -20


def test_the_target_is_smoothed_as_the_feature_is() -> None:
    curve = parse_curve("0:-40 2:-40 2.01:-20")
    raw = np.interp(np.arange(512) * 256 / 22_050, [0, 2, 2.01], [-40, -40, -20])
    expected = savgol_filter(raw, smoothing_window(SPEC), 3, mode="interp")
    np.testing.assert_allclose(smoothed(curve, 512, SPEC).numpy(), expected, atol=1e-3)


def test_smoothing_leaves_ramps_as_they_are() -> None:
    for name in ("crescendo", "decrescendo", "flat"):
        curve = parse_curve(name)
        torch.testing.assert_close(
            smoothed(curve, 512, SPEC), curve.levels(512, SPEC), rtol=0, atol=1e-3
        )


def test_a_caller_cannot_spoil_the_cached_levels() -> None:
    curve = parse_curve("swell")
    for get in (lambda: curve.levels(64, SPEC), lambda: smoothed(curve, 64, SPEC)):
        before = get().clone()
        get().zero_()
        assert torch.equal(get(), before)


def test_levels_made_in_inference_mode_serve_autograd_later() -> None:
    curve = parse_curve("0:-31 0.4:-17")
    with torch.inference_mode():
        smoothed(curve, 48, SPEC)
    x = torch.zeros(48, requires_grad=True)
    (x * smoothed(curve, 48, SPEC)).sum().backward()
    assert x.grad is not None


def write_sound(path: Path, seconds: float, level: float = 0.1) -> np.ndarray:
    audio = level * np.random.default_rng(0).standard_normal(
        round(seconds * SPEC.sample_rate)
    ).clip(-3, 3)
    soundfile.write(path, audio, SPEC.sample_rate, subtype="FLOAT")
    return audio.astype(np.float32)


def test_a_recordings_curve_is_its_loudness(tmp_path: Path) -> None:
    audio = write_sound(tmp_path / "song.wav", 2.0)
    curve = curve_of_recording(tmp_path / "song.wav", SPEC, seconds=1.5)
    expected = rms_db(torch.from_numpy(audio[None, : round(1.5 * SPEC.sample_rate)]), SPEC)[0]
    np.testing.assert_allclose([level for _, level in curve.points], expected, atol=1e-3)
    assert curve.name == "song.wav"
    assert curve.last < 1.5
    assert (tmp_path / "song.wav").stat().st_size > 0


def test_a_recording_is_read_up_to_the_models_window(tmp_path: Path) -> None:
    write_sound(tmp_path / "long.wav", 8.0)
    curve = curve_of_recording(tmp_path / "long.wav", SPEC)
    assert len(curve.points) == 512
    assert curve.last < SPEC.clip_seconds


def test_a_silent_recording_is_refused(tmp_path: Path) -> None:
    write_sound(tmp_path / "silent.wav", 1.0, level=0.0)
    with pytest.raises(AudioFileError, match="silen"):
        curve_of_recording(tmp_path / "silent.wav", SPEC)


def test_points_may_be_given_directly() -> None:
    assert Curve(((0.0, -20.0),)).last == 0.0
    with pytest.raises(ControlError, match="not 0"):
        Curve(())


def test_the_loudness_of_a_long_recording_is_thinned_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rising = np.linspace(0.001, 0.5, 80_000) * np.random.default_rng(0).standard_normal(80_000)
    soundfile.write(tmp_path / "long.wav", 0.3 * rising, 8000)
    whole = curve_of_recording(tmp_path / "long.wav", SPEC, 10.0)
    monkeypatch.setattr(curves, "MAX_POINTS", 400)
    thinned = curve_of_recording(tmp_path / "long.wav", SPEC, 10.0)
    assert 250 < len(thinned.points) <= 400 < len(whole.points)
    assert set(thinned.points) <= set(whole.points)
    assert thinned.points[-1][0] > 9.9
