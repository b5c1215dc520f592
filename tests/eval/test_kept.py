from pathlib import Path

import numpy as np
import pytest
import torch

import ditto
from ditto.audio.features import log_mel
from ditto.audio.spec import AudioSpec
from ditto.edit.loops import loop
from ditto.eval import kept as module
from ditto.eval.kept import Kept, kept, onset_rate
from ditto.models.clap import Clap

SPEC = AudioSpec()


def clicks(every: float, seconds: float = 4.0) -> torch.Tensor:
    """Bursts of noise over a soft bed, (samples,)."""
    rng = np.random.default_rng(0)
    t = np.arange(int(seconds * SPEC.sample_rate)) / SPEC.sample_rate
    sound = 0.003 * rng.standard_normal(len(t))
    for time in np.arange(0.25, seconds, every):
        since = np.clip(t - time, 0, None)
        sound += (t > time) * np.exp(-since / 0.03) * 0.3 * rng.standard_normal(len(t))
    return torch.tensor(sound, dtype=torch.float32)


def test_onsets_are_counted_by_the_second() -> None:
    rates = onset_rate(torch.stack([clicks(0.5), clicks(0.25), 0 * clicks(1)]), SPEC)
    # Eight and fifteen in four seconds.
    assert rates.tolist() == pytest.approx([2.0, 3.75, 0.0])
    assert onset_rate(torch.zeros(1, 100), SPEC).tolist() == [0.0]


def test_a_clip_keeps_all_of_itself_and_half_of_twice_as_many_notes() -> None:
    both = torch.stack([clicks(0.25), clicks(0.5)])
    same = kept(both, both, SPEC)
    assert same.percent(0) == same.percent(1) == 100
    torch.testing.assert_close(same.alike, torch.ones(2), atol=1e-5, rtol=0)
    half = kept(clicks(0.5)[None], clicks(0.25)[None], SPEC)
    assert half.percent() == pytest.approx(100 * 8 / 15)
    assert half.words().startswith("keeps 53 % of the onsets of the clip without control, and")
    heard = [Clap.load().embed_audio(x[None], SPEC.sample_rate)[0] for x in both.flip(0)]
    assert half.alike is not None
    assert half.alike.item() == pytest.approx((heard[0] @ heard[1]).item(), abs=1e-5)
    torch.testing.assert_close(half.mel, log_mel(clicks(0.25)[None], SPEC))
    more = kept(clicks(0.25)[None], clicks(0.5)[None], SPEC)
    assert more.words().startswith("has 188 % of the onsets")
    assert more.to_dict()["onsets_percent"] == 187.5


def test_silence_and_a_missing_clap_are_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ear", lambda: None)
    made = kept(clicks(0.5)[None], torch.zeros(1, 4 * SPEC.sample_rate), SPEC)
    assert made.words() == "has 2.0 onsets a second, the clip without control none"
    assert made.to_dict()["clap_similarity"] is None
    assert made.to_dict()["onsets_percent"] is None
    assert isinstance(made, Kept)


def test_the_embedded_clip_is_compared_with_that_of_no_control(tmp_path: Path) -> None:
    model, method = ditto.load(), ditto.Ditto2(corrections=0)
    made = ditto.generate(
        model, ditto.Intensity("swell"), seed=3, seconds=2.0, iterations=1, method=method
    )
    assert made.kept is not None
    # The student's own clip of the seed, which best-of-1 decodes.
    plain = ditto.generate(
        model, ditto.Intensity("swell"), seed=3, seconds=2.0, method=ditto.BestOf(count=1)
    )
    torch.testing.assert_close(made.kept.mel, log_mel(plain.audio, model.spec), atol=1e-4, rtol=0)
    assert plain.kept is not None
    assert plain.kept.percent() == 100
    # An iteration changes little.
    assert made.kept.alike is not None
    assert made.kept.alike.item() > 0.8


def test_a_loop_from_nothing_is_no_drone() -> None:
    """Free ends meet in a chord that is held: of this clip no onset was left."""
    model = ditto.load()
    edit = loop(model, 5.0, tags={"genre": "funk", "tempo": 120}, seed=4, overlap=0.5)
    about = edit.parts[0].about["kept"]
    assert about["onsets_percent"] > 80
    assert about["clap_similarity"] > 0.5
