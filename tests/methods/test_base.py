"""Methods as objects: names, settings and what they refuse, JSON, early stops, and their job on the
embedded model."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.methods.given import LOUDNESS, REGION, made, problem
from torch import Tensor

import ditto
from ditto.controls.base import Control
from ditto.controls.intensity import Intensity
from ditto.controls.regions import Region
from ditto.errors import DittoError, RequestError
from ditto.methods import METHODS, Method, make_method
from ditto.methods.base import OptimisingMethod, Problem, SamplingMethod, check_number
from ditto.methods.controlnet import MusicControlNet
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import Ditto2
from ditto.methods.doodl import Doodl
from ditto.methods.guidance import FreeDoM, GuidanceGradients
from ditto.methods.masking import MultiDiffusion, MultiDiffusion50, NaiveMasking
from ditto.methods.none import Uncontrolled
from ditto.models.model import MusicModel
from ditto.optimize import Step, tolerance
from ditto.request import Request
from ditto.runner import run

WORDS = {
    "surrogate_steps": "adaptive",
    "corrections": "every step",
    "keep": "decoded",
    "formulation": "invertible",
    "grid": "leading",
    "threshold": "dynamic",
    "hear": "sound",
    "tolerance": -0.5,
}
OPTIONAL = {"grid", "lr", "momentum", "tolerance", "patience", "gamma", "strength", "max_travel"}
OPTIONAL |= {"decode_steps"}
OWN_OPTIONAL = {
    "none": {"sampler"},
    "native": {"steps", "sampler"},
    "ditto2": {"candidates", "regulariser", "tag_pull"},
}


def changed(name: str) -> dict[str, Any]:
    """Settings of a method, none its default."""
    cls, values = METHODS[name], {}
    for field in dataclasses.fields(cls):
        low, high = cls.limits.get(field.name, (0, 1))
        if field.name == "sampler":
            values[field.name] = cls.samplers[-1] if issubclass(cls, SamplingMethod) else None
        elif field.name in WORDS:
            values[field.name] = WORDS[field.name]
        elif isinstance(field.default, bool):
            values[field.name] = not field.default
        else:
            # Near the lower end of the range, and no setting's default.
            whole = isinstance(low, int)
            values[field.name] = low + 2 if whole else low + 0.3 * min(high - low, 1.0)
    return values


def refused(name: str, settings: dict[str, Any]) -> str:
    with pytest.raises(RequestError) as caught:
        make_method(name, settings)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 250
    return str(caught.value)


def test_the_methods_and_which_of_them_optimise() -> None:
    assert next(iter(METHODS)) == "ditto2"
    optimising = {name for name, cls in METHODS.items() if issubclass(cls, OptimisingMethod)}
    assert optimising == {"ditto", "ditto2", "doodl"}
    assert optimising <= {name for name, cls in METHODS.items() if cls.optimises}
    for name, cls in METHODS.items():
        assert cls.name == name
        assert len(cls.summary.splitlines()) == 1
        assert set(cls.limits) <= {field.name for field in dataclasses.fields(cls)}


@pytest.mark.parametrize("name", METHODS)
def test_settings_go_to_json_and_back(name: str) -> None:
    for settings in ({}, changed(name)):
        method = make_method(name, settings)
        described = json.loads(json.dumps(method.to_dict()))
        assert described.pop("name") == name
        assert settings.items() <= described.items()
        assert make_method(name, described) == method
    assert replace(make_method(name), **changed(name)) == method


@pytest.mark.parametrize("name", METHODS)
def test_defaults_are_filled_in_once(name: str, whole_model: MusicModel) -> None:
    method = make_method(name).resolve(whole_model, 1.5, 70)
    assert method.resolve(whole_model, 1.5, 70) == method
    given = make_method(name, changed(name))
    assert given.resolve(whole_model, 1.5, 70) == given


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, cls in METHODS.items() for field in cls.limits]
)
def test_numbers_out_of_range_and_what_is_no_number_are_refused(name: str, field: str) -> None:
    low, high = METHODS[name].limits[field]
    whole = isinstance(low, int) and isinstance(high, int)
    kind = "whole number" if whole else "number"
    wrong: list[Any] = [low - 1, high + 1, float("nan"), float("inf"), 10**400]
    wrong += [True, np.True_, str(high), "many\nlines", [low], np.array([low, low]), object()]
    wrong += [low + 0.5, np.float32(low)] if whole else []
    for value in wrong:
        assert f"{field} must be a {kind} from {low:g} to {high:g}, not " in refused(
            name, {field: value}
        )
    for value in (low, high):
        assert getattr(make_method(name, {field: value}), field) == value


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, cls in METHODS.items() for field in cls.limits]
)
def test_numpys_numbers_are_welcome_and_become_plain(name: str, field: str) -> None:
    low, high = METHODS[name].limits[field]
    whole = isinstance(low, int) and isinstance(high, int)
    numbers = [np.int64(1), np.uint8(1)] + ([] if whole else [np.float32(0.5), np.float64(0.5)])
    for value in numbers:
        if not low <= value <= high:
            continue
        kept = getattr(make_method(name, {field: value}), field)
        assert kept == value
        assert type(kept) is (int if isinstance(value, np.integer) else float)


@pytest.mark.parametrize("name", METHODS)
def test_none_is_a_setting_only_where_it_means_the_default(name: str) -> None:
    for field in dataclasses.fields(METHODS[name]):
        own = OWN_OPTIONAL.get(name, set())
        if field.name in OPTIONAL | own and (name, field.name) != ("doodl", "grid"):
            assert getattr(make_method(name, {field.name: None}), field.name) is None
        else:
            assert "None" in refused(name, {field.name: None})


def test_words_are_checked_too() -> None:
    assert "ditto does not sample by euler: choose ddim or dpm++" in refused(
        "ditto", {"sampler": "euler"}
    )
    assert "ddpm" in refused("doodl", {"sampler": "ddpm"})
    assert "ddpm" in refused("md50", {"sampler": "ddpm"})
    assert "['ddim']" in refused("none", {"sampler": ["ddim"]})
    assert "checkpointing must be True or False, not yes" in refused(
        "ditto", {"checkpointing": "yes"}
    )
    assert "checkpointing must be True or False, not 1" in refused("ditto", {"checkpointing": 1})
    assert "no formulation magic: choose checkpointed or invertible" in refused(
        "doodl", {"formulation": "magic"}
    )
    for steps in (0, 21, 1.5, True, "many", "2", [1, 1], None):
        assert "surrogate_steps must be a whole number from 1 to 20" in refused(
            "ditto2", {"surrogate_steps": steps}
        )
    assert type(Ditto2(surrogate_steps=np.int64(2)).surrogate_steps) is int  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", METHODS)
def test_unknown_methods_and_settings_are_refused(name: str) -> None:
    fields = ", ".join(field.name for field in dataclasses.fields(METHODS[name]))
    assert f"the method {name} has no setting colour, step: it has {fields}" == refused(
        name, {"step": 3, "colour": 1}
    )
    assert f"unknown method 'magic': choose one of {', '.join(METHODS)}" == refused("magic", {})
    with pytest.raises(TypeError, match="colour"):
        METHODS[name](colour=1)  # pyright: ignore[reportCallIssue]


def test_a_checked_number_is_plain() -> None:
    for value in (3, np.int32(3)):
        assert type(check_number("x", value, 0, 9)) is int
    for value in (0.5, np.float32(0.5)):
        assert type(check_number("x", value, 0.0, 9.0)) is float
    with pytest.raises(RequestError, match=r"x must be a whole number from 0 to 9, not 10"):
        check_number("x", 10, 0, 9)


@pytest.mark.parametrize(
    ("method", "controls", "message"),
    [
        (NaiveMasking(), (LOUDNESS,), "masking takes one region to keep"),
        (MultiDiffusion(), (), "masking takes one region to keep"),
        (MultiDiffusion50(), (REGION, LOUDNESS), "masking takes one region to keep"),
        (FreeDoM(), (), "guides the sampling by a control: give one"),
        (GuidanceGradients(), (), "guides the sampling by a control: give one"),
        (GuidanceGradients(), (LOUDNESS,), "strength has a default for a single region only"),
        (MusicControlNet(), (REGION,), "a ControlNet takes one loudness curve"),
        (MusicControlNet(), (), "a ControlNet needs a loudness curve or a melody"),
    ],
)
def test_what_a_method_does_not_admit_is_refused_before_any_work(
    whole_model: MusicModel,
    method: Method,
    controls: tuple[Control, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(type(method), "decode", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(DittoError, match=message) as refused:
        run(Request(controls, method=method), whole_model)
    assert "\n" not in str(refused.value)


def test_item_1_of_2_is_what_it_would_be_alone(whole_model: MusicModel) -> None:
    # Not through the vocoder: its peaks jump, so that what is alike to the last bit but one need
    # not stay alike.
    for method, control in (
        (NaiveMasking(steps=4), REGION),
        (MultiDiffusion(steps=4), REGION),
        (FreeDoM(steps=4, sampler="ddpm"), REGION),
        (Doodl(steps=4, lr=0.05), REGION),
        (Uncontrolled(steps=4, sampler="ddpm"), LOUDNESS),
    ):
        both = made(whole_model, method, control)
        alone = made(whole_model, method, control, seed=6, count=1)
        torch.testing.assert_close(both.x_0[1:], alone.x_0, rtol=1e-2, atol=2e-3)


def test_the_report_names_the_settings_that_count(whole_model: MusicModel) -> None:
    about = made(whole_model, FreeDoM(steps=4, strength=0.2), LOUDNESS).report()["request"]
    assert about["method"] == {
        "name": "freedom",
        "steps": 4,
        "sampler": "ddim",
        "grid": None,
        "threshold": "static",
        "strength": 0.2,
        "time_travel": 3,
    }
    about = made(whole_model, Doodl(steps=4), LOUDNESS).report()["request"]
    assert about["iterations"] == 3
    assert about["method"].items() >= {"name": "doodl", "lr": 5e-3, "momentum": 0.9}.items()


def test_a_problem_without_control_or_student_says_so(tiny_model: MusicModel) -> None:
    with pytest.raises(ValueError, match="no control to follow"):
        problem(tiny_model).objective(torch.zeros(2, 1, 16, 64))
    with pytest.raises(RequestError, match="'tiny' has no student, which this method needs"):
        problem(tiny_model).student_chain(2)


def test_a_methods_stops_and_the_callers_all_count(tiny_model: MusicModel) -> None:
    seen: list[int] = []

    def stop(step: Step) -> bool:
        seen.append(step.i)
        return step.i == 3

    def count(**settings: Any) -> int:
        request = Request(LOUDNESS, iterations=6, method=Ditto(steps=1, lr=1e-6, **settings))
        return len(run(request, tiny_model, stop=stop).losses)

    assert count() == 4
    # With so small a step nothing falls by 1 %; the caller's stop sees the last step as well.
    seen.clear()
    assert count(patience=2) == 3
    assert seen == [0, 1, 2]
    assert count(tolerance=1e6) == 1


@dataclass(frozen=True, kw_only=True)
class Halving(OptimisingMethod):
    """Halves x_T a few times: a method of a user's own, in one class."""

    shrink: float = 0.5
    name = "halving"
    summary = "halves x_T"
    limits = OptimisingMethod.limits | {"shrink": (0.0, 1.0)}

    def optimise(self, x_T: Tensor, problem: Problem) -> Iterator[Step]:
        def steps() -> Iterator[Step]:
            x, chain = x_T, problem.chain(1)
            for i in range(problem.iterations):
                loss = problem.objective(chain.predict(x, chain.timesteps[0])).detach()
                yield Step(i, loss, x, loss, x)
                x = self.shrink * x

        return self.best(steps(), problem)

    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        chain = problem.chain(1)
        return chain.predict(x_T, chain.timesteps[0])


