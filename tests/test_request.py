"""Requests from end to end on a tiny model: determinism, batches, refusals, files."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ditto
from ditto.audio.io import read, read_tags
from ditto.controls.intensity import Intensity
from ditto.diffusion.samplers import Chain, ddim
from ditto.errors import ControlError, DittoError, OutputError, RequestError, TagError
from ditto.methods.ditto2 import CORRECTED_LR, CORRECTED_MOMENTUM, CORRECTED_WAY
from ditto.methods.guidance import FREEDOM_STRENGTH
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.optimize import tolerance
from ditto.request import Request, Result, draw_x_T, generate, output_files, run

SWELL = (Intensity("swell"),)
QUICK: dict[str, Any] = {"iterations": 5, "steps": 3, "lr": 0.05}


@pytest.fixture(scope="module")
def result(tiny_model: MusicModel) -> Result:
    """Two clips of 5 iterations."""
    return run(Request(SWELL, Tags("jazz", tempo=100), seed=7, count=2, **QUICK), tiny_model)


def test_what_a_result_holds(result: Result) -> None:
    assert result.x_T.shape == result.x_0.shape == (2, 1, 16, 64)
    assert result.audio.shape == (2, 4096)
    assert result.audio.abs().max() <= 1
    assert result.losses.shape == (5, 2)
    assert set(result.errors) == {"intensity_mse_db2", "intensity_rho"}
    assert not result.x_0.requires_grad
    assert not result.audio.requires_grad


def test_the_loss_falls_and_the_best_latent_is_decoded(result: Result) -> None:
    assert (result.losses.amin(dim=0) < result.losses[0]).all()
    # turning a clip down to full scale changes its error, so compare where none was
    decoded = result.request.controls[0](result.x_0, result.model)
    torch.testing.assert_close(decoded, result.losses.amin(dim=0), rtol=1e-4, atol=1e-4)


def test_errors_are_those_of_what_is_heard(result: Result) -> None:
    control, item = result.request.controls[0], 0
    audio = result.audio[item : item + 1]
    from ditto.controls.base import Output

    errors = control.errors(Output(result.x_0[item : item + 1], result.model, audio))
    torch.testing.assert_close(errors["intensity_mse_db2"], result.errors["intensity_mse_db2"][:1])


def test_two_runs_with_one_seed_are_identical(result: Result) -> None:
    again = run(result.request, result.model)
    assert torch.equal(again.audio, result.audio)
    assert torch.equal(again.losses, result.losses)
    assert torch.equal(again.x_T, result.x_T)


def test_other_seeds_give_other_clips(result: Result) -> None:
    assert not torch.allclose(result.audio[0], result.audio[1], atol=1e-3)


def test_a_correction_is_the_loss_of_what_would_be_decoded_then(student_model: MusicModel) -> None:
    settings = QUICK | {"iterations": 3, "corrections": 4, "gamma": 0.4, "decode_steps": 3}
    made = run(Request(SWELL, seed=7, **settings), student_model)
    # the last iteration began with a correction, and nothing came after it
    heard = SWELL[0](made.x_0, student_model)
    torch.testing.assert_close(heard, made.losses[-1], rtol=1e-4, atol=1e-4)


def test_corrections_take_the_embedded_models_output_nearer_to_the_curve() -> None:
    swell = Intensity("swell", domain="mel")
    made = [
        run(Request((swell,), seed=3, iterations=21, corrections=n), ditto.load()) for n in (0, 6)
    ]
    plain, corrected = (result.errors["intensity_mse_db2"].item() for result in made)
    assert corrected < 0.6 * plain


def test_adams_settings_for_corrections_take_the_embedded_model_nearer_than_the_papers() -> None:
    swell = Intensity("swell", domain="mel")
    for seed in (3, 4):
        ours, papers = (
            run(Request((swell,), seed=seed, iterations=21, **adam), ditto.load())
            .errors["intensity_mse_db2"]
            .item()
            for adam in ({}, {"lr": 5e-3, "momentum": 0.9})
        )
        assert ours < 0.6 * papers


def test_item_3_of_4_is_what_it_would_be_alone(tiny_model: MusicModel) -> None:
    batch = run(Request(SWELL, seed=7, count=4, **QUICK), tiny_model)
    alone = run(Request(SWELL, seed=10, **QUICK), tiny_model)
    assert torch.equal(draw_x_T((1, 16, 64), 7, 4)[3], draw_x_T((1, 16, 64), 10, 1)[0])
    torch.testing.assert_close(batch.losses[:, 3], alone.losses[:, 0], rtol=1e-4, atol=0)
    torch.testing.assert_close(batch.x_T[3], alone.x_T[0], rtol=1e-3, atol=1e-3)


def test_x_T_is_standard_normal_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    x_T = draw_x_T((1, 160, 512), 0, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert x_T.mean().item() == pytest.approx(0, abs=0.01)
    assert x_T.std().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_samplers_and_checkpointing(
    tiny_model: MusicModel, sampler: str, checkpointing: bool
) -> None:
    settings = QUICK | {"iterations": 2}
    made = run(Request(SWELL, sampler=sampler, checkpointing=checkpointing, **settings), tiny_model)
    assert made.losses[1] < made.losses[0]


@pytest.mark.parametrize(("controls", "method"), [((), "ditto"), (SWELL, "none")])
def test_without_control_nothing_is_optimised(
    tiny_model: MusicModel, controls: tuple, method: str
) -> None:
    made = run(Request(controls, method=method, seed=3, steps=3), tiny_model)  # pyright: ignore[reportArgumentType]
    assert torch.equal(made.x_T, draw_x_T((1, 16, 64), 3, 1))
    assert made.losses.shape == (0, 1)
    assert set(made.errors) == ({"intensity_mse_db2", "intensity_rho"} if controls else set())


def test_guidance_is_the_models_unless_it_is_given(tiny_model: MusicModel) -> None:
    def clip(**settings: Any) -> torch.Tensor:
        return run(Request(tags=Tags("jazz"), steps=2, **settings), tiny_model).x_0

    assert torch.equal(clip(), clip(guidance=1.5))
    assert not torch.equal(clip(), clip(guidance=0.0))


def test_the_length_may_be_chosen(tiny_model: MusicModel) -> None:
    made = run(Request(seconds=0.2, steps=2), tiny_model)
    assert made.audio.shape == (1, 26 * 64)


def test_several_controls_are_their_flat_sum() -> None:
    a, b, c = Intensity("swell"), Intensity("dip"), Intensity("steps")
    assert Request((a,)).objective == a
    assert Request((a, b, c)).objective == a + b + c
    assert Request((a / 40 + b, c)).objective == a / 40 + b + c
    assert Request().objective is None


def test_generate_takes_plain_words(tiny_model: MusicModel, result: Result) -> None:
    made = generate(
        tiny_model, SWELL[0], tags={"genre": "jazz", "tempo": 100}, seed=7, count=2, **QUICK
    )
    assert torch.equal(made.audio, result.audio)
    text = generate(tiny_model, tags="genre=jazz", steps=2)
    assert torch.equal(text.audio, generate(tiny_model, tags=Tags("jazz"), steps=2).audio)
    with pytest.raises(TagError, match="unknown tags style"):
        generate(tiny_model, tags={"style": "jazz"})
    with pytest.raises(TypeError, match="iteration"):
        generate(tiny_model, iteration=3)


# DITTO-2, on a student of random weights.


def render(model: MusicModel, x_T: torch.Tensor, steps: int) -> torch.Tensor:
    assert model.student is not None
    return ddim(
        Chain(
            model.student, model.schedule, model.schedule.timesteps(steps), model.cond(Tags()), 1.5
        ),
        x_T,
    )


@pytest.mark.parametrize("surrogate_steps", [1, 2])
def test_ditto2_optimises_and_decodes_through_the_student(
    student_model: MusicModel, surrogate_steps: int
) -> None:
    steps = {"surrogate_steps": surrogate_steps, "decode_steps": surrogate_steps}
    settings = QUICK | steps | {"gamma": 0.0, "corrections": 0}
    made = run(Request(SWELL, seed=7, **settings), student_model)
    assert made.request.method == "ditto2"
    loss = SWELL[0](render(student_model, made.x_T, surrogate_steps), student_model)
    torch.testing.assert_close(loss, made.losses.amin(dim=0))
    torch.testing.assert_close(
        made.x_0, render(student_model, made.x_T, surrogate_steps), rtol=1e-4, atol=1e-5
    )
    assert made.losses.amin() < made.losses[0]


@pytest.mark.parametrize(
    ("controls", "method", "expected"),
    [
        (SWELL, None, "ditto2"),
        (SWELL, "ditto", "ditto"),
        (SWELL, "none", "none"),
        ((), None, "none"),
    ],
)
def test_the_method_is_the_models_unless_it_is_given(
    student_model: MusicModel, tiny_model: MusicModel, controls: tuple, method: Any, expected: str
) -> None:
    request = Request(controls, method=method, **QUICK | {"iterations": 1})
    made = run(request, student_model)
    assert made.report()["request"]["method"] == expected
    if expected != "ditto2":  # the teacher, as if there were no student
        assert torch.equal(made.audio, run(request, tiny_model).audio) == (
            method is not None or not controls
        )


def test_a_model_without_a_student_takes_the_whole_chain_or_says_so(tiny_model: MusicModel) -> None:
    assert Request(SWELL).resolved(tiny_model).method == "ditto"
    with pytest.raises(
        RequestError, match="'tiny' has no student, which ditto2 needs: choose the method ditto"
    ):
        run(Request(SWELL, method="ditto2"), tiny_model)


@pytest.mark.parametrize("guidance", [0.5, 6.0])
def test_guidance_that_the_student_was_not_taught_is_refused(
    student_model: MusicModel, guidance: float
) -> None:
    with pytest.raises(
        RequestError, match=f"student knows guidance from 1 to 5, not {guidance:g}: choose ditto"
    ):
        run(Request(SWELL, guidance=guidance), student_model)


@pytest.mark.parametrize(("kind", "gamma"), [("cm", 1.0), ("ctm", 0.05)])
def test_gamma_is_that_of_the_students_kind(
    student_model: MusicModel, kind: str, gamma: float
) -> None:
    assert student_model.distilled is not None
    model = replace(student_model, distilled=replace(student_model.distilled, kind=kind))
    assert Request(SWELL).resolved(model).gamma == gamma
    assert Request(SWELL, gamma=0.1).resolved(model).gamma == 0.1
    described = Request(SWELL, decode_steps=3, corrections=4).resolved(model).describe()
    assert (
        described.items()
        >= {"gamma": gamma, "surrogate_steps": 1, "decode_steps": 3, "corrections": 4}.items()
    )
    assert "gamma" not in Request(SWELL, method="ditto").describe()


def test_adams_settings_are_the_methods_unless_they_are_given(student_model: MusicModel) -> None:
    corrected = Request(SWELL).resolved(student_model)
    assert (corrected.lr, corrected.momentum) == (CORRECTED_LR, CORRECTED_MOMENTUM)
    long = Request(SWELL, iterations=200).resolved(student_model)
    assert long.lr == pytest.approx(CORRECTED_WAY / 200)
    for request in (Request(SWELL, method="ditto"), Request(SWELL, corrections=0)):
        papers = request.resolved(student_model)
        assert (papers.lr, papers.momentum) == (5e-3, None)
        assert "momentum" not in papers.describe()
    given = Request(SWELL, lr=0.02, momentum=0.5).resolved(student_model)
    assert (given.lr, given.momentum) == (0.02, 0.5)
    assert given.describe().items() >= {"lr": 0.02, "momentum": 0.5}.items()


def test_the_momentum_is_adams(tiny_model: MusicModel) -> None:
    still, moved = (
        run(Request(SWELL, momentum=beta, **QUICK), tiny_model).losses for beta in (0.0, 0.9)
    )
    assert torch.equal(still[:2], moved[:2])  # Adam's first step is the same whatever β₁ is
    assert not torch.equal(still[2:], moved[2:])


def test_freedoms_strength_is_its_default_unless_it_is_given(tiny_model: MusicModel) -> None:
    assert (
        Request(SWELL, method="freedom").resolved(tiny_model).describe()["strength"]
        == FREEDOM_STRENGTH
    )
    assert (
        Request(SWELL, method="freedom", strength=0.2).resolved(tiny_model).describe()["strength"]
        == 0.2
    )
    assert Request(SWELL, method="gg").resolved(tiny_model).strength is None


def test_item_3_of_4_is_what_it_would_be_alone_with_the_noise_of_gamma(
    student_model: MusicModel,
) -> None:
    settings = QUICK | {"gamma": 0.5, "decode_steps": 3, "iterations": 2}
    batch = run(Request(SWELL, seed=7, count=4, **settings), student_model)
    alone = run(Request(SWELL, seed=10, **settings), student_model)
    torch.testing.assert_close(batch.x_0[3], alone.x_0[0], rtol=1e-3, atol=1e-4)
    assert torch.equal(run(Request(SWELL, seed=10, **settings), student_model).audio, alone.audio)
    still = run(Request(SWELL, seed=10, **settings | {"gamma": 0.0}), student_model)
    assert (still.x_0 - alone.x_0).abs().max() > 1e-2


def test_the_adaptive_budget_decodes_the_best_of_its_last_part(student_model: MusicModel) -> None:
    settings = {"iterations": 16, "lr": 0.3, "decode_steps": 4, "gamma": 0.0, "corrections": 0}
    made = run(Request(SWELL, seed=7, surrogate_steps="adaptive", **settings), student_model)  # pyright: ignore
    assert len(made.losses) == 16
    loss = SWELL[0](made.x_0, student_model)
    torch.testing.assert_close(loss, made.losses[-2:].amin(dim=0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("method", ["ditto", "ditto2"])
def test_tolerance_and_patience_end_a_run(student_model: MusicModel, method: Any) -> None:
    settings = QUICK | {"iterations": 8, "corrections": 0}
    full = run(Request(SWELL, method=method, **settings), student_model).losses
    level = full[2].item()
    short = run(Request(SWELL, method=method, tolerance=level, **settings), student_model)
    assert len(short.losses) == int((full <= level).nonzero()[0, 0]) + 1
    # with so small a step nothing falls by 1 %
    still = run(Request(SWELL, method=method, patience=2, **settings | {"lr": 1e-6}), student_model)
    assert len(still.losses) == 3
    described = still.report()["request"]
    assert described["patience"] == 2
    assert "tolerance" not in described


def test_watch_sees_every_step_and_stop_ends_it(tiny_model: MusicModel) -> None:
    seen = []
    request = Request(SWELL, **QUICK)
    full = run(request, tiny_model, watch=lambda step: seen.append(step.i))
    assert seen == [0, 1, 2, 3, 4]
    short = run(request, tiny_model, stop=tolerance(full.losses[2].item()))
    assert len(short.losses) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "unknown method 'magic': choose one of .*ditto"),
        ({"sampler": "euler"}, "unknown sampler 'euler': choose one of ddim"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": 2**31}, "seed"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"count": 0}, "count must be a whole number from 1"),
        ({"count": 1000}, "count"),
        ({"iterations": 0}, "iterations"),
        ({"steps": 0}, "steps"),
        ({"steps": 1001}, "steps must be a whole number from 1 to 1000, not 1001"),
        (
            {"surrogate_steps": 0},
            'surrogate_steps must be a whole number from 1 to 20, or "adaptive", not 0',
        ),
        ({"surrogate_steps": "many"}, "surrogate_steps"),
        ({"decode_steps": 21}, "decode_steps must be a whole number from 1 to 20"),
        ({"gamma": 1.1}, "gamma must be a number from 0 to 1"),
        ({"gamma": math.nan}, "gamma"),
        ({"tolerance": math.inf}, "tolerance"),
        ({"patience": 0}, "patience"),
        ({"lr": 0.0}, "lr must be a number"),
        ({"lr": math.nan}, "lr must be a number"),
        ({"momentum": 1.0}, "momentum must be a number from 0 to 0.999, not 1"),
        ({"momentum": -0.1}, "momentum must be a number"),
        ({"guidance": -1.0}, "guidance"),
        ({"guidance": math.inf}, "guidance"),
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": math.nan}, "seconds"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        Request(**settings)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (Request(tags=Tags("polka")), TagError, "polka"),
        (Request((Intensity("0:-30 2:-20"),)), ControlError, "the clip ends"),
        (Request(seconds=5.0), RequestError, "at most 0.51"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_any_work(
    tiny_model: MusicModel, request_: Request, error: type[DittoError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(request_, tiny_model, watch=lambda step: pytest.fail("work was begun"))


def test_saving_writes_sound_picture_and_report(result: Result, tmp_path: Path) -> None:
    paths = result.save(tmp_path / "clip.wav", 1)
    assert [path.name for path in paths] == ["clip.wav", "clip.png", "clip.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.json", "clip.png", "clip.wav"]
    sound = read(tmp_path / "clip.wav")
    assert sound.sample_rate == 8000
    np.testing.assert_allclose(sound.samples[0], result.samples(1), atol=1 / 32768)
    assert (tmp_path / "clip.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((tmp_path / "clip.json").read_text())
    assert report["request"]["seed"] == 8
    assert report["request"]["tags"] == {"genre": "jazz", "mood": None, "tempo": 100}
    assert report["model"] == {"name": "tiny", "sha256": "", "precision": "float32"}
    assert report["errors"]["intensity_mse_db2"] == pytest.approx(
        result.errors["intensity_mse_db2"][1].item(), rel=1e-4
    )
    assert report["loss"] == pytest.approx(result.losses[:, 1].tolist(), rel=1e-4)
    assert {"torch", "diffusers", "ditto"} <= set(report["versions"])


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg"])
def test_the_sound_files_tags_hold_the_request(result: Result, tmp_path: Path, ending: str) -> None:
    result.save(tmp_path / f"clip{ending}")
    tags = read_tags(tmp_path / f"clip{ending}")
    assert tags["title"] == "A jazz song at 100 beats per minute. Seed 7, ditto."
    assert tags["software"].startswith("ditto-music")
    kept = json.loads(tags["comment"])
    assert kept["request"] == result.report()["request"]
    assert kept["model"] == result.report()["model"]


def test_a_request_too_long_for_a_tag_is_shortened(tiny_model: MusicModel, tmp_path: Path) -> None:
    text = " ".join(f"{i * 0.007:.5f}:-{20 + i / 7:.6f}" for i in range(60))
    made = run(Request((Intensity(text),), iterations=1, steps=1), tiny_model)
    made.save(tmp_path / "clip.wav")
    assert json.loads(read_tags(tmp_path / "clip.wav")["comment"])["request"]["seed"] == 0
    assert (
        len(json.loads((tmp_path / "clip.json").read_text())["request"]["controls"][0]["points"])
        == 60
    )


@pytest.mark.parametrize("existing", ["clip.wav", "clip.png", "clip.json"])
def test_nothing_is_written_where_a_file_exists(
    result: Result, tmp_path: Path, existing: str
) -> None:
    (tmp_path / existing).write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        result.save(tmp_path / "clip.wav")
    assert [p.name for p in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"
    result.save(tmp_path / "clip.wav", force=True)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "name", ["clip.png", "clip.json", "clip", "clip.xyz", ".", "..", "", ".wav"]
)
def test_names_that_are_no_sound_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"must end in \.wav"):
        output_files(tmp_path / name if name not in ("", ".", "..") else name)
