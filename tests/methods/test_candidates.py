import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import Command
from tests.methods.given import LOUDNESS, problem

from ditto.audio.features import log_mel
from ditto.controls import Intensity
from ditto.diffusion.samplers import ddim
from ditto.edit.song import song
from ditto.errors import RequestError
from ditto.eval.kept import kept
from ditto.fleet.together import kind_of, run_together
from ditto.latents import draw_x_T, item_noise
from ditto.methods import BestOf, Ditto, Ditto2, FreeDoM, Method, Uncontrolled
from ditto.methods.candidates import search
from ditto.models.model import MusicModel
from ditto.optimize import Step, side_by_side
from ditto.request import Request
from ditto.result import Result
from ditto.runner import Run, run

CURVE = Intensity("0:-30 0.3:-12")
SHORT = {"seconds": 0.4, "seed": 5}
CHOOSING = Ditto2(candidates=6, decode_steps=2, gamma=0.05, lr=0.05)


def test_it_begins_where_the_search_ends(student_model: MusicModel) -> None:
    search = run(Request(CURVE, method=BestOf(count=6), **SHORT), student_model)
    method = Ditto2(candidates=6, hear="sound")
    first = next(iter(Run(Request(CURVE, method=method, iterations=1, **SHORT), student_model)))
    assert torch.equal(first.x_T, search.x_T)
    made = run(Request(CURVE, method=method, iterations=1, **SHORT), student_model)
    assert made.candidate is not None
    assert made.report()["candidate"] == made.candidate[0] == search.report()["candidate"]


