"""What must hold of every adapted rectified flow: controls, students, edits, folders, options."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import Command
from tests.models.adapters.tiny_flows import make_ace_step, make_stable_audio_3
from tests.models.adapters.tiny_pipelines import PROMPT, noise_of
from tests.models.tiny_clap import make_clap

from ditto.controls.base import Control
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.regions import Region
from ditto.controls.structure import Structure
from ditto.controls.text import Text
from ditto.edit.edits import inpaint, outpaint
from ditto.edit.variations import invert, vary
from ditto.errors import ModelError, OutOfMemoryError, RequestError
from ditto.methods import METHODS as EVERY
from ditto.methods import (
    BestOf,
    Ditto,
    Ditto2,
    Doodl,
    FreeDoM,
    GuidanceGradients,
    Method,
    MultiDiffusion,
    MultiDiffusion50,
    MusicControlNet,
    NaiveMasking,
    NativeInpainting,
)
from ditto.methods.masking import MaskingMethod
from ditto.methods.none import Uncontrolled
from ditto.models import profile
from ditto.models.adapters.flow import FlowModel
from ditto.models.conditioning import Tags
from ditto.models.hub import adapt, load
from ditto.models.profile import describe_model, estimate_cost
from ditto.request import Request
from ditto.result import Result
from ditto.runner import run

MAKERS = {"stable_audio_3": make_stable_audio_3, "ace_step": make_ace_step}
FRAMES = 40
CLAP = make_clap()


def shortened(model: Any) -> FlowModel:
    return replace(model, spec=replace(model.spec, clip_frames=FRAMES), checkpointing=False)


@pytest.fixture(scope="module", params=MAKERS)
def model(request: pytest.FixtureRequest) -> FlowModel:
    """The few-step checkpoint of each kind."""
    return shortened(adapt(MAKERS[request.param]()))


@pytest.fixture(scope="module", params=MAKERS)
def base(request: pytest.FixtureRequest) -> FlowModel:
    """The base of each kind."""
    return shortened(adapt(MAKERS[request.param](base=True)))


def controls(model: FlowModel) -> dict[str, Control]:
    """One of each kind; the region's reference is of the model's own latent."""
    second = model.spec.clip_seconds
    reference = 0.3 * noise_of(model, 11)[0]
    return {
        "loudness": Intensity(f"0:-20 {second / 2:.2f}:-45 {second:.2f}:-25"),
        "melody": Melody.from_notes("C5:0.5 E5:0.5", bpm=60 / second),
        "form": Structure("ABA"),
        "text": Text("a calm jazz song", CLAP),
        "region": Region.inpaint(reference, ((FRAMES // 3, 2 * FRAMES // 3),)),
    }


METHODS = {
    "ditto": Ditto(steps=2, lr=0.15, checkpointing=False),
    "ditto2": Ditto2(decode_steps=2, corrections=2, lr=0.15, regulariser=0.0),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("control", ["loudness", "melody", "form", "text", "region"])
def test_every_control_falls_in_20_iterations(model: FlowModel, method: str, control: str) -> None:
    falls(model, control, METHODS[method], guidance=1.0)


@pytest.mark.parametrize("control", ["loudness", "melody", "form", "text", "region"])
def test_every_control_of_a_guided_base_falls_too(base: FlowModel, control: str) -> None:
    falls(base, control, METHODS["ditto"], guidance=4.0)


def falls(model: FlowModel, control: str, method: Any, guidance: float) -> None:
    """The loss of what is decoded, not of a surrogate, falls by 2 % or more."""
    wanted = controls(model)[control]
    asked = Request(wanted, PROMPT, seed=4, guidance=guidance, iterations=20, method=method)
    plain = replace(asked, method=Uncontrolled(steps=2))
    made = [run(one, model).x_0 for one in (plain, asked)]
    with torch.no_grad():
        before, after = (wanted(x_0, model).item() for x_0 in made)
    assert after < before - 0.02 * abs(before)


def test_ditto2_takes_a_few_step_model_as_its_own_student(model: FlowModel) -> None:
    method = Request(controls(model)["loudness"], PROMPT).resolved(model).method
    assert isinstance(method, Ditto2)
    assert (method.decode_steps, method.gamma) == (8, 0.0)
    with torch.no_grad():
        x_T = noise_of(model, 0)
        t, cond = torch.tensor([model.schedule.timesteps(1)[0]]), model.cond(PROMPT)
        assert model.student is not None
        ours, theirs = (f(x_T, t, cond, 1.0) for f in (model.student, model.denoiser))
    assert torch.equal(ours, theirs)


def test_x_T_decides_what_its_own_student_decodes_and_gamma_one_is_refused(
    model: FlowModel,
) -> None:
    """With γ = 0 another x_T is another clip; with γ = 1 nothing of it is left."""
    asked = Request(controls(model)["loudness"], PROMPT, iterations=1)
    with pytest.raises(RequestError, match="gamma 1 in 8 steps forgets x_T"):
        run(replace(asked, method=Ditto2(gamma=1.0)), model)
    two = [run(Request((), PROMPT, seed=seed, method=Ditto2()), model).x_0 for seed in (1, 2)]
    assert (two[0] - two[1]).square().mean().sqrt() > 0.5 * two[0].std()


def test_makers_students_are_not_distilled_again(model: FlowModel) -> None:
    with pytest.raises(ModelError, match="it is its own student"):
        model.new_student()


TRIED: dict[str, Method] = {
    "ditto": Ditto(steps=2, sampler="dpm++", lr=0.1),
    "ditto2": Ditto2(decode_steps=2, lr=0.1),
    "doodl": Doodl(steps=3, lr=0.1),
    "doodl, invertible": Doodl(steps=3, lr=0.1, formulation="invertible"),
    "best-of": BestOf(count=3, batch=3),
    "freedom": FreeDoM(steps=3),
    "gg": GuidanceGradients(steps=3, strength=1e-3),
    "naive": NaiveMasking(steps=3),
    "multidiffusion": MultiDiffusion(steps=3),
    "md50": MultiDiffusion50(steps=3),
}
"""Each but the last three follows the loudness; those keep a region."""

OTHERWISE = {
    "native": "random weights keep no region: tests/methods/test_native.py has it",
    "latch": "it reads heads that were trained for the model: see test_flow_heads.py",
    "controlnet": "its adapter is one of patch transformers: refused below",
    "none": "it follows nothing: its samplers have a test of their own below",
}


def test_every_method_is_tried() -> None:
    assert {method.name for method in TRIED.values()} == EVERY.keys() - OTHERWISE.keys()


@pytest.mark.parametrize("name", TRIED)
def test_every_method_nears_what_is_asked_of_a_flow(model: FlowModel, name: str) -> None:
    """By its loss of x_0, against the same seed without control."""
    method = TRIED[name]
    keeps = isinstance(method, MaskingMethod)
    wanted = controls(model)["region" if keeps else "loudness"]
    asked = Request(wanted, PROMPT, seed=4, guidance=1.0, iterations=4, method=method)
    plain = replace(asked, method=Uncontrolled(steps=3))
    made = [run(one, model) for one in (plain, asked)]
    assert bool(made[1].audio.isfinite().all())
    with torch.no_grad():
        before, after = (wanted(result.x_0, model).item() for result in made)
    assert after < before


@pytest.mark.parametrize("sampler", ["dpm++", "ddpm", "ping-pong"])
def test_every_sampler_runs_on_a_flow(model: FlowModel, sampler: str) -> None:
    """Of pure noise each makes a clip of the model's own, not the one of another sampler."""
    methods = Uncontrolled(steps=4, sampler="ddim"), Uncontrolled(steps=4, sampler=sampler)
    made = [run(Request((), PROMPT, guidance=1.0, method=method), model) for method in methods]
    assert bool(made[1].audio.isfinite().all())
    assert not torch.allclose(made[0].x_0, made[1].x_0, rtol=0, atol=1e-2)
    assert made[1].x_0.std().item() == pytest.approx(made[0].x_0.std().item(), rel=0.5)


