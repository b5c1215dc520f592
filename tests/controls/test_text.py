"""The text control: its score, its gradient, that optimising lowers its loss, and what it
refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.models.tiny_clap import make_clap, save_clap

from ditto import cli
from ditto.controls.intensity import Intensity
from ditto.controls.output import Output
from ditto.controls.text import Text
from ditto.errors import ControlError, ModelError
from ditto.methods.ditto import Ditto
from ditto.models.model import MusicModel
from ditto.runner import generate

CLAP = make_clap()


def x_0(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 1, 16, 64, generator=torch.Generator().manual_seed(0)) * 0.5


def test_the_loss_is_one_minus_the_cosine_of_the_two_embeddings(tiny_model: MusicModel) -> None:
    control = Text("a calm jazz song", CLAP)
    audio = CLAP.embed_audio(tiny_model.to_audio(x_0()), tiny_model.spec.sample_rate)
    text = CLAP.embed_text(["a calm jazz song"])
    expected = torch.nn.functional.cosine_similarity(audio, text)
    torch.testing.assert_close(control.error(x_0(), tiny_model)["clap_score"], expected)
    torch.testing.assert_close(control(x_0(), tiny_model), 1 - expected)


def test_the_loss_is_done_at_what_is_enough(tiny_model: MusicModel) -> None:
    """One clip of the two is there, and has no gradient; the other is not."""
    latent = x_0().requires_grad_(True)
    cosine = Text("a calm jazz song", CLAP).error(latent.detach(), tiny_model)["clap_score"]
    between = cosine.mean().item()
    loss = Text("a calm jazz song", CLAP, enough=between)(latent, tiny_model)
    torch.testing.assert_close(loss, (between - cosine).clamp(min=0))
    (gradient,) = torch.autograd.grad(loss.sum(), latent)
    assert [bool(each.any()) for each in gradient] == (cosine < between).tolist()
    assert sum(bool(each.any()) for each in gradient) == 1


def test_what_is_enough_is_known_of_the_embedded_clap_alone() -> None:
    other, own = Text("jazz", CLAP), Text("jazz", replace(CLAP, name="embedded"))
    assert (other.goal, own.goal) == (1.0, 0.75)
    assert (own.proxy().goal, Text("jazz", CLAP, enough=0.5).proxy().goal) == (0.75, 0.5)
    assert own.to_dict()["enough"] == 0.75
    assert Text.from_dict(own.to_dict()).enough == 0.75
    old = {name: value for name, value in own.to_dict().items() if name != "enough"}
    assert Text.from_dict(old).enough == 1  # a report of before


def test_gradients_reach_x_0_through_the_vocoder(tiny_model: MusicModel) -> None:
    latent = x_0().requires_grad_(True)
    loss = Text("a calm jazz song", CLAP)(latent, tiny_model)
    assert loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(loss.sum(), latent)
    assert torch.isfinite(gradient).all()
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()
    # A short step downhill lowers the loss by what the gradient says.
    step = 1e-2 * gradient / gradient.norm()
    lower = Text("a calm jazz song", CLAP)(latent.detach() - step, tiny_model).sum()
    assert (loss.sum() - lower).item() == pytest.approx(1e-2 * gradient.norm().item(), rel=0.2)


def test_optimising_lowers_the_loss_and_composes(tiny_model: MusicModel) -> None:
    result = generate(
        tiny_model,
        [Text("a calm jazz song", CLAP)],
        iterations=12,
        seed=3,
        method=Ditto(steps=2, lr=5e-2),
    )
    assert result.losses.min() < result.losses[0].item() - 1e-3
    both = generate(
        tiny_model,
        Text("loud rock", CLAP) + Intensity("0:-30 0.4:-20") / 40,
        iterations=2,
        seed=3,
        method=Ditto(steps=2),
    )
    assert set(both.errors) == {"clap_score", "intensity_mse_db2", "intensity_rho"}
    described = both.report()["request"]["controls"][0]["terms"][0]
    assert described["text"] == "loud rock"
    assert described["clap_sha256"] == CLAP.sha256


def test_words_that_clap_does_not_know_are_reported() -> None:
    assert Text("a calm kazoo song", CLAP).to_dict()["unknown_words"] == ["kazoo"]


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_text_is_refused_at_once(text: str) -> None:
    with pytest.raises(ControlError, match="the text is empty"):
        Text(text)


@pytest.mark.parametrize(
    ("text", "message"), [("x " * 5000, "shorten it"), ("穏やかなジャズ", "knows no word")]
)
def test_texts_that_clap_cannot_read_are_refused_before_the_work(
    tiny_model: MusicModel, text: str, message: str
) -> None:
    with pytest.raises(ControlError, match=message) as found:
        generate(tiny_model, [Text(text, CLAP)], iterations=1, method=Ditto(steps=1))
    assert "\n" not in str(found.value)


def test_a_folder_is_loaded_when_needed(tiny_model: MusicModel, tmp_path: Path) -> None:
    missing = Text("jazz", tmp_path)
    with pytest.raises(ModelError, match="no CLAP"):
        missing.check(tiny_model, 64)
    save_clap(tmp_path)
    found = Text("jazz", tmp_path)
    found.check(tiny_model, 64)
    assert found.panels(Output(x_0(), tiny_model), 0) == []
    assert found.to_dict()["clap"] == str(tmp_path)


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str]:
    """Exit code and standard error of ``ditto-music``."""
    monkeypatch.setattr("sys.argv", ["ditto-music", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "300")
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, capsys.readouterr().err


def test_the_command_line_takes_a_text_and_a_clap(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_clap(tmp_path / "clap")
    out = tmp_path / "out.wav"
    arguments = (
        "generate",
        "--model",
        model_folder,
        "--method",
        "ditto",
        "-K",
        2,
        "-T",
        2,
        "-o",
        out,
    )
    code, _ = command(
        monkeypatch, capsys, *arguments, "--text", "a calm kazoo song", "--clap", tmp_path / "clap"
    )
    assert code == 0
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["request"]["controls"][0]["unknown_words"] == ["kazoo"]
    assert -1 <= report["errors"]["clap_score"] <= 1
    for text in ("", "x " * 5000, "穏やかなジャズ"):
        code, error = command(
            monkeypatch, capsys, *arguments, "--force", "--text", text, "--clap", tmp_path / "clap"
        )
        assert (code, error.count("\n")) == (2, 1)
