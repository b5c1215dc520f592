"""Requests carried out on a tiny model: determinism, batches, K, methods, loops driven by hand."""

import pkgutil
from dataclasses import replace
from typing import Any

import pytest
import torch

import ditto
from ditto.controls.base import Control
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.output import Output
from ditto.controls.structure import Structure
from ditto.diffusion.samplers import Chain, ddim
from ditto.errors import ControlError, DittoError, RequestError, TagError
from ditto.latents import draw_x_T
from ditto.methods import Method
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import Ditto2
from ditto.methods.none import Uncontrolled
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.optimize import GradientError, Step, tolerance
from ditto.request import Request
from ditto.result import Result
from ditto.runner import Run, generate, run, steps

SWELL = Intensity("swell")
QUICK = Ditto(steps=3, lr=0.05)
FAST = Ditto2(lr=0.05)


def ditto2(**settings: Any) -> Ditto2:
    return replace(FAST, **settings)


@pytest.fixture(scope="module")
def result(tiny_model: MusicModel) -> Result:
    """Two clips of 5 iterations."""
    request = Request(SWELL, Tags("jazz", tempo=100), seed=7, count=2, iterations=5, method=QUICK)
    return run(request, tiny_model)


def test_the_loss_falls_and_the_best_latent_is_decoded(result: Result) -> None:
    assert (result.losses.amin(dim=0) < result.losses[0]).all()
    # Turning a clip down to full scale changes its error, so compare where none was.
    decoded = result.request.controls[0](result.x_0, result.model, seeds=result.seeds)
    torch.testing.assert_close(decoded, result.losses.amin(dim=0), rtol=1e-4, atol=1e-4)


def test_errors_are_those_of_what_is_heard(result: Result) -> None:
    control, audio = result.request.controls[0], result.audio[:1]
    errors = control.errors(Output(result.x_0[:1], result.model, audio))
    torch.testing.assert_close(errors["intensity_mse_db2"], result.errors["intensity_mse_db2"][:1])


def test_two_runs_with_one_seed_are_identical(result: Result) -> None:
    again = run(result.request, result.model)
    assert torch.equal(again.audio, result.audio)
    assert torch.equal(again.losses, result.losses)
    assert torch.equal(again.x_T, result.x_T)


def test_other_seeds_give_other_clips(result: Result) -> None:
    assert not torch.allclose(result.audio[0], result.audio[1], atol=1e-3)


def test_no_module_has_the_name_of_a_public_function(tiny_model: MusicModel) -> None:
    """An import of ``ditto.NAME`` would put the module in the function's place."""
    names = {module.name for module in pkgutil.iter_modules(ditto.__path__)}
    assert not names & set(dir(ditto))
    request = Request(method=Uncontrolled(steps=1))
    for _ in range(2):
        assert ditto.run(request, tiny_model).audio.shape == (1, 4096)


# K and driving the loop.


@pytest.mark.parametrize(
    ("controls", "papers", "corrected"),
    [
        (Melody.from_notes("C4:1 E4:1", 240), 150, 40),
        (Structure("ABA"), 150, 40),
        (SWELL, 70, 40),
        ([SWELL, Melody.from_notes("C4:1", 240)], 150, 70),
        ([SWELL / 40 + Structure("ABA")], 150, 70),
        (Structure("ABA").during((0.0, 0.4)), 150, 40),
    ],
)
@pytest.mark.parametrize("method", [Ditto2(corrections=0), Ditto2(corrections=1)])
@pytest.mark.parametrize("given", [None, 3])
def test_k_is_the_controls_own_by_every_door(
    student_model: MusicModel,
    tmp_path: Any,
    controls: Control | list[Control],
    papers: int,
    corrected: int,
    method: Ditto2,
    given: int | None,
) -> None:
    own = corrected if method.corrections else papers
    expected = own if given is None else given

    def first(step: Step) -> bool:
        return True

    request = Request(controls, iterations=given, method=method)
    assert Run(request, student_model).total == expected
    assert steps(student_model, controls, iterations=given, method=method).total == expected
    assert run(request, student_model, stop=first).request.iterations == expected
    made = generate(student_model, controls, iterations=given, method=method, stop=first)
    assert made.request.iterations == expected
    assert len(made.losses) == 1


