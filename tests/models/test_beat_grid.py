import math

import torch

from ditto.models.beat_grid import CYCLES, FEATURES, ONSET_SECONDS, beat_features
from ditto.models.conditioning import Tags, TagVocabulary

VOCABULARY = TagVocabulary(("jazz",), ("calm",))
RATE = 100.0


def features(tempo: float | None, beat: float | None, frames: int = 400) -> torch.Tensor:
    return beat_features(VOCABULARY.encode(Tags(tempo=tempo, beat=beat))[None], frames, RATE)[0]


def test_no_tempo_or_no_known_beat_is_all_zeros() -> None:
    assert not features(None, 0.0).any()
    assert not features(120, None).any()


def test_bumps_lie_on_the_beats() -> None:
    beats = features(120, 0.0)[:, 2 * len(CYCLES) + CYCLES.index(1.0)]
    peaks = [n for n in range(1, 399) if beats[n] > beats[n - 1] and beats[n] > beats[n + 1]]
    assert peaks == [50, 100, 150, 200, 250, 300, 350]
    torch.testing.assert_close(beats[50], torch.tensor(1.0))
    # a bump's width is a time, whatever the tempo
    expected = math.exp(-0.5 * (0.01 / ONSET_SECONDS) ** 2)
    torch.testing.assert_close(beats[51], torch.tensor(expected), rtol=1e-3, atol=0)


def test_a_clip_that_starts_later_is_the_rest_of_one_that_starts_on_the_bar() -> None:
    whole, rest = features(90, 0.0, 600), features(90, 3.0)
    torch.testing.assert_close(rest, whole[200:], atol=2e-3, rtol=0)


def test_phases_are_those_of_a_clock() -> None:
    found = features(117.3, 5.25)
    beats = 5.25 + torch.arange(400, dtype=torch.float64) / RATE * 117.3 / 60
    for i, cycles in enumerate(CYCLES):
        angle = 2 * math.pi * beats * cycles
        torch.testing.assert_close(found[:, i].double(), angle.cos(), atol=2e-4, rtol=0)
        torch.testing.assert_close(
            found[:, i + len(CYCLES)].double(), angle.sin(), atol=2e-4, rtol=0
        )
    assert found.shape[1] == FEATURES
