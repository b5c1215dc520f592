"""basic-pitch on a tune of known notes, and its notes against the package's own rules."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from tests.eval.ears.made_music import SAMPLES, TUNE, played

from ditto.eval.ears.basic_pitch import (
    FRAME_RATE,
    Activations,
    activations,
    class_activations,
    find_notes,
    load_basic_pitch,
    notes_per_second,
    onset_peak,
)
from ditto.eval.ears.tune import tune_contrast, tune_shares
from ditto.eval.ears.wheels import wheel_file


@pytest.fixture(scope="module")
def heard() -> Activations:
    return activations(played(), load_basic_pitch())


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`basic_pitch.note_creation`, without the package's own imports of what it does not need."""
    for name in ("mir_eval", "resampy", "pretty_midi", "basic_pitch"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(PrettyMIDI=object))
    for name in ("constants", "note_creation"):
        path = wheel_file("basic-pitch", f"basic_pitch/{name}.py")
        spec = spec_from_file_location(f"basic_pitch.{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, f"basic_pitch.{name}", module)
        spec.loader.exec_module(module)
    return sys.modules["basic_pitch.note_creation"]


def by_package(package: ModuleType, heard: Activations) -> list[tuple[int, int, int]]:
    """Notes at the settings of `basic_pitch.inference.predict`."""
    found = package.output_to_notes_polyphonic(
        heard.note.copy(),
        heard.onset.copy(),
        onset_thresh=0.5,
        frame_thresh=0.3,
        min_note_len=round(127.70 / 1000 * 22_050 / 256),
        infer_onsets=True,
        max_freq=None,
        min_freq=None,
        melodia_trick=True,
    )
    return [(int(start), int(end), int(pitch)) for start, end, pitch, _ in found]


def test_the_tune_is_heard(heard: Activations) -> None:
    assert heard.note.shape == heard.onset.shape == (SAMPLES // 256, 88)
    notes = sorted(find_notes(heard))
    for start, _, pitch in TUNE:
        begins = [n.start / FRAME_RATE for n in notes if n.pitch == pitch]
        assert min(abs(begin - start) for begin in begins) < 0.03, (start, pitch)
    assert {n.pitch for n in notes} - {p for _, _, p in TUNE} <= {91, 93, 96}  # two octaves up
    assert len(TUNE) <= len(notes) <= len(TUNE) + 5
    assert notes_per_second(heard) == pytest.approx(len(notes) / 5.944, rel=1e-3)
    assert tune_contrast(heard, TUNE) > 0.8


def test_a_tune_in_another_key_is_not_heard(heard: Activations) -> None:
    assert tune_contrast(heard, [(start, s, p + 1) for start, s, p in TUNE]) < 0.1
    assert tune_contrast(heard, [(start, s, p + 12) for start, s, p in TUNE]) > 0.8
    shares = tune_shares(class_activations(heard), TUNE)
    assert shares.shape == (12,)
    assert shares[0] > 0.8
    assert shares[0] - shares[1:].mean() == pytest.approx(tune_contrast(heard, TUNE))


def test_notes_are_those_of_the_package(package: ModuleType, heard: Activations) -> None:
    assert [tuple(n) for n in find_notes(heard)] == by_package(package, heard)


@pytest.mark.parametrize("seed", range(8))
def test_notes_of_any_activations_are_those_of_the_package(package: ModuleType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = int(rng.integers(2, 120))
    note = np.repeat(rng.random((-(-frames // 9), 88)), 9, axis=0)[:frames] ** 2
    note = np.clip(note + 0.1 * rng.standard_normal(note.shape), 0, 1).astype(np.float32)
    onset = (rng.random((frames, 88)) ** 8).astype(np.float32)
    heard = Activations(onset, note)
    assert [tuple(n) for n in find_notes(heard)] == by_package(package, heard)


def test_silence_has_no_notes_and_no_onsets() -> None:
    silent = activations(np.zeros(50_000, dtype=np.float32), load_basic_pitch())
    assert len(silent.note) == 195
    assert notes_per_second(silent) == 0
    assert onset_peak(silent) < 0.2


def test_a_clip_of_many_windows_is_that_of_its_parts() -> None:
    network, rng = load_basic_pitch(), np.random.default_rng(0)
    audio = np.concatenate([played(), played()])
    audio += (0.001 * rng.standard_normal(len(audio))).astype(np.float32)
    whole = activations(audio, network)
    first = activations(audio[: 300 * 256], network)
    np.testing.assert_allclose(whole.note[:200], first.note[:200], atol=1e-5)
    later = [n for n in find_notes(whole) if n.start > SAMPLES / 256]
    begins = {n.pitch: n.start / FRAME_RATE - SAMPLES / 22_050 for n in later}
    assert begins[72] == pytest.approx(TUNE[-1][0], abs=0.03)


def test_tones_that_fade_in_have_lower_onsets(heard: Activations) -> None:
    audio, ramp = played(), round(0.3 * 22_050)
    for start, _, _ in TUNE:
        audio[round(start * 22_050) :][:ramp] *= np.linspace(0, 1, ramp, dtype=np.float32) ** 2
    assert onset_peak(activations(audio, load_basic_pitch())) < onset_peak(heard) - 0.1
