import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditto.audio.spec import AudioSpec

SPEC = AudioSpec()


def test_default_is_the_papers_model():
    """22.05 kHz, window 2048, hop 256, 160 mels over 160 dB, 512 frames = 5.94 s (appendix K)."""
    assert dataclasses.astuple(SPEC) == (22_050, 2048, 256, 160, 160.0, 512)
    assert pytest.approx(86.1328125) == SPEC.frame_rate
    assert pytest.approx(5.944, abs=5e-4) == SPEC.clip_seconds


@given(st.integers(0, 100_000))
def test_frames_and_seconds_are_inverse(frames):
    assert SPEC.frames(SPEC.seconds(frames)) == frames
    assert SPEC.samples(frames) / SPEC.sample_rate == pytest.approx(SPEC.seconds(frames))


@pytest.mark.parametrize(("seconds", "frames"), [(0.0, 0), (1.0, 86), (5.944, 512), (24.0, 2067)])
def test_frames_are_the_nearest_whole_number(seconds, frames):
    assert SPEC.frames(seconds) == frames


def test_half_a_window_is_rounded_up_to_frames():
    assert SPEC.margin_frames == 4
    assert AudioSpec(n_fft=2048, hop=480).margin_frames == 3


def test_a_spec_is_a_constant_and_can_key_a_cache():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.hop = 512  # pyright: ignore[reportAttributeAccessIssue]
    assert hash(AudioSpec()) == hash(SPEC)
    assert AudioSpec(hop=512) != SPEC
