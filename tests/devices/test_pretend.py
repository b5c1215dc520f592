"""All of Ditto on a pretend accelerator: the CPU's figures, with float64 and without it.

They are the same to the bit where both do the same operations. SiLU's gradient is one operation on
the devices that PyTorch knows, and several on this one: it rounds otherwise in trainings and in
null-text inversion, by up to 5e-7 of the largest value.

The last tests plant mistakes that a GPU would refuse: each must be caught.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import typer
from tests.conftest import randomised
from tests.devices import pretend
from tests.devices.pretend import Machine, WrongDeviceError, without_float64
from tests.models.adapters.tiny_flows import make_ace_step, make_stable_audio_3
from tests.models.tiny_clap import make_clap
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import ditto
import ditto.cli.train
from ditto import runner
from ditto.controls import CONTROLS
from ditto.controls.base import Control
from ditto.controls.intensity import Intensity
from ditto.controls.per_item import PerItem
from ditto.controls.pulls import LatentNorm, LatentStatistics, NearUncontrolled
from ditto.controls.regions import Region, SelfLoop
from ditto.controls.structure import Structure, StructureLike
from ditto.edit.variations import invert, vary
from ditto.methods import METHODS
from ditto.models import device as device_module
from ditto.models import transformer
from ditto.models.conditioning import Tags
from ditto.models.controlnet import ControlAdapter
from ditto.models.hub import adapt
from ditto.models.low_memory import low_memory
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.result import Result
from ditto.training.loop import read_log

TOLERANCE = 1e-4
CLAP = make_clap()

CONTROLS_TRIED: dict[str, Callable[[], Control]] = {
    "intensity": lambda: Intensity("swell"),
    "brightness": lambda: ditto.Brightness("brighten"),
    "melody": lambda: ditto.Melody.from_notes("C4:0.2 E4:0.3"),
    "structure": lambda: Structure("AB"),
    "beats": lambda: ditto.Beats("240"),
    "chords": lambda: ditto.Chords("C:1 F:1", bpm=240),
    "text": lambda: ditto.Text("a calm jazz trio", clap=deepcopy(CLAP)),
}
"""One of every kind on the command line."""


def whole(student_model: MusicModel) -> MusicModel:
    """A model with a student and an adapter."""
    model = deepcopy(student_model)
    adapter = randomised(ControlAdapter.of(model.network, 2))  # pyright: ignore[reportArgumentType]
    return replace(model, controlnet=adapter)  # pyright: ignore[reportArgumentType]


def moved(model: MusicModel) -> MusicModel:
    """The same model on the device."""
    copied = deepcopy(model)
    for network in copied.parts():
        network.to(pretend.NAME)
    return copied


@pytest.fixture
def both(machine: None, student_model: MusicModel) -> tuple[MusicModel, MusicModel]:
    """One model on the CPU and on the device."""
    model = whole(student_model)
    return model, moved(model)


def same(a: Result, b: Result) -> None:
    """Both results have the same figures, and all of them are on the CPU."""
    assert list(a.errors) == list(b.errors)
    for mine, theirs in (
        (a.x_T, b.x_T),
        (a.x_0, b.x_0),
        (a.losses, b.losses),
        (a.audio, b.audio),
        *((a.errors[name], b.errors[name]) for name in a.errors),
    ):
        assert theirs.device.type == "cpu"
        assert np.isfinite(theirs.numpy()).all()
        scale = float(mine.abs().max()) if mine.numel() else 1.0
        torch.testing.assert_close(theirs, mine, rtol=0, atol=TOLERANCE * max(1.0, scale))


def compare(models: tuple[MusicModel, MusicModel], *controls: Control, **settings: Any) -> None:
    """The same request on both."""
    request = Request(controls, **{"tags": "genre=jazz tempo=120", "iterations": 2} | settings)
    same(*(ditto.run(request, model) for model in models))


SETTINGS: Mapping[str, Any] = {
    "ditto": {"steps": 2, "sampler": "dpm++"},
    "ditto2": {"corrections": 1, "surrogate_steps": "adaptive"},
    "doodl": {"steps": 4, "formulation": "invertible"},
    "best-of": {"count": 3, "batch": 2},
    "none": {"steps": 3, "sampler": "ddpm"},
}


# native needs a model that inpaints by itself: the flows have it, below.
@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"native"}))
def test_every_method(both: tuple[MusicModel, MusicModel], name: str) -> None:
    settings = SETTINGS.get(name, {"steps": 2})
    method = METHODS[name](**settings)
    region = Region.inpaint(torch.rand(1, 16, 64) - 1, ((20, 40),))
    masking = ("naive", "multidiffusion", "md50", "gg")
    control = region if name in masking else Intensity("swell")
    compare(both, control, method=method, count=2, guidance=1.5)


def test_the_other_way_of_doodl(both: tuple[MusicModel, MusicModel]) -> None:
    compare(both, Intensity("swell"), method=ditto.Doodl(steps=4))


def test_every_kind_of_control_is_tried() -> None:
    assert CONTROLS_TRIED.keys() == CONTROLS.keys()


@pytest.mark.parametrize("kind", CONTROLS_TRIED)
def test_every_control(both: tuple[MusicModel, MusicModel], kind: str) -> None:
    control = CONTROLS_TRIED[kind]()
    compare(both, control, method=ditto.Ditto2(corrections=1, decode_steps=1))
    compare(both, control.during((0.1, 0.4)), method=ditto.Ditto(steps=1, tolerance=-9.0))


def test_other_measures_and_pulls(both: tuple[MusicModel, MusicModel]) -> None:
    plain = torch.randn(1, 1, 16, 64, generator=torch.Generator().manual_seed(1))
    audio = 0.1 * torch.randn(1, 64 * 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mel = both[0].encode(audio)[0, 0]
    like = StructureLike(mel)
    near = NearUncontrolled(plain), NearUncontrolled(plain, space="clap", clap=deepcopy(CLAP))
    pulls = LatentNorm() + LatentStatistics() + near[0] + near[1]
    compare(both, Structure("AB", density=0.5) + like + pulls, method=ditto.Ditto(steps=1))
    compare(both, SelfLoop(40, 16), method=ditto.Ditto(steps=1))
    octaves = replace(ditto.Melody.from_notes("C4:0.2 E4:0.3"), octave=True)
    compare(both, octaves, Intensity("swell", "correlation"), method=ditto.Ditto(steps=1))


def test_per_item_controls_a_latent_and_low_precision(
    both: tuple[MusicModel, MusicModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    each = PerItem([Intensity("swell"), Intensity("dip")])
    compare(both, each, count=2, method=ditto.Ditto2(corrections=0))
    first = ditto.run(Request(Intensity("swell"), iterations=1), both[1])
    compare(both, Intensity("swell"), start=first.latent(), iterations=1)
    lean = tuple(low_memory(deepcopy(model)) for model in both)
    compare(lean, Intensity("swell"), method=ditto.Ditto(steps=2))  # pyright: ignore[reportArgumentType]
    half = tuple(
        replace(m, precision=torch.bfloat16, decoder_precision=torch.bfloat16) for m in both
    )
    # in half precision a CPU has code of its own for attention
    monkeypatch.setattr(transformer, "attention", scaled_dot_product_attention)
    compare(half, Intensity("swell"), method=ditto.Ditto(steps=2))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def song(tmp_path: Path) -> Path:
    samples = 0.1 * np.random.default_rng(0).standard_normal(9600)
    soundfile.write(tmp_path / "song.wav", samples, 8000)
    return tmp_path / "song.wav"


def test_every_edit(both: tuple[MusicModel, MusicModel], song: Path, tmp_path: Path) -> None:
    request = Request(tags=Tags("jazz", tempo=120), iterations=2, method=ditto.Ditto(steps=1))
    made: list[list[Any]] = []
    for model in both:
        made.append(
            [
                ditto.inpaint(model, song, [(0.3, 0.5)], request, overlap=0.1),
                ditto.outpaint(model, song, 1.4, request, overlap=0.1),
                ditto.loop_recording(model, song, request, seconds=1.4, overlap=0.1),
                ditto.loop(model, 0.3, request, overlap=0.1),
                ditto.song(model, 0.9, request, overlap=0.1),
            ]
        )
    for mine, theirs in zip(*made, strict=True):
        np.testing.assert_allclose(theirs.samples, mine.samples, rtol=0, atol=TOLERANCE)
    made[1][0].save(tmp_path / "out.wav")


def test_every_inversion_and_variation(
    both: tuple[MusicModel, MusicModel], song: Path, tmp_path: Path
) -> None:
    request = Request(tags=Tags("jazz"), iterations=2, method=ditto.Ditto(steps=2))
    for how in ("ditto", "ddim", "naive", "null-text"):
        given: Any = how
        mine, theirs = (invert(model, song, request, how=given) for model in both)
        same(mine, theirs)
    mine.save(tmp_path / "again.wav")
    for how in ("ddpm", "ddpm+freedom"):
        given = how
        settings: Any = {"count": 2, "how": given, "controls": [Intensity("swell")]}
        same(*(vary(model, theirs.latent(), **settings) for model in both))


def base_run(out: Path) -> Any:
    from tests.training.test_base import TINY, Clips

    from ditto.training.base import train_base

    return train_base(replace(TINY, steps=3), Clips(), out, show=False)


def student_run(out: Path, start: MusicModel) -> Any:
    from tests.training.test_distill import TINY, Clips

    from ditto.training.distill import train_student

    return train_student(replace(TINY, steps=2), start, Clips(), out, show=False)


def controlnet_run(out: Path) -> Any:
    from tests.training.test_controlnet import TINY, Ramps, make_model

    from ditto.training.controlnet import train_controlnet

    return train_controlnet(replace(TINY, steps=2), make_model(), Ramps(), out, show=False)


def vocoder_run(out: Path) -> Any:
    from tests.training.test_vocoder import TINY, Notes

    from ditto.training.vocoder import train_vocoder

    config = replace(TINY, steps=3, adversarial_from=1)
    return train_vocoder(config, Notes(config.crop_samples), out, show=False)


def clap_run(out: Path) -> Any:
    from tests.training.test_clap import TOKENIZER, Bands, small_config

    from ditto.training.clap import train_clap_on

    return train_clap_on(small_config(steps=2), Bands(), TOKENIZER, out, show=False)


def classifier_run(out: Path) -> Any:
    from tests.training.test_classifier import VOCABULARY, Beats, small_config

    from ditto.training.classifier import train_classifier_on

    config = small_config(steps=3)
    clips = Beats(config.drawn_frames)
    return train_classifier_on(config, clips, VOCABULARY, out, show=False)


def heads_run(out: Path, start: MusicModel) -> Any:
    from tests.training.test_heads import TINY, Ramps

    from ditto.training.heads import train_heads

    config = replace(TINY, steps=3, fresh_from=1, pool=16)
    return train_heads(config, start, Ramps(), out, show=False)


def flow_run(make: Callable[..., Any], kind: Any) -> Callable[[Path], Any]:
    """Distil the base of a flow, on the device that accelerate was given."""

    def train(out: Path) -> Any:
        from tests.models.adapters.test_student import TINY

        from ditto.training.distill import train_student

        teacher = adapt(make(base=True))

        class Pairs:
            def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
                draws = torch.Generator().manual_seed(step)
                x_0 = torch.randn(batch_size, *teacher.latent_shape, 16, generator=draws)
                return x_0, teacher.encode_prompts(["calm"] * batch_size).cpu()

        config = replace(TINY, kind=kind, guidance=(1.0, 3.0))
        return train_student(config, teacher, Pairs(), out, show=False)

    return train


TRAININGS: dict[str, Callable[..., Any]] = {
    "base": base_run,
    "ctm": student_run,
    "controlnet": controlnet_run,
    "vocoder": vocoder_run,
    "clap": clap_run,
    "classifier": classifier_run,
    "heads": heads_run,
    "cm of Stable Audio 3": flow_run(make_stable_audio_3, "cm"),
    "ctm of ACE-Step": flow_run(make_ace_step, "ctm"),
}


LEAN_TRAININGS = ("base", "ctm", "controlnet")
"""Those tried without float64 too: they have all of the trainings' own code that computes in it."""