@pytest.mark.parametrize("door", ["keywords", "request"])
def test_k_is_the_controls_own_in_edits_too(
    student_model: MusicModel, tmp_path: Any, door: str
) -> None:
    melody = Melody.from_notes("C4:1 E4:1", 120)
    sound = tmp_path / "song.wav"
    ditto.write(sound, 0.1 * torch.randn(1, 8000).numpy(), 8000)
    # A tolerance that every loss meets ends each window at its first step.
    settings: dict[str, Any] = {"controls": melody, "method": Ditto2(corrections=0, tolerance=1e9)}
    given: dict[str, Any] = settings
    if door == "request":
        given = {"request": Request(**settings)}
    for edit in (
        ditto.inpaint(student_model, sound, [(0.4, 0.6)], overlap=0.1, **given),
        ditto.outpaint(student_model, sound, 1.2, overlap=0.1, **given),
        ditto.loop(student_model, 0.3, overlap=0.1, **given),
    ):
        (part,) = edit.parts
        assert part.request.iterations == 150
        assert len(part.losses) == 1


def test_methods_without_iterations_have_none_to_count(student_model: MusicModel) -> None:
    assert Run(Request(SWELL, method=Uncontrolled(steps=2)), student_model).total == 0
    assert Run(Request(method=Ditto(steps=2)), student_model).total == 0


@pytest.mark.parametrize("method", [QUICK, ditto2(corrections=2)])
def test_driving_the_loop_by_hand_is_run(student_model: MusicModel, method: Method) -> None:
    settings: dict[str, Any] = {"seed": 7, "count": 2, "iterations": 4, "method": method}
    watched: list[Step] = []
    whole = run(Request(SWELL, **settings), student_model, watch=watched.append)
    by_hand = steps(student_model, SWELL, **settings)
    assert by_hand.total == 4
    seen = list(by_hand)
    for a, b in zip(seen, watched, strict=True):
        assert a.i == b.i
        assert torch.equal(a.loss, b.loss)
        assert torch.equal(a.best_x_T, b.best_x_T)
    assert torch.equal(by_hand.result().audio, whole.audio)
    assert torch.equal(by_hand.result().losses, whole.losses)
    assert by_hand.result().report()["request"] == whole.report()["request"]
    with pytest.raises(StopIteration):
        next(by_hand)


def test_a_result_midway_is_the_best_so_far_and_the_run_goes_on(tiny_model: MusicModel) -> None:
    # So large a step that the best is not the last.
    method = Ditto(steps=2, lr=0.7)
    settings: dict[str, Any] = {"seed": 7, "iterations": 8, "method": method}
    at = steps(tiny_model, SWELL, **settings)
    before = at.result()
    assert torch.equal(before.x_T, draw_x_T((1, 16, 64), 7, 1))
    assert before.losses.shape == (0, 1)
    *_, step = (next(at) for _ in range(4))
    midway = at.result()
    assert len(midway.losses) == 4
    assert torch.equal(midway.x_T, step.best_x_T)
    heard = SWELL(midway.x_0, tiny_model, seeds=midway.seeds)
    torch.testing.assert_close(heard, midway.losses.amin(dim=0), rtol=1e-4, atol=1e-3)
    assert len(list(at)) == 4
    assert torch.equal(at.result().audio, run(Request(SWELL, **settings), tiny_model).audio)
    assert at.result().timings["optimize"] > 0


def test_watch_sees_every_step_and_stop_ends_it(tiny_model: MusicModel) -> None:
    seen = []
    request = Request(SWELL, iterations=5, method=QUICK)
    full = run(request, tiny_model, watch=lambda step: seen.append(step.i))
    assert seen == [0, 1, 2, 3, 4]
    short = run(request, tiny_model, stop=tolerance(full.losses[2].item()))
    assert len(short.losses) == 3


def test_an_exception_in_watch_cancels(tiny_model: MusicModel) -> None:
    def watch(step: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Request(SWELL, iterations=5, method=QUICK), tiny_model, watch=watch)


# Batches, samplers, lengths.


def same(batch: Result, item: int, alone: Result) -> bool:
    """Whether an item of a batch is bit for bit the clip made alone, and its report too."""
    for name in ("x_T", "x_0", "audio"):
        if not torch.equal(getattr(batch, name)[item], getattr(alone, name)[0]):
            return False
    mine, its = batch.report(item), alone.report()
    return {**mine, "timings": {}} == {**its, "timings": {}}


