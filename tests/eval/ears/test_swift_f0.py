"""SwiftF0 on a tune of known notes."""

import numpy as np
import pytest
from tests.eval.ears.made_music import TUNE, played

from ditto.eval.ears.swift_f0 import FRAME_RATE, Pitch, load_swift_f0, pitch
from ditto.eval.ears.tune import pitch_share, tune_classes


@pytest.fixture(scope="module")
def heard() -> Pitch:
    return pitch(played(rate=16_000), load_swift_f0())


def test_the_tune_is_heard(heard: Pitch) -> None:
    assert len(heard.hertz) == 95_109 // 256
    for start, seconds, midi in TUNE:
        middle = round((start + seconds / 2) * FRAME_RATE)
        assert 69 + 12 * np.log2(heard.hertz[middle] / 440) == pytest.approx(midi, abs=0.3)
        assert heard.confidence[middle] > 0.5
    assert pitch_share(heard, TUNE) > 0.9
    assert pitch_share(heard, [(start, s, p - 1) for start, s, p in TUNE]) < 0.1


def test_silence_is_not_on_the_tune() -> None:
    assert pitch_share(pitch(np.zeros(95_108), load_swift_f0()), TUNE) == 0


def test_classes_of_a_tune_and_its_rests() -> None:
    classes = tune_classes([(0.0, 0.5, 61), (1.0, 0.25, 59.6)], 6, 4.0)
    assert classes.tolist() == [1, 1, -1, -1, 0, -1]
    with pytest.raises(ValueError, match="none of 6 frames"):
        tune_classes([(9.0, 1.0, 60)], 6, 4.0)
