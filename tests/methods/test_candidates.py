from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.conftest import Command
from tests.methods.given import LOUDNESS, problem

from ditto.controls import Intensity
from ditto.diffusion.samplers import ddim
from ditto.errors import RequestError
from ditto.latents import draw_x_T
from ditto.methods import BestOf, Ditto, Ditto2, Method
from ditto.methods.candidates import search
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.runner import Run, run

CURVE = Intensity("0:-30 0.3:-12")
SHORT = {"seconds": 0.4, "seed": 5}


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
    assert '"candidate":' in Path("a.json").read_text(encoding="utf-8")
