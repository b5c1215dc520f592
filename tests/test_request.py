"""Requests: defaults, refusals, JSON there and back."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import ditto
from ditto.controls.base import Control, Sum
from ditto.controls.beats import Beats, Hits
from ditto.controls.brightness import Brightness
from ditto.controls.chords import Chords, parse_chords
from ditto.controls.curves import Curve
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.per_item import PerItem
from ditto.controls.regions import Region, SelfLoop
from ditto.controls.structure import Structure, StructureLike
from ditto.controls.text import Text
from ditto.errors import ControlError, RequestError, TagError
from ditto.latents import Latent
from ditto.methods import METHODS, Method, make_method
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import CORRECTED_LR, CORRECTED_MOMENTUM, Ditto2
from ditto.methods.doodl import Doodl
from ditto.methods.guidance import FREEDOM_STRENGTH, FreeDoM, GuidanceGradients
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.request import Request, as_tags

SWELL = Intensity("swell")
MELODY = Melody.from_notes("C4:1 E4:0.5 R:1 G4:2", 97)


def test_controls_may_be_one_or_several() -> None:
    assert Request(SWELL).controls == Request([SWELL]).controls == (SWELL,)
    assert Request().controls == ()
    assert Request(SWELL) == Request((SWELL,))
    for wrong in ("crescendo", [SWELL, "ABA"], [None]):
        with pytest.raises(ControlError, match="is no control: give objects such as"):
            Request(wrong)  # pyright: ignore[reportArgumentType]


def test_several_controls_are_their_flat_sum() -> None:
    a, b, c = Intensity("swell"), Intensity("dip"), Intensity("steps")
    assert Request(a).control == a
    assert Request((a, b, c)).control == a + b + c
    assert Request((a / 40 + b, c)).control == a / 40 + b + c
    assert Request().control is None


def test_tags_may_be_an_object_a_mapping_or_text() -> None:
    expected = Tags("jazz", tempo=100)
    for tags in (expected, {"genre": "jazz", "tempo": 100}, "genre=jazz tempo=100"):
        assert as_tags(tags) == Request(tags=tags).tags == expected
    assert as_tags(None) == as_tags({}) == Tags()
    with pytest.raises(TagError, match="unknown tags mode, style: there are genre"):
        as_tags({"style": "jazz", "mode": 1})


# Defaults.


def test_a_model_without_a_student_takes_the_whole_chain_or_says_so(tiny_model: MusicModel) -> None:
    assert isinstance(Request(SWELL).resolved(tiny_model).method, Ditto)
    with pytest.raises(
        RequestError, match="'tiny' has no student, which ditto2 needs: choose the method ditto"
    ):
        Request(SWELL, method=Ditto2()).resolved(tiny_model)


@pytest.mark.parametrize("guidance", [0.5, 6.0])
def test_guidance_that_the_student_was_not_taught_is_refused(
    student_model: MusicModel, guidance: float
) -> None:
    with pytest.raises(
        RequestError, match=f"student knows guidance from 1 to 5, not {guidance:g}: choose ditto"
    ):
        Request(SWELL, guidance=guidance).resolved(student_model)


@pytest.mark.parametrize(("kind", "gamma"), [("cm", 1.0), ("ctm", 0.05)])
def test_gamma_is_that_of_the_students_kind(
    student_model: MusicModel, kind: str, gamma: float
) -> None:
    assert student_model.distilled is not None
    model = replace(student_model, distilled=replace(student_model.distilled, kind=kind))

    def described(method: Method | None) -> dict[str, Any]:
        return Request(SWELL, method=method).resolved(model).to_dict()["method"]

    assert described(None)["gamma"] == gamma
    assert described(Ditto2(gamma=0.1))["gamma"] == 0.1
    about = described(Ditto2(decode_steps=3, corrections=4))
    expected = {"gamma": gamma, "surrogate_steps": 1, "decode_steps": 3, "corrections": 4}
    assert about.items() >= expected.items()
    assert "gamma" not in described(Ditto())


def test_adams_settings_are_the_methods_unless_they_are_given(student_model: MusicModel) -> None:
    def adam(method: Method | None, iterations: int | None = None) -> tuple[float, float]:
        request = Request(SWELL, method=method, iterations=iterations).resolved(student_model)
        about = request.to_dict()["method"]
        return about["lr"], about["momentum"]

    assert adam(None) == (CORRECTED_LR, CORRECTED_MOMENTUM)
    assert adam(None, 200) == (pytest.approx(Intensity.corrected.travel / 200), CORRECTED_MOMENTUM)
    assert adam(Ditto()) == adam(Ditto2(corrections=0)) == (5e-3, 0.9)
    assert adam(Ditto2(lr=0.02, momentum=0.5)) == (0.02, 0.5)
    assert adam(Ditto2(momentum=0.5)) == (CORRECTED_LR, 0.5)
    assert adam(Ditto2(lr=0.02)) == (0.02, CORRECTED_MOMENTUM)


def test_adam_knows_the_controls_own_iterations(student_model: MusicModel) -> None:
    method = Request(MELODY).resolved(student_model).method
    assert isinstance(method, Ditto2)
    assert method.lr == pytest.approx(Melody.corrected.travel / Melody.corrected.iterations)


def test_strengths_are_the_methods_unless_they_are_given(tiny_model: MusicModel) -> None:
    def strength(method: Method) -> float | None:
        return Request(SWELL, method=method).resolved(tiny_model).to_dict()["method"]["strength"]

    assert strength(FreeDoM()) == FREEDOM_STRENGTH
    assert strength(FreeDoM(strength=0.2)) == 0.2
    assert strength(GuidanceGradients()) is None


def test_resolving_fills_in_everything_once(student_model: MusicModel) -> None:
    request = Request(MELODY)
    resolved = request.resolved(student_model)
    assert (resolved.guidance, resolved.iterations) == (1.5, 40)
    assert resolved.resolved(student_model) == resolved
    assert (request.guidance, request.iterations, request.method) == (None, None, None)


# Refusals.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": 2**31}, "seed"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"seed": "7"}, "seed must be a whole number"),
        ({"seed": None}, "seed must be a whole number"),
        ({"count": 0}, "count must be a whole number from 1"),
        ({"count": 1000}, "count"),
        ({"count": None}, "count"),
        ({"iterations": 0}, "iterations must be a whole number from 1 to 10000, not 0"),
        ({"iterations": 7.0}, "iterations must be a whole number"),
        ({"guidance": -1.0}, "guidance must be a number from 0 to 30, not -1"),
        ({"guidance": math.inf}, "guidance"),
        ({"guidance": "strong"}, "guidance must be a number from 0 to 30, not strong"),
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": math.nan}, "seconds"),
        ({"method": Ditto2}, "is no method: give an object such as"),
        ({"method": {"name": "ditto2"}}, "is no method: give an object such as"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        Request(**settings)
    assert len(str(caught.value).splitlines()) == 1


def test_numpys_numbers_are_welcome_and_become_plain() -> None:
    request = Request(
        seed=np.int64(3),  # pyright: ignore[reportArgumentType]
        count=np.uint8(2),  # pyright: ignore[reportArgumentType]
        iterations=np.int32(9),  # pyright: ignore[reportArgumentType]
        guidance=np.float32(1.5),  # pyright: ignore[reportArgumentType]
        seconds=np.float64(0.25),
    )
    assert json.loads(json.dumps(request.to_dict()))["guidance"] == 1.5
    kinds = [type(getattr(request, name)) for name in ("seed", "count", "iterations")]
    assert kinds == [int, int, int]
    assert type(request.guidance) is type(request.seconds) is float


@pytest.mark.parametrize("name", ["step", "iteration", "sampler_", "Seed"])
def test_a_misspelt_setting_is_a_type_error(name: str, tiny_model: MusicModel) -> None:
    for method in (None, "ditto", Ditto()):
        with pytest.raises(TypeError, match=name):
            Request(method=method, **{name: 3})
    with pytest.raises(TypeError, match=name):
        ditto.generate(tiny_model, **{name: 3})


def test_settings_beside_a_method_object_are_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"settings of a method are given to the method"):
        Request(SWELL, method=Ditto(), steps=4)


# JSON.


CONTROLS: list[Control] = [
    SWELL,
    Intensity("0:-30 0.4:-12", "correlation"),
    Intensity("dip", domain="mel"),
    MELODY,
    Structure("ABA"),
    Structure("A:2 B:1 A:2"),
    SWELL.during((0.1, 0.2), (0.3, 0.5)),
    MELODY.during((0.1, 0.3)),
    SWELL.during((0.1, 0.4)).during((0.2, 0.5)),
    (SWELL / 40 + MELODY).during((0.0, 0.4)),
    SWELL / 40 + Structure("ABA").during((0.0, 0.4)) + 2 * MELODY,
    Text("a calm jazz trio"),
]


@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_goes_to_json_and_back(control: Control) -> None:
    request = Request(control, "genre=jazz tempo=97.5", seed=4, count=2, seconds=0.4)
    again = Request.from_dict(json.loads(json.dumps(request.to_dict())))
    assert again.to_dict() == request.to_dict()
    (restored,) = again.controls
    assert type(restored) is type(control)
    assert restored.to_dict() == control.to_dict()
    assert again.tags == request.tags


LONG: list[Control] = [
    Melody.from_notes(" ".join(["C4:1/3 E4:0.7 R:1 G4:2"] * 60), 93.7),
    Beats(Hits(tuple((0.1 + i / 7, 1 - i / 1000) for i in range(300)))),
    Chords(parse_chords(" ".join(["C:1.3 Am:0.7 R:2"] * 60), 93.7, repeat=False)),
    Intensity(" ".join(f"{i / 7}:{-20 - i / 30}" for i in range(300))),
]


@pytest.mark.parametrize("control", LONG)
def test_a_song_s_controls_come_back_from_its_report_to_the_last_bit(control: Control) -> None:
    kept = json.loads(json.dumps(Request(control).to_dict()))
    (restored,) = Request.from_dict(kept).controls
    assert restored == control


@pytest.mark.parametrize(
    "control",
    [
        StructureLike(torch.zeros(16, 64)),
        Region.invert(torch.zeros(1, 16, 64)),
        SelfLoop(40, 12),
        Intensity(" ".join(f"{i / 20_000}:-20" for i in range(5000))),
    ],
)
def test_what_json_cannot_hold_is_said_or_left_out(control: Control) -> None:
    described = Request([control, SWELL]).to_dict()
    with pytest.raises(ControlError, match="cannot be restored from its description"):
        Request.from_dict(described)
    assert Request.from_dict(described, strict=False).controls == (SWELL,)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_to_json_and_back(name: str, student_model: MusicModel) -> None:
    for method in (make_method(name), make_method(name).resolve(student_model, 1.5, 70)):
        request = Request(SWELL, method=method, iterations=9, guidance=2.0)
        again = Request.from_dict(json.loads(json.dumps(request.to_dict())))
        assert again.method == method
        assert again == request
    assert Request.from_dict(Request(SWELL).to_dict()) == Request(SWELL)


def test_prompts_and_latents_are_named() -> None:
    about = Request(
        tags=Tags(prompt="a choir"), start=Latent(torch.zeros(1, 1, 2, 2), "")
    ).to_dict()
    assert about["tags"]["prompt"] == "a choir"
    assert about["start"] == "latent"
    assert "prompt" not in Request().to_dict()["tags"]
    assert "start" not in Request().to_dict()
    assert Request.from_dict(about).tags.prompt == "a choir"
    assert Request.from_dict(about).start is None


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        ({"seed": "x"}, RequestError),
        ({"tags": {"colour": "red"}}, RequestError),
        ({"method": {"name": "magic"}}, RequestError),
        ({"method": {"name": "ditto", "colour": 1}}, RequestError),
        ({"method": {"name": "ditto", "steps": "x"}}, RequestError),
        ({"method": ["ditto"]}, RequestError),
        ({"controls": "intensity (in full in the .json)"}, ControlError),
        ({"controls": [3]}, ControlError),
        ({"controls": [{"control": "intensity", "points": 80}]}, ControlError),
    ],
)
def test_a_damaged_report_is_one_line(damage: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        Request.from_dict(Request(SWELL).to_dict() | damage)
    assert len(str(caught.value).splitlines()) == 1


def test_a_sound_files_tag_with_controls_by_name_alone_still_gives_the_rest() -> None:
    about = Request(SWELL, seed=9, method=Ditto(steps=3)).to_dict()
    about |= {"controls": "intensity (in full in the .json)"}
    again = Request.from_dict(about, strict=False)
    assert again == Request(seed=9, method=Ditto(steps=3))


def test_a_beat_of_the_tags_survives_a_report() -> None:
    request = Request(SWELL, {"tempo": 110, "beat": 2.5})
    again = Request.from_dict(json.loads(json.dumps(request.to_dict())))
    assert again == request
    assert "beat" not in Request(SWELL, {"tempo": 110}).to_dict()["tags"]
    anywhere = Request(SWELL, {"tempo": 110, "beat": None})
    assert Request.from_dict(anywhere.to_dict()).tags.beat is None


def test_numbers_of_numpy_end_in_a_report() -> None:
    curve = Curve([[np.float32(0), np.float32(-30)], [np.float64(0.4), np.int64(-20)]])  # pyright: ignore[reportArgumentType]
    control = (Intensity(curve) * np.float32(2)).during((np.float32(0.1), np.float64(0.3)))  # pyright: ignore[reportArgumentType]
    melody = Melody.from_notes("C4:1", bpm=np.float32(100))  # pyright: ignore[reportArgumentType]
    tags = {"tempo": np.int64(110), "beat": np.float32(2)}
    request = Request([control, melody], tags, seed=np.int32(3), guidance=np.float32(2))  # pyright: ignore[reportArgumentType]
    again = Request.from_dict(json.loads(json.dumps(request.to_dict())))
    assert again == request
    assert hash(again) == hash(request)


def test_forms_and_controls_of_items_are_equal_and_hashed() -> None:
    request = Request(Structure("ABA"))
    assert Request.from_dict(request.to_dict()) == request
    assert hash(Request(PerItem([SWELL, SWELL]))) == hash(Request(PerItem((SWELL, SWELL))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda wrong: Request(wrong), "is no control"),
        (lambda wrong: Request(tags=wrong), "tags are a mapping, or text|unknown tags"),
        (lambda wrong: Request(tags={"tempo": wrong}), "tempo must be a number"),
        (lambda wrong: Request(tags={"beat": wrong}), "beat must be a number"),
        (lambda wrong: Request(start=wrong), "is no latent"),
        (lambda wrong: Request.from_dict([wrong]), "does not describe a request"),
        (lambda wrong: Request.from_dict({"controls": wrong}), "does not describe a request"),
        (lambda wrong: Intensity(wrong), "a loudness curve is needed, or its text, not"),
        (lambda wrong: Brightness(wrong), "a brightness curve is needed, or its text, not"),
        (lambda wrong: Intensity(Curve(wrong)), "a loudness curve needs"),
        (lambda wrong: Structure(wrong), "a structure is a form such as 'ABA', not"),
        (lambda wrong: Melody(wrong), "is no tune"),
        (lambda wrong: Melody.from_notes(wrong), "a melody is written as"),
        (lambda wrong: Melody.from_notes("C4:1", wrong), "bpm must be a number"),
        (lambda wrong: Text(wrong), "a text is needed, not"),
        (lambda wrong: SWELL.during(wrong), "a control counts during pairs of seconds"),
        (lambda wrong: SWELL.during((0, wrong)), "a control counts during pairs of seconds"),
        (lambda wrong: PerItem(wrong), "a control for each item is needed"),
        (lambda wrong: PerItem([wrong]), "is no control"),
        (lambda wrong: Sum(((SWELL, wrong),)), "weight must be a number"),
        (lambda wrong: Doodl(formulation=wrong), "doodl has no formulation"),
    ],
)
def test_values_of_a_wrong_type_are_refused_at_once(
    make: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(ditto.DittoError, match=message) as caught:
        make({1: [object()]} if "bpm" not in message else "fast")
    assert "\n" not in str(caught.value)


def test_no_tags_no_latent_and_no_weight_are_taken_for_one() -> None:
    with pytest.raises(ControlError, match="not one of brightness"):
        Intensity(Brightness("dark").curve)
    with pytest.raises(ControlError, match="not one of loudness"):
        Brightness(SWELL.curve)
    for weight in (math.nan, math.inf):
        with pytest.raises(ControlError, match="weight must be a number"):
            _ = SWELL * weight
    with pytest.raises(ControlError, match="divided by 0"):
        _ = SWELL / 0
    for wrong in ("3", None, [1]):
        with pytest.raises(TypeError):
            _ = SWELL + wrong  # pyright: ignore[reportOperatorIssue]
        with pytest.raises(TypeError):
            _ = SWELL / wrong  # pyright: ignore[reportOperatorIssue]
    with pytest.raises(TagError, match="beat must be a number, not inf"):
        Tags(tempo=110, beat=math.inf)


def test_a_whole_number_is_taken_for_a_real_one(student_model: MusicModel) -> None:
    for method in (Ditto2(momentum=0), Ditto(momentum=0, steps=2)):
        assert len(list(ditto.steps(student_model, SWELL, iterations=2, method=method))) == 2
    with pytest.raises(RequestError, match=r"from 0 to 2147483647, not -1"):
        Request(seed=-1)