NO_TRAININGS = {
    "pack": "copies weights",
    "report": "draws what a run has logged",
    "speed": "times the base's",
}
"""Commands of `train` and `distill` that train nothing."""


def test_every_command_that_trains_is_tried() -> None:
    app: Any = typer.main.get_group(ditto.cli.train.app)
    names = {name for group in ("train", "distill") for name in app.commands[group].commands}
    assert {name.split(" of ")[0] for name in TRAININGS} == names - NO_TRAININGS.keys()


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        *(("float64", name) for name in TRAININGS),
        *(("no float64", name) for name in LEAN_TRAININGS),
    ],
    indirect=["machine"],
)
def test_every_training(
    machine: None,
    name: str,
    student_model: MusicModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ditto.training.place import training_on

    monkeypatch.setattr("ditto.training.student_gap.SCALES", (3.0,))
    weights: list[Mapping[str, Tensor]] = []
    for device in ("cpu", pretend.NAME):
        start = deepcopy(student_model)  # on the CPU: a training moves what it needs
        given = {"ctm": (start,), "heads": (start,)}.get(name, ())
        with training_on(device):
            network = TRAININGS[name](tmp_path / device, *given)
        weights.append({key: value.cpu() for key, value in network.state_dict().items()})
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=0, atol=TOLERANCE)
    last = read_log(tmp_path / pretend.NAME / "log.jsonl")[-1]
    assert last.keys() == read_log(tmp_path / "cpu" / "log.jsonl")[-1].keys()


