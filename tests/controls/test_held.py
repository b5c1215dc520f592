"""The pull that holds a clip to its tags: what it adds to a loss, for whom, and that it helps."""

from dataclasses import replace

import pytest
import torch
from tests.methods.given import LOUDNESS
from torch import Tensor

import ditto
from ditto.controls.base import Control
from ditto.controls.held import held_to_tags
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.per_item import PerItem
from ditto.controls.structure import Structure
from ditto.controls.text import Text
from ditto.controls.weights import tag_weight
from ditto.models.clap import Clap
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.runner import Run

JAZZ, ROCK = Tags("jazz", "calm"), Tags("rock")
MELODY = Melody.from_notes("C4:1")


def x_0(batch: int = 2) -> Tensor:
    return 0.3 * torch.randn(batch, 1, 16, 64, generator=torch.Generator().manual_seed(0))


def pulls(model: MusicModel, *tags: Tags) -> Tensor:
    """Return max(0, 0.75 − cos) of CLAP's embeddings of each item and its caption."""
    clap, sound = Clap.load(), model.to_audio(x_0(len(tags)))
    heard = clap.embed_audio(sound, model.spec.sample_rate)
    read = clap.embed_text([each.caption() for each in tags])
    return (0.75 - (heard * read).sum(dim=1)).clamp(min=0)


@pytest.mark.parametrize(
    "control",
    [LOUDNESS, 0.5 * LOUDNESS + MELODY, LOUDNESS.during((0.0, 0.2)), PerItem([LOUDNESS, MELODY])],
)
def test_it_adds_to_the_loss_what_clap_hears(tiny_model: MusicModel, control: Control) -> None:
    held = held_to_tags(control, (JAZZ,), 3.0, tiny_model)
    expected = control(x_0(), tiny_model) + 3.0 * pulls(tiny_model, JAZZ, JAZZ)
    assert pulls(tiny_model, JAZZ, JAZZ).min() > 0
    torch.testing.assert_close(held(x_0(), tiny_model), expected)


def test_every_item_of_a_batch_is_held_to_its_own(tiny_model: MusicModel) -> None:
    control = PerItem([LOUDNESS, MELODY])
    held = held_to_tags(control, (JAZZ, ROCK), 2.0, tiny_model)
    expected = control(x_0(), tiny_model) + 2.0 * pulls(tiny_model, JAZZ, ROCK)
    torch.testing.assert_close(held(x_0(), tiny_model), expected)
    some = held_to_tags(control, (JAZZ, Tags()), 2.0, tiny_model)
    expected[1] = control(x_0(), tiny_model)[1]
    torch.testing.assert_close(some(x_0(), tiny_model), expected)


@pytest.mark.parametrize("tags", [(), (Tags(),), (Tags(tempo=120.0),), (Tags(prompt="calm jazz"),)])
def test_what_says_too_little_pulls_nothing(
    tiny_model: MusicModel, tags: tuple[Tags, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clap, "load", lambda *_: pytest.fail("CLAP was loaded"))
    assert held_to_tags(LOUDNESS, tags, 1.0, tiny_model) is LOUDNESS


def test_where_clap_would_need_the_sound_nothing_is_pulled(tiny_model: MusicModel) -> None:
    class Latent(MusicModel):
        has_mel = False

    latent = Latent(**{name: getattr(tiny_model, name) for name in vars(replace(tiny_model))})
    assert held_to_tags(LOUDNESS, (JAZZ,), 1.0, latent) is LOUDNESS


def test_its_weight_is_that_of_the_terms() -> None:
    loudness, melody = Intensity.corrected.tag_pull, Melody.corrected.tag_pull
    assert tag_weight(None) == 0
    assert tag_weight(MELODY) == melody > 0
    assert tag_weight(PerItem([MELODY, MELODY])) == melody
    assert tag_weight(0.1 * Intensity("swell") + MELODY) == pytest.approx(
        (0.1 * loudness + melody) / 2
    )
    assert tag_weight(Structure("ABA")) == Structure.corrected.tag_pull > 0
    assert tag_weight(Structure("ABA") + Text("calm jazz")) == 0


def test_methods_tell_it_and_the_papers_have_none(student_model: MusicModel) -> None:
    def told(method: ditto.Ditto2, control: Control = MELODY) -> float:
        run = Run(Request(control, tags=Tags("jazz"), method=method), student_model)
        return run.request.to_dict()["method"]["tag_pull"]

    assert told(ditto.Ditto2()) == Melody.corrected.tag_pull
    assert told(ditto.Ditto2(tag_pull=0.7)) == 0.7
    assert told(ditto.Ditto2(corrections=0)) == 0


def test_a_clip_of_a_form_stays_what_its_tags_say() -> None:
    """The judge's ear, which nothing is optimised against."""
    model, judge = ditto.load(), Clap.load("weights/clap-judge")
    tags, form = Tags("ambient", "dark", 80.0), Structure("ABA")
    scores, errors = [], []
    for pull in (0.0, None):
        method = ditto.Ditto2(tag_pull=pull)
        clip = ditto.generate(model, form, tags=tags, seed=2, method=method)
        heard = judge.embed_audio(clip.audio, model.spec.sample_rate)
        scores.append((heard @ judge.embed_text([tags.caption()]).T).item())
        errors.append(clip.errors["structure_mse"].item())
    assert scores[1] > scores[0] + 0.2
    assert max(errors) < 0.04