def test_a_controlnet_is_refused_in_one_line(model: FlowModel) -> None:
    asked = Request(controls(model)["loudness"], PROMPT, method=MusicControlNet(steps=2))
    with pytest.raises(ModelError, match=r"\A[^\n]*needs a patch transformer[^\n]*\Z"):
        run(asked, model)


def test_the_base_runs_with_its_own_guidance(base: FlowModel) -> None:
    control = controls(base)["loudness"]
    asked = Request(control, PROMPT, iterations=3, guidance=5.0, method=Ditto(steps=3, lr=0.05))
    result = run(asked, base)
    assert result.losses[-1] < result.losses[0]
    assert bool(run(replace(asked, method=FreeDoM(steps=3)), base).audio.isfinite().all())


def test_doodl_refuses_guidance_that_it_cannot_undo() -> None:
    model = shortened(adapt(make_ace_step(base=True)))
    asked = Request(controls(model)["loudness"], PROMPT, iterations=1, method=Doodl(steps=2))
    with pytest.raises(RequestError, match="doodl cannot undo this model's guidance"):
        run(asked, model)
    assert run(replace(asked, guidance=1.0), model).x_0.shape == (1, 4, FRAMES)


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three windows of Stable Audio 3's, stereo, in 24 bits."""
    path = tmp_path_factory.mktemp("songs") / "song.wav"
    noise = 0.1 * np.random.default_rng(0).standard_normal((24_000, 2))
    soundfile.write(path, noise, 8000, subtype="PCM_24")
    return path