@pytest.mark.parametrize(
    "method",
    [
        QUICK,
        ditto2(corrections=2),
        ditto2(gamma=0.5, decode_steps=3),
        replace(QUICK, tolerance=9.0),
    ],
)
def test_item_3_of_4_is_what_it_would_be_alone_to_the_bit(
    student_model: MusicModel, method: Method
) -> None:
    batch = run(Request(SWELL, seed=7, count=4, iterations=5, method=method), student_model)
    assert same(batch, 3, run(Request(SWELL, seed=10, iterations=5, method=method), student_model))


@pytest.mark.parametrize("method", [QUICK, FAST])
def test_five_together_are_five_alone_to_the_bit(student_model: MusicModel, method: Method) -> None:
    batch = run(Request(SWELL, seed=7, count=5, iterations=3, method=method), student_model)
    for item in range(5):
        request = Request(SWELL, seed=7 + item, iterations=3, method=method)
        assert same(batch, item, run(request, student_model))


def test_so_it_is_of_the_embedded_model_in_its_own_precision() -> None:
    model = ditto.load()
    requests: dict[str, Any] = {"controls": SWELL, "iterations": 2, "seconds": 1.0}
    batch = run(Request(seed=7, count=5, **requests), model)
    for item in range(5):
        assert same(batch, item, run(Request(seed=7 + item, **requests), model))


def test_an_early_stop_of_one_item_leaves_the_others_going(tiny_model: MusicModel) -> None:
    every = run(Request(SWELL, seed=7, count=2, iterations=6, method=QUICK), tiny_model)
    first = every.losses[:, 0].tolist()
    # Between the items' losses at the third step: the better one ends there, the other goes on.
    better, worse = sorted((0, 1), key=lambda i: every.losses[2, i].item())
    limit = (every.losses[2, better] + 1e-6).item()
    method = replace(QUICK, tolerance=limit)
    made = run(Request(SWELL, seed=7, count=2, iterations=6, method=method), tiny_model)
    assert len(made.curve(better)) <= 3 < len(made.curve(worse)), first
    assert made.report(better)["loss"] == pytest.approx(made.curve(better), rel=1e-4)


def test_a_seed_past_the_last_wraps(tiny_model: MusicModel) -> None:
    settings: dict[str, Any] = {"method": Uncontrolled(steps=2)}
    batch = run(Request(seed=2**31 - 1, count=2, **settings), tiny_model)
    assert same(batch, 1, run(Request(seed=0, **settings), tiny_model))


@pytest.mark.parametrize("bad", [(2,), (0, 2), (0, 1, 2)])
def test_an_item_whose_gradient_is_not_finite_does_not_end_the_others(
    tiny_model: MusicModel, bad: tuple[int, ...]
) -> None:
    class Fragile(Intensity):
        """A loss that is NaN from the third step of some items on."""

        calls = 0

        def loss(self, output: Output) -> torch.Tensor:
            step, item = divmod(Fragile.calls, 3)
            Fragile.calls += 1
            return super().loss(output) * (torch.nan if item in bad and step == 2 else 1.0)

    Fragile.calls = 0
    warned: list[str] = []
    made = run(
        Request(Fragile("swell"), count=3, iterations=3, method=QUICK),
        tiny_model,
        watch=lambda step: warned.extend(step.warnings),
    )
    assert [len(made.curve(i)) for i in range(3)] == [2 if i in bad else 3 for i in range(3)]
    assert torch.isfinite(made.audio).all()
    assert len(made.notes) == len(bad)
    assert "not finite" in made.report()["notes"][0]
    if len(bad) < 3:  # at the step after which none goes on, nobody watches any more
        assert [line.split()[1] for line in warned] == [str(i + 1) for i in bad]


def test_what_no_item_can_begin_is_an_error(tiny_model: MusicModel) -> None:
    class Broken(Intensity):
        def loss(self, output: Output) -> torch.Tensor:
            return super().loss(output) * torch.nan

    for count in (1, 2):
        with pytest.raises(GradientError, match="not finite"):
            run(Request(Broken("swell"), count=count, iterations=3, method=QUICK), tiny_model)


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_samplers_and_checkpointing(
    tiny_model: MusicModel, sampler: str, checkpointing: bool
) -> None:
    method = replace(QUICK, sampler=sampler, checkpointing=checkpointing)
    made = run(Request(SWELL, iterations=2, method=method), tiny_model)
    assert made.losses[1] < made.losses[0]