def test_a_method_of_ones_own_is_one_class(tiny_model: MusicModel) -> None:
    made = ditto.generate(tiny_model, LOUDNESS, method=Halving(), iterations=4)
    assert len(made.losses) == 4
    torch.testing.assert_close(LOUDNESS(made.x_0, tiny_model), made.losses.amin(dim=0))
    few = ditto.generate(
        tiny_model, LOUDNESS, method=Halving(), iterations=4, stop=tolerance(float("inf"))
    )
    assert len(few.losses) == 1
    with pytest.raises(RequestError, match="shrink must be a number from 0 to 1, not 2"):
        Halving(shrink=2)
    assert made.report()["request"]["method"]["name"] == "halving"


def test_each_does_its_job_on_the_embedded_model() -> None:
    model, curve = ditto.load(), Intensity("crescendo")
    settings: dict[str, Any] = {"seconds": 1.5, "guidance": 1.0}

    def errors(method: Method, control: Control, name: str) -> float:
        return run(Request(control, method=method, **settings), model).errors[name].item()

    plain = errors(Uncontrolled(steps=6), curve, "intensity_mse_db2")
    assert errors(FreeDoM(steps=12), curve, "intensity_mse_db2") < 0.5 * plain
    # With few steps EDICT's two chains drift apart.
    request = Request(
        curve, iterations=4, seconds=0.7, guidance=1.0, method=Doodl(lr=0.03, steps=16)
    )
    doodled = run(request, model)
    assert doodled.losses.min() < 0.7 * doodled.losses[0]
    clip = run(Request(seed=9, method=Uncontrolled(steps=6), **settings), model).x_0[0]
    region = Region.outpaint(clip, clip.shape[-1] // 3, clip.shape[-1])
    free = errors(Uncontrolled(steps=6), region, "outpaint_mse")
    assert errors(NaiveMasking(steps=6), region, "outpaint_mse") == 0
    assert errors(GuidanceGradients(steps=6), region, "outpaint_mse") == 0
    assert (
        errors(MultiDiffusion(steps=6), region, "outpaint_mse")
        < errors(MultiDiffusion50(steps=6), region, "outpaint_mse")
        < free
    )