@pytest.mark.parametrize(
    "method",
    [Ditto(steps=2), Ditto2(decode_steps=2, corrections=1), NativeInpainting(steps=2)],
    ids=lambda method: method.name,
)
def test_an_edit_keeps_the_rest_bit_for_bit_and_stereo(
    model: FlowModel, song: Path, tmp_path: Path, method: Any
) -> None:
    middle = 1.5
    length, overlap = 0.3 * model.spec.clip_seconds, 0.3 * model.spec.clip_seconds
    settings = {"tags": PROMPT, "iterations": 2, "guidance": 1.0, "method": method}
    edit = inpaint(model, song, [(middle, middle + length)], overlap=overlap, **settings)
    edit.save(tmp_path / "edit.wav")
    before, rate = soundfile.read(song, dtype="int32", always_2d=True)
    after, _ = soundfile.read(tmp_path / "edit.wav", dtype="int32", always_2d=True)
    assert after.shape == before.shape == (24_000, 2)
    fade = round(0.1 * rate) + 1
    first, last = round(middle * rate) - fade, round((middle + length) * rate) + fade
    assert np.array_equal(after[:first], before[:first])
    assert np.array_equal(after[last:], before[last:])
    new = after[first + fade : last - fade]
    assert not np.array_equal(new, before[first + fade : last - fade])
    assert abs(new[:, 0] - new[:, 1]).max() > 1000


def test_outpainting_inverting_and_varying_work(
    model: FlowModel, song: Path, tmp_path: Path
) -> None:
    settings = {"tags": PROMPT, "iterations": 2, "guidance": 1.0, "method": Ditto(steps=2)}
    overlap = 0.3 * model.spec.clip_seconds
    longer = outpaint(model, song, 3.2, overlap=overlap, **settings)
    assert longer.samples.shape == (2, 25_600)
    found = invert(model, song, begin=0.5, **settings)
    assert found.errors["invert_mse"].item() < 1
    result = run(Request((), PROMPT, guidance=1.0, method=Uncontrolled(steps=2)), model)
    prompts = [Tags(prompt="calm"), Tags(prompt="a loud rock song")]
    made = vary(model, result.latent(), count=2, prompts=prompts, steps=2)
    assert made.audio.shape == (2, model.spec.samples(FRAMES))


