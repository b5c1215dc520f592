import sys
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest

from ditto.composer.compose import compose
from ditto.composer.dynamics import gain_db
from ditto.composer.piece import Note, Piece
from ditto.composer.render import Renderer, find_soundfont, render
from ditto.errors import DataError

RATE = 22_050


def find(genre: str, **wanted: object) -> Piece:
    """The first piece of a genre with the wanted facts."""
    for index in range(200):
        piece = compose(index)
        if piece.genre == genre and all(getattr(piece, k) == v for k, v in wanted.items()):
            return piece
    raise AssertionError(genre)


def only(piece: Piece, role: str) -> Piece:
    return replace(
        piece,
        tracks=tuple(t for t in piece.tracks if t.role == role),
        dynamics=((0.0, 0.0), (piece.seconds, 0.0)),
    )


def test_the_labelled_melody_is_what_sounds(renderer: Renderer) -> None:
    piece = find("electronic")
    audio = renderer.dry(only(piece, "lead"))
    heard = []
    for note in (n for n in piece.melody if n.duration > 0.12):
        a, b = round((note.start + 0.01) * RATE), round((note.start + note.duration - 0.01) * RATE)
        spectrum = np.abs(np.fft.rfft(audio[a:b] * np.hanning(b - a), 1 << 17))
        heard.append(librosa.hz_to_midi(spectrum.argmax() * RATE / (1 << 17)) - note.pitch)
    assert len(heard) > 10
    assert np.abs(heard).max() < 0.3


def test_the_drums_pulse_at_the_labelled_tempo(renderer: Renderer) -> None:
    piece = find("rock", mood="happy")
    strength = librosa.onset.onset_strength(
        y=renderer.render(only(piece, "drums")), sr=RATE, hop_length=256
    )
    spectrum = np.abs(np.fft.rfft(strength - strength.mean(), 1 << 16)) ** 2
    per_minute = np.fft.rfftfreq(1 << 16, 256 / RATE) * 60
    near = np.abs(per_minute - piece.tempo) < 3
    # the strongest pulse within 25 % of the label is the label itself, to 1 %
    around = np.abs(per_minute / piece.tempo - 1) < 0.25
    assert abs(per_minute[around][spectrum[around].argmax()] / piece.tempo - 1) < 0.01
    assert spectrum[near].max() > 5 * np.median(spectrum[around])


def test_the_labelled_dynamics_are_the_gain_that_was_applied(renderer: Renderer) -> None:
    piece = next(p for p in map(compose, range(48)) if min(v for _, v in p.dynamics) < -10)
    piece = replace(piece, mix=replace(piece.mix, soft_tilt_db=0.0))
    flat = renderer.render(replace(piece, dynamics=((0.0, 0.0), (piece.seconds, 0.0)))).astype(
        np.float64
    )
    shaped = renderer.render(piece).astype(np.float64)
    loud = np.abs(flat) > 0.1 * np.abs(flat).max()
    difference = 20 * np.log10(np.abs(shaped[loud]) / np.abs(flat[loud]))
    expected = gain_db(piece.dynamics, np.arange(len(flat))[loud] / RATE)
    assert np.std(difference - expected) < 0.01


def test_audio_is_finite_unclipped_of_the_labelled_length_and_moves(renderer: Renderer) -> None:
    spreads = []
    for index in range(6):
        piece = compose(index)
        audio = renderer.render(piece)
        assert audio.dtype == np.float32
        assert len(audio) == round(piece.seconds * RATE)
        assert np.isfinite(audio).all()
        assert 0.03 < np.abs(audio).max() <= 10 ** (-1 / 20) + 1e-6
        energy = np.concatenate([[0.0], np.cumsum(audio.astype(np.float64) ** 2)])
        power = (energy[RATE:] - energy[:-RATE])[:: RATE // 10] / RATE
        spreads.append(np.std(10 * np.log10(power + 1e-10)))
    assert np.median(spreads) > 3  # dB, of the loudness in windows of 1 s


def test_a_piece_sounds_the_same_after_another(renderer: Renderer, soundfont: Path) -> None:
    piece = compose(3)
    first = renderer.render(piece)
    renderer.render(compose(4))
    assert np.array_equal(renderer.render(piece), first)
    assert np.array_equal(render(piece, soundfont), first)


def test_the_room_decays_by_60_decibels_in_its_reverb_time(renderer: Renderer) -> None:
    piece = find("funk")
    hit = replace(piece.tracks[-1], notes=(Note(1.0, 0.1, 38, 100),))
    mix = replace(piece.mix, wet=0.5, reverb_seconds=2.0, tilt_db=0.0, soft_tilt_db=0.0)
    audio = renderer.render(replace(only(piece, "drums"), tracks=(hit,), mix=mix)).astype(
        np.float64
    )
    tail = audio[round(1.3 * RATE) : round(3.5 * RATE)] ** 2
    decay = 10 * np.log10(np.cumsum(tail[::-1])[::-1])  # Schroeder's backward integral
    seconds = np.searchsorted(-(decay - decay[0]), 20) / RATE
    assert 3 * seconds == pytest.approx(2.0, rel=0.1)


def test_a_missing_soundfont_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no SoundFont at") as caught:
        find_soundfont(tmp_path / "none.sf2")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_soundfont_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "text.sf2"
    path.write_text("hello")
    with pytest.raises(DataError, match="not a SoundFont"):
        Renderer(path)


def test_a_missing_synthesiser_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, soundfont: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    with pytest.raises(DataError, match="pip install --no-deps tinysoundfont"):
        Renderer(soundfont)


def test_a_silent_soundfont_is_refused(tmp_path: Path, soundfont: Path) -> None:
    data = bytearray(soundfont.read_bytes())
    start = data.index(b"smpl") + 8
    size = int.from_bytes(data[start - 4 : start], "little")
    data[start : start + size] = bytes(size)
    path = tmp_path / "silent.sf2"
    path.write_bytes(data)
    with pytest.raises(DataError, match="silent"):
        Renderer(path).render(compose(0))