@pytest.mark.parametrize(
    ("controls", "method"), [((), Ditto(steps=3)), ((SWELL,), Uncontrolled(steps=3))]
)
def test_without_control_nothing_is_optimised(
    tiny_model: MusicModel, controls: tuple, method: Method
) -> None:
    made = run(Request(controls, method=method, seed=3), tiny_model)
    assert torch.equal(made.x_T, draw_x_T((1, 16, 64), 3, 1))
    assert made.losses.shape == (0, 1)
    assert set(made.errors) == ({"intensity_mse_db2", "intensity_rho"} if controls else set())


def test_guidance_is_the_models_unless_it_is_given(tiny_model: MusicModel) -> None:
    def clip(**settings: Any) -> torch.Tensor:
        request = Request(tags=Tags("jazz"), method=Uncontrolled(steps=2), **settings)
        return run(request, tiny_model).x_0

    assert torch.equal(clip(), clip(guidance=1.5))
    assert not torch.equal(clip(), clip(guidance=0.0))


def test_the_length_may_be_chosen(tiny_model: MusicModel) -> None:
    made = run(Request(seconds=0.2, method=Uncontrolled(steps=2)), tiny_model)
    assert made.audio.shape == (1, 26 * 64)


def test_generate_takes_plain_words(tiny_model: MusicModel, result: Result) -> None:
    made = generate(
        tiny_model,
        SWELL,
        tags={"genre": "jazz", "tempo": 100},
        seed=7,
        count=2,
        iterations=5,
        method=QUICK,
    )
    assert torch.equal(made.audio, result.audio)
    plain = Uncontrolled(steps=2)
    text = generate(tiny_model, tags="genre=jazz", method=plain)
    assert torch.equal(text.audio, generate(tiny_model, tags=Tags("jazz"), method=plain).audio)
    for door in (generate, steps):
        with pytest.raises(TagError, match="unknown tags style"):
            door(tiny_model, tags={"style": "jazz"})
        with pytest.raises(TypeError, match="iteration"):
            door(tiny_model, iteration=3)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (Request(tags=Tags("polka")), TagError, "polka"),
        (Request(Intensity("0:-30 2:-20")), ControlError, "the clip ends"),
        (Request(seconds=5.0), RequestError, "at most 0.51"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_any_work(
    tiny_model: MusicModel, request_: Request, error: type[DittoError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(request_, tiny_model, watch=lambda step: pytest.fail("work was begun"))


# DITTO-2, on a student of random weights.


def render(model: MusicModel, x_T: torch.Tensor, steps: int) -> torch.Tensor:
    assert model.student is not None
    grid = model.schedule.timesteps(steps)
    return ddim(Chain(model.student, model.schedule, grid, model.cond(Tags()), 1.5), x_T)


def test_a_correction_is_the_loss_of_what_would_be_decoded_then(student_model: MusicModel) -> None:
    method = ditto2(corrections=4, gamma=0.4, decode_steps=3)
    made = run(Request(SWELL, seed=7, iterations=3, method=method), student_model)
    # The last iteration began with a correction, and nothing came after it.
    heard = SWELL(made.x_0, student_model, seeds=made.seeds)
    torch.testing.assert_close(heard, made.losses[-1], rtol=1e-4, atol=1e-4)


def test_corrections_take_the_embedded_models_output_nearer_to_the_curve() -> None:
    swell = Intensity("swell", domain="mel")
    made = [
        run(Request(swell, seed=3, iterations=21, method=Ditto2(corrections=n)), ditto.load())
        for n in (0, 6)
    ]
    plain, corrected = (result.errors["intensity_mse_db2"].item() for result in made)
    assert corrected < 0.6 * plain


def test_adams_settings_for_corrections_take_the_embedded_model_nearer_than_the_papers() -> None:
    """In the mean of three seeds: of single ones, the student's first clip may be near already."""
    swell, model = Intensity("swell", domain="mel"), ditto.load()
    ours, papers = (
        sum(
            run(Request(swell, seed=seed, iterations=21, method=method), model)
            .errors["intensity_mse_db2"]
            .item()
            for seed in (3, 4, 5)
        )
        for method in (Ditto2(regulariser=0), Ditto2(lr=5e-3, momentum=0.9, regulariser=0))
    )
    assert ours < 0.6 * papers


@pytest.mark.parametrize("surrogate_steps", [1, 2])
def test_ditto2_optimises_and_decodes_through_the_student(
    student_model: MusicModel, surrogate_steps: int
) -> None:
    method = ditto2(
        surrogate_steps=surrogate_steps, decode_steps=surrogate_steps, gamma=0.0, corrections=0
    )
    made = run(Request(SWELL, seed=7, iterations=5, method=method), student_model)
    x_0 = render(student_model, made.x_T, surrogate_steps)
    loss = SWELL(x_0, student_model, seeds=made.seeds)
    torch.testing.assert_close(loss, made.losses.amin(dim=0))
    torch.testing.assert_close(made.x_0, x_0, rtol=1e-4, atol=1e-5)
    assert made.losses.amin() < made.losses[0]


@pytest.mark.parametrize(
    ("controls", "method", "expected"),
    [
        ((SWELL,), None, "ditto2"),
        ((SWELL,), QUICK, "ditto"),
        ((SWELL,), Uncontrolled(steps=3), "none"),
        ((), None, "none"),
    ],
)
def test_the_method_is_the_models_unless_it_is_given(
    student_model: MusicModel,
    tiny_model: MusicModel,
    controls: tuple,
    method: Method | None,
    expected: str,
) -> None:
    request = Request(controls, method=method, iterations=1)
    made = run(request, student_model)
    assert made.report()["request"]["method"]["name"] == expected
    if expected != "ditto2":  # the teacher, as if there were no student
        assert torch.equal(made.audio, run(request, tiny_model).audio)


def test_item_3_of_4_is_what_it_would_be_alone_with_the_noise_of_gamma(
    student_model: MusicModel,
) -> None:
    def made(gamma: float = 0.5, **settings: Any) -> Result:
        method = ditto2(gamma=gamma, decode_steps=3)
        return run(Request(SWELL, iterations=2, method=method, **settings), student_model)

    batch, alone = made(seed=7, count=4), made(seed=10)
    assert torch.equal(batch.x_0[3], alone.x_0[0])
    assert torch.equal(batch.audio[3], alone.audio[0])
    assert torch.equal(made(seed=10).audio, alone.audio)
    assert (made(gamma=0.0, seed=10).x_0 - alone.x_0).abs().max() > 1e-2


def test_the_adaptive_budget_decodes_the_best_of_its_last_part(student_model: MusicModel) -> None:
    method = Ditto2(surrogate_steps="adaptive", lr=0.3, decode_steps=4, gamma=0.0, corrections=0)
    made = run(Request(SWELL, seed=7, iterations=16, method=method), student_model)
    assert len(made.losses) == 16
    loss = SWELL(made.x_0, student_model, seeds=made.seeds)
    torch.testing.assert_close(loss, made.losses[-2:].amin(dim=0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("method", [QUICK, ditto2(corrections=0)])
def test_tolerance_and_patience_end_a_run(student_model: MusicModel, method: Any) -> None:
    def made(**settings: Any) -> Result:
        request = Request(SWELL, iterations=8, method=replace(method, **settings))
        return run(request, student_model)

    full = made().losses
    level = full[2].item()
    short = made(tolerance=level)
    assert len(short.losses) == int((full <= level).nonzero()[0, 0]) + 1
    # With so small a step nothing falls by 1 %.
    still = made(patience=2, lr=1e-6)
    assert len(still.losses) == 3
    described = still.report()["request"]["method"]
    assert (described["patience"], described["tolerance"]) == (2, None)


def test_the_momentum_is_adams(tiny_model: MusicModel) -> None:
    still, moved = (
        run(Request(SWELL, iterations=5, method=replace(QUICK, momentum=beta)), tiny_model).losses
        for beta in (0.0, 0.9)
    )
    assert torch.equal(still[:2], moved[:2])  # Adam's first step is the same whatever β₁ is
    assert not torch.equal(still[2:], moved[2:])