def test_a_clip_is_saved_in_stereo(model: FlowModel, tmp_path: Path) -> None:
    result = run(Request((), PROMPT, method=Uncontrolled(steps=2)), model)
    result.save(tmp_path / "clip.wav")
    sound, rate = soundfile.read(tmp_path / "clip.wav", dtype="float32")
    assert rate == model.spec.sample_rate
    assert sound.shape == (model.spec.samples(FRAMES), 2)
    assert abs(sound[:, 0] - sound[:, 1]).max() > 1e-3
    assert result.audio[0].numpy() == pytest.approx(sound.mean(axis=1), abs=1e-4)


def test_the_decoder_is_exact_in_chunks_and_checkpoints(model: FlowModel) -> None:
    x_0 = noise_of(model, 3).repeat(1, 1, 2).requires_grad_()
    whole = replace(model, chunk=10_000).decode(x_0)
    pieces = replace(model, chunk=8, checkpointing=True).decode(x_0)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=2e-6)
    slopes = [torch.autograd.grad(y.square().sum(), x_0)[0] for y in (whole, pieces)]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-4, atol=1e-5)


def test_half_weights_leave_x_T_and_losses_in_float32(model: FlowModel) -> None:
    import copy

    half = replace(model, network=copy.deepcopy(model.network).bfloat16())
    control = controls(model)["loudness"]
    asked = Request(control, PROMPT, iterations=2, method=Ditto(steps=2))
    result = run(asked, half)
    assert result.x_0.dtype == result.losses.dtype == torch.float32
    torch.testing.assert_close(result.losses[0], run(asked, model).losses[0], rtol=0.2, atol=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("flows")
    for name, make in MAKERS.items():
        adapt(make()).save(root / name)
    return {name: root / name for name in MAKERS}


def clip(model: Any) -> Result:
    seconds, guidance = 1.0 if model.sings else 0.4, 3.0 if model.distilled is None else 1.0
    method = Uncontrolled(steps=2)
    return run(Request((), PROMPT, seconds=seconds, guidance=guidance, method=method), model)


@pytest.mark.parametrize("base", [False, True], ids=["few steps", "base"])
@pytest.mark.parametrize("name", MAKERS)
def test_a_saved_flow_plays_the_same_when_loaded(tmp_path: Path, name: str, base: bool) -> None:
    made = adapt(MAKERS[name](base=base))
    before = clip(made)
    made.save(tmp_path / "flow")
    loaded = load(tmp_path / "flow", device="cpu", precision="float32")
    after = clip(loaded)
    assert loaded.sha256 == made.sha256
    assert torch.equal(after.x_0, before.x_0)
    assert torch.equal(after.audio, before.audio)
    assert (loaded.distilled is None) == base
    assert loaded.distilled is None or loaded.distilled.own
    assert not (tmp_path / "flow" / "student").exists()
    assert not any(p.requires_grad for p in loaded.network.parameters())
    # A product's last bits may depend on where its operands lie: not as a file maps them.
    assert {p.data_ptr() % 64 for p in loaded.network.parameters()} == {0}


MISSING = {
    "stable_audio_3": ("duration_embedder", "transformer", "scheduler"),
    "ace_step": ("condition_encoder", "vae", "tokenizer"),
}


@pytest.mark.parametrize(("name", "part"), [(n, p) for n, ps in MISSING.items() for p in ps])
def test_a_wrong_folder_is_one_line(
    folders: dict[str, Path], tmp_path: Path, name: str, part: str
) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / "spoilt"))
    shutil.rmtree(folder / part)
    with pytest.raises(ModelError, match=f"incomplete: the folder {part}/ is missing") as gone:
        load(folder)
    index = json.loads((folder / "model_index.json").read_text())
    del index[part]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=f"names no {part}") as unnamed:
        load(folder)
    assert "\n" not in f"{gone.value}{unnamed.value}"


LACKING = {
    "stable_audio_3": {"transformer": "", "duration_embedder": "", "text_encoder": ""},
    "ace_step": {"vae": "", "condition_encoder": "silence_latent"},
}


