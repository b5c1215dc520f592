"""Latents as files: what they hold, that they come back bit for bit, and what is refused."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ditto.controls.intensity import Intensity
from ditto.errors import OutputError, RequestError
from ditto.latents import Latent, draw_x_T, item_noise
from ditto.methods.ditto import Ditto
from ditto.methods.none import Uncontrolled
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.result import Result
from ditto.runner import run


@pytest.fixture(scope="module")
def result(tiny_model: MusicModel) -> Result:
    return run(
        Request(
            Intensity("swell"), Tags("jazz"), seed=3, count=2, iterations=3, method=Ditto(steps=2)
        ),
        tiny_model,
    )


def test_a_latent_comes_back_with_its_request(result: Result, tmp_path: Path) -> None:
    path = result.latent(1).save(tmp_path / "out.latent")
    again = Latent.load(path)
    assert torch.equal(again.x_T, result.x_T[1:])
    assert again.request == json.loads(json.dumps(result.report(1)["request"]))
    assert again.request["seed"] == 4
    assert again.name == "out.latent"


def test_starting_from_an_optimised_latent_goes_on_from_its_loss(
    result: Result, tiny_model: MusicModel
) -> None:
    again = run(replace(result.request, count=1, start=result.latent(0)), tiny_model)
    torch.testing.assert_close(
        again.losses[0, 0], result.losses.amin(dim=0)[0], rtol=1e-4, atol=1e-4
    )
    assert again.report()["request"]["start"] == "seed 3"
    plain = run(
        Request(tags=Tags("jazz"), start=result.latent(0), method=Uncontrolled(steps=2)), tiny_model
    )
    torch.testing.assert_close(plain.x_0[0], result.x_0[0], rtol=1e-4, atol=1e-4)


def test_a_latent_of_another_model_or_length_is_refused(
    result: Result, tiny_model: MusicModel
) -> None:
    with pytest.raises(RequestError, match="a latent of another model"):
        run(Request(start=replace(result.latent(), model="0123456789abcdef")), tiny_model)
    with pytest.raises(RequestError, match=r"a latent of 0\.51 s"):
        run(Request(start=result.latent(), seconds=0.3), tiny_model)


def test_files_that_are_no_latents_are_one_line(result: Result, tmp_path: Path) -> None:
    (tmp_path / "text.latent").write_text("no latent")
    (tmp_path / "empty.latent").touch()
    save_file({"x_T": torch.zeros(1, 1, 16, 64)}, tmp_path / "plain.latent")
    good = {"format": "ditto-latent-1", "model": "", "request": "{}"}
    save_file({"other": torch.zeros(1)}, tmp_path / "other.latent", good)
    save_file({"x_T": torch.full((1, 1, 16, 64), torch.nan)}, tmp_path / "nan.latent", good)
    save_file({"x_T": torch.zeros(2, 1, 16, 64)}, tmp_path / "two.latent", good)
    save_file({"x_T": torch.zeros(1, 1, 16, 64)}, tmp_path / "json.latent", good | {"request": "["})
    for path in [*sorted(tmp_path.glob("*.latent")), tmp_path / "missing.latent", tmp_path]:
        with pytest.raises(RequestError, match="latent") as caught:
            Latent.load(path)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(OutputError, match=r"must end in \.latent"):
        result.latent().save(tmp_path / "a.wav")
    with pytest.raises(OutputError, match="exists already"):
        result.latent().save(tmp_path / "text.latent")


def test_x_T_is_standard_normal_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    x_T = draw_x_T((1, 160, 512), 0, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert x_T.mean().item() == pytest.approx(0, abs=0.01)
    assert x_T.std().item() == pytest.approx(1, abs=0.01)


def test_item_3_of_4_begins_where_it_would_alone() -> None:
    assert torch.equal(draw_x_T((1, 16, 64), 7, 4)[3], draw_x_T((1, 16, 64), 10, 1)[0])


def test_a_models_own_noise_is_drawn_item_by_item() -> None:
    shapes = []

    def noise(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        shapes.append(tuple(shape))
        return torch.full(tuple(shape), float(generator.initial_seed()))

    assert draw_x_T((2, 3), 5, 2, noise)[:, 0, 0].tolist() == [5, 6]
    assert shapes == [(2, 3), (2, 3)]


def test_later_noise_is_each_items_own_and_not_that_of_x_T() -> None:
    batch, alone = item_noise((1, 4, 6), 7, 3), item_noise((1, 4, 6), 9, 1)
    first, second = batch(), batch()
    assert torch.equal(first[2], alone()[0])
    assert torch.equal(second[2], alone()[0])
    assert not torch.equal(first, second)
    assert not torch.equal(first[2], draw_x_T((1, 4, 6), 9, 1)[0])


def test_a_clip_from_a_short_latent_is_conditioned_on_its_own_length(
    tiny_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    cond = MusicModel.cond
    monkeypatch.setattr(
        MusicModel,
        "cond",
        lambda self, tags, batch=1, seconds=None: (
            asked.append(seconds) or cond(self, tags, batch, seconds)
        ),
    )
    latent = run(Request(seed=1, seconds=0.25), tiny_model).latent()
    run(Request(start=latent), tiny_model)
    assert asked == [0.25, pytest.approx(latent.x_T.shape[-1] * 64 / 8000)]