def test_estimates_choose_the_start_by_one_step_and_without_the_vocoder(
    student_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = problem(student_model, CURVE)
    method = Ditto2(candidates=6, decode_steps=2, gamma=0.05).suited([CURVE])
    start = draw_x_T((1, 16, 64), 5, 2)
    noises = [found.x_T for found in search(start, given, method, 6)]
    chain = given.student_chain(2)
    chain = replace(chain, timesteps=chain.schedule.timesteps(1))
    with torch.no_grad():
        losses = [CURVE.proxy()(ddim(chain, x_T), student_model) for x_T in noises]
    best = torch.stack(losses).argmin(dim=0)
    assert best.any()  # or no search would do
    whole = MusicModel.to_audio
    heard: list[int] = []
    monkeypatch.setattr(
        MusicModel,
        "to_audio",
        lambda model, x_0, *more: heard.append(len(x_0)) or whole(model, x_0, *more),
    )
    step = next(method.optimise(start, replace(given, iterations=1)))
    assert not heard
    assert step.candidate is not None
    assert step.candidate.tolist() == best.tolist()
    for item, number in enumerate(best.tolist()):
        assert torch.equal(step.x_T[item], noises[number][item])


def test_the_number_says_which_noise_it_was(student_model: MusicModel) -> None:
    given = problem(student_model, LOUDNESS)
    x_T, decoder = draw_x_T((1, 16, 64), 5, 2), Ditto2(gamma=0.05, decode_steps=2)
    found = list(search(x_T, given, decoder, 5))
    draw = given.new_noise()
    for _ in range(2):
        draw()
    noises = [x_T, *(draw() for _ in range(4))]
    # Two clips of one batch have one candidate at a time.
    assert [one.number.tolist() for one in found] == [[i, i] for i in range(5)]
    for one, noise in zip(found, noises, strict=True):
        assert torch.equal(one.x_T, noise)
        torch.testing.assert_close(one.loss, given.objective(decoder.decode(noise, given), noise))


@pytest.mark.parametrize("method", [Ditto2(candidates=4), Ditto(steps=2, candidates=4)])
def test_item_1_of_2_is_what_it_would_be_alone(student_model: MusicModel, method: Method) -> None:
    both = run(Request(CURVE, count=2, iterations=2, method=method, **SHORT), student_model)
    alone = run(Request(CURVE, seed=6, seconds=0.4, iterations=2, method=method), student_model)
    again = run(Request(CURVE, seed=6, seconds=0.4, iterations=2, method=method), student_model)
    assert torch.equal(alone.x_T, again.x_T)
    torch.testing.assert_close(both.x_T[1:], alone.x_T, atol=1e-4, rtol=1e-4)
    assert both.report(1)["candidate"] == alone.report()["candidate"]


def test_without_a_student_ditto_decodes_its_own_chain(tiny_model: MusicModel) -> None:
    method = Ditto(steps=2, candidates=5)
    begun = next(iter(Run(Request(CURVE, method=method, iterations=1, **SHORT), tiny_model)))
    plain = replace(method, candidates=1)
    own = next(iter(Run(Request(CURVE, method=plain, iterations=1, **SHORT), tiny_model)))
    assert begun.candidate is not None
    assert own.candidate is None
    assert begun.loss <= own.loss


def test_it_is_off_by_default_and_wants_no_latent(student_model: MusicModel) -> None:
    made = run(Request(CURVE, iterations=1, **SHORT), student_model)
    assert made.candidate is None
    assert "candidate" not in made.report()
    start = made.latent()
    # The tiny model was never saved, so that its latents fit any such model.
    request = Request(CURVE, start=start, method=Ditto2(candidates=3), iterations=1)
    with pytest.raises(RequestError, match="begins from a latent: leave one out"):
        run(request, student_model)
    with pytest.raises(RequestError, match="candidates must be a whole number from 1 to 100000"):
        Ditto2(candidates=0)
    assert Request.from_dict(made.report()["request"]).method == made.request.method


def test_its_option(ditto_music: Command, model_folder: Path) -> None:
    base = "generate", "--model", model_folder, "--loudness", "swell", "-K", 1
    code, _, error = ditto_music(*base, "--candidates", 3, "-T", 2, "-o", "a.wav")
    assert code == 0, error
    report = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert "candidate" not in report["request"]
    number, words = report["candidate"], f"the clip of candidate {report['candidate']} without"
    assert words in error
    code, _, error = ditto_music(*base, "--candidate", number, "-T", 2, "-o", "b.wav")
    assert code == 0, error
    assert words in error
    assert Path("b.wav").read_bytes()[-4000:] == Path("a.wav").read_bytes()[-4000:]
    assert ditto_music("again", "b.json", "--model", model_folder, "-o", "c.wav")[0] == 0


def noise_of(seed: int, number: int, model: MusicModel) -> torch.Tensor:
    """A candidate of a clip of `SHORT` by hand: fresh noise, after that of two steps' decoding."""
    shape = model.shape(0.4)
    if not number:
        return draw_x_T(shape, seed, 1)
    draw = item_noise(shape, seed, 1)
    return [draw() for _ in range(2 + number)][-1]


def without(made: Result, item: int = 0) -> torch.Tensor:
    """The sound, (1, samples), of the noise that an item began at, decoded by hand."""
    assert made.candidate is not None
    seed, model = made.request.seed + item, made.model
    x_T = noise_of(seed, int(made.candidate[item]), model)
    given = problem(model, CURVE, seed=seed, count=1)
    given = replace(given, new_noise=lambda: item_noise(x_T.shape[1:], seed, 1))
    return model.to_audio(CHOOSING.decode(x_T, given), (seed,))


@torch.no_grad()
def test_what_is_kept_is_of_the_chosen_noises_clip(
    student_model: MusicModel, tmp_path: Path
) -> None:
    request = Request(CURVE, iterations=3, method=CHOOSING, **SHORT | {"seed": 6})
    made = run(request, student_model)
    assert made.candidate is not None
    number = int(made.candidate)
    assert number  # or the clip would be of the seed's own noise
    plain, spec = without(made), student_model.spec
    assert made.kept is not None
    torch.testing.assert_close(made.kept.mel, log_mel(plain, spec), atol=1e-4, rtol=0)
    expected = kept(made.audio, plain, spec)
    assert made.kept.uncontrolled_onsets.tolist() == expected.uncontrolled_onsets.tolist()
    assert made.kept.alike is not None
    assert expected.alike is not None
    assert made.kept.alike.item() == pytest.approx(expected.alike.item(), abs=1e-4)
    np.testing.assert_allclose(made.uncontrolled(), plain[0, : made.samples().size], atol=1e-5)
    # What the seed's own noise gives is another clip.
    own = run(replace(request, method=replace(CHOOSING, candidates=1)), student_model)
    assert own.kept is not None
    assert (own.kept.mel - made.kept.mel).abs().mean() > 0.01
    assert own.candidate is None
    assert "candidate" not in own.kept.words()
    made.save(tmp_path / "a.wav")
    report = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert report["kept"]["candidate"] == report["candidate"] == number
    assert f"the clip of candidate {number} without control" in report["kept"]["words"]
    assert "candidate" not in report["request"]


@torch.no_grad()
def test_every_item_is_compared_with_what_it_chose(student_model: MusicModel) -> None:
    request = Request(CURVE, count=3, iterations=2, method=CHOOSING, **SHORT)
    made = run(request, student_model)
    assert made.candidate is not None
    assert len(set(made.candidate.tolist())) > 1
    for item in range(3):
        alone = run(replace(request, seed=5 + item, count=1), student_model)
        assert alone.report()["kept"] == made.report(item)["kept"]
        np.testing.assert_allclose(
            made.uncontrolled(item), without(made, item)[0, : made.samples().size], atol=1e-4
        )


@pytest.mark.usefixtures("together")
def test_so_is_every_item_of_requests_made_together(student_model: MusicModel) -> None:
    requests = [
        Request(CURVE, iterations=2, method=CHOOSING, **SHORT | {"seed": seed}) for seed in (9, 5)
    ]
    for request, made in zip(requests, run_together(requests, student_model), strict=True):
        alone = run(request, student_model)
        assert made.report()["candidate"] == alone.report()["candidate"]
        assert made.kept is not None
        assert alone.kept is not None
        assert made.kept.words() == alone.kept.words()
        torch.testing.assert_close(made.kept.mel, alone.kept.mel, atol=1e-3, rtol=0)
    assert kind_of(replace(requests[0], candidate=1), student_model) is None


def test_a_clip_begins_at_a_candidate_that_is_given(student_model: MusicModel) -> None:
    request = Request(CURVE, count=2, iterations=2, method=CHOOSING, **SHORT)
    for item in range(2):
        chosen = run(replace(request, count=1, seed=5 + item), student_model)
        number = chosen.report()["candidate"]
        begun = replace(
            request,
            count=1,
            seed=5 + item,
            candidate=number,
            method=replace(CHOOSING, candidates=None),
        )
        made = run(begun, student_model)
        assert np.array_equal(made.samples(), chosen.samples())
        assert made.report()["kept"] == chosen.report()["kept"]
        assert made.report()["request"]["candidate"] == made.report()["candidate"] == number
        again = run(Request.from_dict(made.report()["request"]), student_model)
        assert np.array_equal(again.samples(), chosen.samples())
        # Without the control it is the clip that this one was compared with.
        plain = run(replace(begun, controls=()), student_model)
        assert np.array_equal(plain.samples(), chosen.uncontrolled())
    both = run(replace(request, candidate=4, method=replace(CHOOSING, candidates=1)), student_model)
    for item in range(2):
        torch.testing.assert_close(
            both.losses[:1, item : item + 1],
            run(replace(both.request, seed=5 + item, count=1, iterations=1), student_model).losses,
        )


def test_other_methods_have_the_candidates_of_the_students_own_steps(
    student_model: MusicModel,
) -> None:
    x_T = noise_of(5, 3, student_model)
    assert student_model.distilled is not None
    assert student_model.distilled.steps == 2
    for method in (Uncontrolled(), Ditto(steps=2), Ditto2(decode_steps=2)):
        assert torch.equal(
            Run(Request(candidate=3, method=method, **SHORT), student_model).x_T, x_T
        )
    # Without a student no noise is for its decoding.
    model = replace(student_model, distilled=None)
    draw = item_noise(model.shape(0.4), 5, 1)
    first = draw()
    assert torch.equal(Run(Request(candidate=1, method=Ditto(steps=2), **SHORT), model).x_T, first)


@pytest.mark.parametrize("method", [Uncontrolled(steps=9, sampler="ddpm"), FreeDoM(steps=9)])
@pytest.mark.parametrize("count", [1, 2])
def test_a_samplers_noise_is_never_the_candidate_it_began_with(
    student_model: MusicModel, method: Method, count: int
) -> None:
    controls = () if isinstance(method, Uncontrolled) else CURVE
    for model in (student_model, replace(student_model, distilled=None)):
        for number in range(1, 5):
            request = Request(controls, candidate=number, count=count, method=method, **SHORT)
            made = Run(request, model)
            draw, alone = made.problem.new_noise(), made.problem.alone(0).new_noise()
            for _ in range(20):
                fresh = draw()
                assert torch.equal(alone(), fresh[:1])
                assert (fresh - made.x_T).abs().max() > 1
        # Where it begins with the first, its noise is what it is by default.
        first = Run(replace(request, candidate=0), model).problem.new_noise()
        assert torch.equal(
            first(), Run(replace(request, candidate=None), model).problem.new_noise()()
        )


def test_windows_begin_at_candidates_of_their_own(student_model: MusicModel) -> None:
    method = Ditto2(candidates=6)
    controlled = song(
        student_model, 1.2, controls=CURVE, seed=5, iterations=1, overlap=0.1, method=method
    )
    numbers = [part.about["candidate"] for part in controlled.parts]
    assert len(numbers) > 2
    assert any(numbers)
    again = song(
        student_model,
        1.2,
        controls=CURVE,
        seed=5,
        iterations=1,
        overlap=0.1,
        method=replace(method, candidates=1),
        candidate=numbers,
    )
    np.testing.assert_array_equal(again.samples, controlled.samples)
    assert json.loads(json.dumps(again.request.to_dict()))["candidate"] == numbers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidate": -1}, "candidate must be a whole number from 0 to 99999, not -1"),
        ({"candidate": "2"}, "candidate must be a whole number"),
        ({"candidate": [1, 0.5]}, "candidate must be a whole number"),
        ({"candidate": [1, 2]}, "candidates of several windows go with an edit or a song"),
        ({"candidate": 1, "method": Ditto2(candidates=2)}, "candidates are to choose from"),
    ],
)
def test_what_is_no_candidate_is_refused(
    student_model: MusicModel, settings: dict, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        run(Request(CURVE, **settings), student_model)


def test_a_latent_has_no_candidates(student_model: MusicModel) -> None:
    start = run(Request(method=Uncontrolled(steps=1)), student_model).latent()
    with pytest.raises(RequestError, match="a candidate is a noise, and this begins from a latent"):
        run(Request(start=start, candidate=1), student_model)


def test_an_item_that_failed_at_once_is_beside_others_as_it_was_drawn() -> None:
    loss, drawn, chosen = torch.zeros(1), torch.zeros(1, 2), torch.ones(1, 2)
    failed = Step(0, loss, drawn, loss, drawn)
    fine = Step(0, loss, 2 * chosen, loss, 2 * chosen, candidate=torch.tensor([3]), begun=chosen)
    both = side_by_side([failed, fine])
    assert both.candidate is not None
    assert both.candidate.tolist() == [0, 3]
    assert both.begun is not None
    assert both.begun.tolist() == [[0, 0], [1, 1]]
    assert side_by_side([failed, failed]).begun is None