# Tests of these tests: what a GPU refuses is refused.


@pytest.fixture
def device_model(student_model: MusicModel) -> Iterator[MusicModel]:
    pretend.register()
    with Machine():
        yield moved(student_model)


def loudness(model: MusicModel) -> Result:
    return ditto.run(Request(Intensity("swell"), iterations=1, method=ditto.Ditto2()), model)


def test_a_target_left_on_the_cpu_is_caught(
    device_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Intensity.target
    monkeypatch.setattr(Intensity, "target", lambda self, output: target(self, output).cpu())
    with pytest.raises(WrongDeviceError):
        loudness(device_model)


def test_noise_left_on_the_cpu_is_caught(
    device_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = runner.item_noise
    monkeypatch.setattr(
        runner, "item_noise", lambda s, seed, n, _, **more: draw(s, seed, n, "cpu", **more)
    )
    with pytest.raises(WrongDeviceError):
        loudness(device_model)


def test_a_result_left_on_the_device_is_caught(
    device_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = loudness(device_model)
    left = replace(result, losses=result.losses.to(pretend.NAME))
    with pytest.raises(WrongDeviceError, match="numpy"):
        left.losses.numpy()


def test_float64_on_a_device_without_is_caught(
    device_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    doodl = Request(Intensity("swell"), iterations=1, method=ditto.Doodl(steps=2))
    with without_float64(), pytest.raises(TypeError, match="no float64"):
        ditto.run(doodl, device_model)


def test_a_generator_of_the_cpu_and_a_cpu_table_are_caught() -> None:
    pretend.register()
    with Machine():
        on_device = torch.arange(3, device=pretend.NAME)
        with pytest.raises(WrongDeviceError, match="indexed by one on the device"):
            torch.arange(5.0)[on_device]
        with pytest.raises(WrongDeviceError, match="generator"):
            torch.randn(2, device=pretend.NAME, generator=torch.Generator())
        assert torch.arange(5.0).to(pretend.NAME)[torch.arange(2)].tolist() == [0, 1]


def test_the_command_line_runs_on_it(machine: None, ditto_music: Any, model_folder: Path) -> None:
    code, _, error = ditto_music(
        *("generate", "--model", model_folder, "--device", pretend.NAME, "-o", "out.wav"),
        *("--loudness", "swell", "--method", "ditto", "-T", 1, "-K", 1),
    )
    assert code == 0, error
    assert f" s on {pretend.NAME}" in error


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_auto_takes_a_gpu_and_says_so(
    machine: None, ditto_music: Any, model_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The pretend device in the place of a GPU: that `auto` finds one is PyTorch's to say."""
    asked: list[str] = []

    def place(name: Any) -> torch.device:
        asked.append(str(name))
        return torch.device(pretend.NAME if str(name) == kind else name)

    class Found:
        device = staticmethod(place)
        cuda = SimpleNamespace(is_available=lambda: kind == "cuda")
        backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: kind == "mps"))

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    monkeypatch.setattr(device_module, "torch", Found())
    code, _, error = ditto_music(
        *("generate", "--model", model_folder, "--device", "auto", "-o", "out.wav"),
        *("--loudness", "swell", "--method", "ditto", "-T", 1, "-K", 1),
    )
    assert code == 0, error
    assert asked[0] == kind
    assert f" s on {pretend.NAME}" in error
    assert json.loads(Path("out.json").read_text())["model"]["device"].startswith(pretend.NAME)
