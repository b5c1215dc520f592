import librosa
import mir_eval
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ditto.audio.features import log_mel, mel_db
from ditto.audio.onsets import (
    APART,
    LOCAL_MAX,
    LOCAL_MEAN,
    STANDS_OUT_DB,
    f_measure,
    heard_envelope,
    onset_envelope,
    pick_onsets,
    tap_beats,
)
from ditto.audio.spec import AudioSpec

SPEC = AudioSpec()
RATE = SPEC.frame_rate


def plucked(times: np.ndarray, seconds: float, *, bed: float = 0.003) -> torch.Tensor:
    """Notes of five partials with an attack of 5 ms over a soft bed, (1, samples)."""
    rng = np.random.default_rng(0)
    t = np.arange(int(seconds * SPEC.sample_rate)) / SPEC.sample_rate
    sound = bed * rng.standard_normal(len(t))
    for time in times:
        since, hertz = t - time, 220 * 2 ** (rng.integers(0, 24) / 12)
        shape = np.where(since > 0, np.minimum(1, since / 0.005) * np.exp(-since / 0.3), 0)
        sound += 0.1 * shape * sum(np.sin(2 * np.pi * hertz * k * since) for k in range(1, 6))
    return torch.tensor(sound[None], dtype=torch.float32)


def test_the_envelope_is_librosas_at_the_time_of_the_onset() -> None:
    audio = plucked(np.arange(0.5, 3, 0.4), 3.0)
    mel = log_mel(audio, SPEC)
    decibels = mel_db(mel, SPEC)[0].numpy()
    decibels = np.maximum(decibels, decibels.max() - 80)
    theirs = librosa.onset.onset_strength(S=decibels, center=False)
    late = SPEC.n_fft // (4 * SPEC.hop)
    ours = onset_envelope(mel, SPEC)[0].numpy()
    np.testing.assert_allclose(ours[late:], theirs[: len(ours) - late], atol=1e-4)
    assert (ours[:late] == 0).all()


@pytest.mark.parametrize("bed", [0.0003, 0.003, 0.03])
def test_onsets_are_found_where_notes_begin(bed: float) -> None:
    times = np.arange(0.4, 5.6, 0.37)
    heard = pick_onsets(heard_envelope(plucked(times, 6.0, bed=bed), SPEC)[0].numpy(), RATE)
    assert len(heard) == len(times)
    assert np.abs(heard - times).max() < 0.03
    assert np.abs((heard - times).mean()) < 0.015


def test_a_held_sound_has_no_onsets() -> None:
    t = torch.arange(int(4 * SPEC.sample_rate)) / SPEC.sample_rate
    held = sum(0.1 * torch.sin(2 * torch.pi * f * t) for f in (220, 277, 330))
    envelope = heard_envelope(held[None], SPEC)[0].numpy()
    # The first frames see the beginning.
    assert len(pick_onsets(envelope[20:-20], RATE)) == 0


@given(st.lists(st.floats(0, 5, width=32), min_size=30, max_size=200))
def test_onsets_are_those_that_librosa_picks(values: list[float]) -> None:
    frames = {
        "pre_max": np.ceil(LOCAL_MAX * RATE),
        "post_max": 1,
        "pre_avg": np.ceil(LOCAL_MEAN * RATE),
        "post_avg": np.ceil(LOCAL_MEAN * RATE) + 1,
        "wait": np.ceil(APART * RATE),
    }
    theirs = librosa.util.peak_pick(np.array(values), delta=STANDS_OUT_DB, **frames)
    np.testing.assert_array_equal(np.round(pick_onsets(values, RATE) * RATE), theirs)


@pytest.mark.parametrize("bpm", [70.0, 100.0, 123.0, 180.0])
def test_beats_are_tapped_as_librosa_does(bpm: float) -> None:
    rng = np.random.default_rng(int(bpm))
    times = np.sort(np.concatenate([np.arange(0.3, 7.7, 60 / bpm), rng.uniform(0.2, 7.7, 6)]))
    envelope = heard_envelope(plucked(times, 8.0), SPEC)[0].double().numpy()
    _, theirs = librosa.beat.beat_track(
        onset_envelope=envelope,
        sr=SPEC.sample_rate,
        hop_length=SPEC.hop,
        bpm=bpm,
        trim=False,
        units="time",
    )
    np.testing.assert_allclose(tap_beats(envelope, RATE, bpm), theirs, atol=1e-9)
    assert f_measure(np.arange(0.3, 7.7, 60 / bpm), theirs, 0.07) > 0.8


def test_silence_has_no_beats() -> None:
    assert len(tap_beats(np.zeros(300), RATE, 120)) == 0
    assert len(pick_onsets(np.zeros(300), RATE)) == 0
    assert f_measure(np.array([1.0]), np.zeros(0), 0.07) == 0


rising = st.lists(st.integers(0, 6000), unique=True, max_size=25).map(
    lambda milliseconds: np.array(sorted(milliseconds)) / 1000
)


@given(rising, rising)
@pytest.mark.filterwarnings("ignore:.*are empty")
def test_the_f_measure_is_mir_evals(asked: np.ndarray, heard: np.ndarray) -> None:
    # Half a millisecond off the window, so that rounding does not decide.
    theirs = mir_eval.beat.f_measure(asked, heard, 0.0705)
    assert f_measure(asked, heard, 0.0705) == pytest.approx(theirs)
    theirs, *_ = mir_eval.onset.f_measure(asked, heard, 0.0505)
    assert f_measure(asked, heard, 0.0505) == pytest.approx(theirs)


def test_the_gradient_of_the_envelope_is_right() -> None:
    spec = AudioSpec(sample_rate=8000, n_fft=64, hop=16, n_mels=8, clip_frames=16)
    mel = torch.rand(1, 8, 12, generator=torch.Generator().manual_seed(0)).double()
    assert torch.autograd.gradcheck(lambda x: onset_envelope(x, spec), mel.requires_grad_())