@pytest.mark.parametrize(("name", "part"), [(n, p) for n, ps in LACKING.items() for p in ps])
def test_half_a_download_is_one_line_on_the_terminal_too(
    folders: dict[str, Path], ditto_music: Command, name: str, part: str
) -> None:
    folder = Path(shutil.copytree(folders[name], "half"))
    (path,) = (folder / part).glob("*.safetensors")
    weights = load_file(path)
    del weights[LACKING[name][part] or max(weights, key=lambda key: weights[key].numel())]
    save_file(weights, path, metadata={"format": "pt"})
    code, _, told = ditto_music("generate", "--model", folder, "-o", "clip.wav")
    assert (code, told.count("\n")) == (2, 1)
    assert f"incomplete: weights of {part}/ are missing" in told


def test_models_says_what_a_flow_is(folders: dict[str, Path]) -> None:
    lines = {name: "\n".join(describe_model(load(folder))) for name, folder in folders.items()}
    for text in lines.values():
        assert "student    the denoiser itself, distilled by its makers" in text
        assert (
            "8 steps of Euler's method (gamma 0), for noise added on the way would forget x_T"
            in text
        )
    assert "lyrics, tempo and key" in lines["ace_step"]
    assert "lyrics" not in lines["stable_audio_3"]


def test_a_cost_can_be_estimated(model: FlowModel) -> None:
    cost = estimate_cost(model, steps=2, iterations=3)
    assert cost.working > 0
    assert cost.encoders > 0


class Hungry(Intensity):
    """A control that fails when it is first heard."""

    def loss(self, output: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")


@pytest.mark.parametrize(
    ("room", "words"),
    [
        (profile.GIB, "it would fit with --low-memory"),
        (0, "not even a short clip would fit with --low-memory"),
    ],
)
def test_a_card_that_is_too_small_is_one_line_with_what_would_fit(
    model: FlowModel, monkeypatch: pytest.MonkeyPatch, room: int, words: str
) -> None:
    free = profile.weights_of(model) + profile.SLACK + room
    monkeypatch.setattr(profile, "memory_of", lambda device: free)
    asked = Request(Hungry("swell"), PROMPT, iterations=1, seconds=model.spec.clip_seconds)
    with pytest.raises(OutOfMemoryError, match=rf"\A[^\n]*: {words}[^\n]*\Z"):
        run(asked, model)


def test_lyrics_and_key_come_from_the_command_line(
    folders: dict[str, Path], ditto_music: Command
) -> None:
    Path("words.txt").write_text("[verse]\nla la\n")
    plain = ["generate", "--seconds", "1", "--method", "none", "-T", "2", "--tags", "tempo=90"]
    song = ["--model", folders["ace_step"], "--lyrics", "words.txt", "--key", "f# minor"]
    assert ditto_music(*plain, *song, "-o", "song.wav")[0] == 0
    told = json.loads(Path("song.json").read_text())["request"]["tags"]
    assert told["lyrics"] == "[verse]\nla la"
    assert told["key"] == "F# minor"
    assert Request.from_dict({"tags": told}).tags == Tags(
        tempo=90, lyrics="[verse]\nla la", key="F# minor"
    )


WRONG_WORDS = {
    "no file": (["--lyrics", "no.txt"], "cannot read the lyrics no.txt"),
    "empty": (["--lyrics", " "], "the lyrics are empty"),
    "no key": (["--key", "H"], "cannot read the key H"),
    "no singer": (["--lyrics", "la"], "this model does not sing"),
    "no keys": (["--key", "C"], "this model does not know keys"),
}


@pytest.mark.parametrize("what", WRONG_WORDS)
def test_wrong_lyrics_and_keys_are_one_line(
    what: str, ditto_music: Command, model_folder: Path
) -> None:
    more, message = WRONG_WORDS[what]
    model = ["--model", model_folder, "--method", "none", "-T", "2"]
    code, _, told = ditto_music("generate", *model, *more, "-o", "none.wav")
    assert code == 2
    assert message in told
    assert told.count("\n") == 1
    assert not Path("none.wav").exists()
