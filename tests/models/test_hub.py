"""Models from folders, pipelines and the Hub, and what is said of those that are none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.adapters.tiny_pipelines import (
    PROMPT,
    chain_of,
    make_audioldm2,
    make_musicldm,
    make_stable_audio,
    noise_of,
)

from ditto.diffusion.samplers import ddim
from ditto.errors import ModelError, OutOfMemoryError, OutputError
from ditto.models import hub
from ditto.models.adapters.common import PipelineModel
from ditto.models.hub import adapt, load
from ditto.models.model import MusicModel

MAKERS = {"audioldm2": make_audioldm2, "musicldm": make_musicldm, "stable_audio": make_stable_audio}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each pipeline."""
    root = tmp_path_factory.mktemp("pipelines")
    for name, make in MAKERS.items():
        adapt(make()).save(root / name)
    return {name: root / name for name in MAKERS}


@pytest.fixture
def folder(saved: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(saved["musicldm"], tmp_path / "spoilt"))


def clip(model: PipelineModel) -> torch.Tensor:
    with torch.no_grad():
        return model.to_sound(ddim(chain_of(model, 2, 2.0), noise_of(model, 0)))


@pytest.mark.parametrize("name", MAKERS)
def test_a_saved_pipeline_plays_the_same_when_loaded(saved: dict[str, Path], name: str) -> None:
    before, after = adapt(MAKERS[name]()), load(saved[name])
    assert isinstance(after, PipelineModel)
    assert after.name == name
    assert after.sha256 == before.sha256
    for ours, theirs in zip(after.network.parameters(), before.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    # Some processors round a product by where in memory its factors lie.
    torch.testing.assert_close(clip(after), clip(before), rtol=0, atol=1e-5)
    assert not any(p.requires_grad for p in after.network.parameters())


def test_diffusers_loads_what_was_saved(saved: dict[str, Path]) -> None:
    from diffusers import AudioLDM2Pipeline

    pipe = AudioLDM2Pipeline.from_pretrained(saved["audioldm2"])
    assert adapt(pipe).sha256 == load(saved["audioldm2"]).sha256


def test_the_card_carries_the_bases_licence(saved: dict[str, Path]) -> None:
    cards = {name: (saved[name] / "README.md").read_text() for name in MAKERS}
    assert "license: cc-by-nc-sa-4.0" in cards["audioldm2"]
    assert "license: cc-by-nc-sa-4.0" in cards["musicldm"]
    assert "license_name: stable-audio-community" in cards["stable_audio"]


def test_without_a_source_it_is_the_embedded_model() -> None:
    assert load().name == "embedded"


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_the_processor_has_it(
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    able: dict[str, bool],
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    auto, plain = load(model_folder), load(model_folder, precision="float32")
    assert (auto.precision, plain.precision) == (expected, torch.float32)
    assert load(model_folder, precision="bfloat16").precision == torch.bfloat16
    assert auto.sha256 == plain.sha256
    with pytest.raises(ModelError, match="unknown precision 'half': choose one of auto, float32"):
        load(model_folder, precision="half")  # pyright: ignore[reportArgumentType]


def test_a_folder_of_our_own_is_loaded_too(model_folder: Path, tiny_model: MusicModel) -> None:
    assert type(load(model_folder)) is MusicModel
    with pytest.raises(ModelError, match="read tags, not prompts"):
        load(model_folder, negative_prompt="noise")


def test_a_precision_is_the_denoisers_alone(saved: dict[str, Path]) -> None:
    model = load(saved["musicldm"], precision="bfloat16")
    assert next(model.network.parameters()).dtype == torch.bfloat16
    assert next(model.vocoder.parameters()).dtype == torch.float32
    with pytest.raises(ModelError, match="unknown precision"):
        load(saved["musicldm"], precision="int8")  # pyright: ignore[reportArgumentType]


def one_line(error: pytest.ExceptionInfo[ModelError], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert all(part in text for part in parts), text


def test_an_image_pipeline_is_no_music_model(folder: Path) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(ModelError) as error:
        load(folder)
    one_line(
        error, "spoilt is another kind of model", "StableDiffusionPipeline", "AudioLDM2Pipeline"
    )


def test_an_image_pipeline_in_memory_is_none_either() -> None:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(4, 4),
        norm_num_groups=2,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    with pytest.raises(ModelError) as error:
        adapt(DDPMPipeline(unet, DDPMScheduler()))
    one_line(error, "DDPMPipeline", "StableAudioPipeline")


def rewrite(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    file = folder / "model_index.json"
    index = json.loads(file.read_text())
    change(index)
    file.write_text(json.dumps(index))


def lack(path: Path) -> None:
    """Take the largest tensor out of a file of weights."""
    weights = load_file(path)
    del weights[max(weights, key=lambda name: weights[name].numel())]
    save_file(weights, path, metadata={"format": "pt"})


OOBLECK: dict[str, Any] = {
    "encoder_hidden_size": 4,
    "downsampling_ratios": [2],
    "channel_multiples": [1],
    "decoder_channels": 4,
    "decoder_input_channels": 4,
}


def put(folder: Path, component: str, network: Any) -> None:
    """Put another network into a pipeline's folder."""
    shutil.rmtree(folder / component)
    network.save_pretrained(folder / component)
    rewrite(folder, lambda index: index.update({component: ["diffusers", type(network).__name__]}))


SPOILT: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no index": (lambda f: (f / "model_index.json").unlink(), ("has no model_index.json",)),
    "broken index": (
        lambda f: (f / "model_index.json").write_text("{"),
        ("cannot read", "model_index.json"),
    ),
    "no folder": (lambda f: shutil.rmtree(f / "vae"), ("spoilt is incomplete", "vae/")),
    "no weights": (
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
        ("unet/ has no .safetensors",),
    ),
    "pickle": (
        lambda f: (f / "vocoder" / "model.safetensors").rename(f / "vocoder" / "pytorch_model.bin"),
        ("vocoder/ has no .safetensors", "pickled"),
    ),
    "no config": (
        lambda f: (f / "vocoder" / "config.json").unlink(),
        ("vocoder/config.json is missing",),
    ),
    "damaged": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 100),
        ("cannot load spoilt",),
    ),
    "a weight missing": (
        lambda f: lack(f / "text_encoder" / "model.safetensors"),
        ("spoilt is incomplete: weights of text_encoder/ are missing",),
    ),
    "no words": (
        lambda f: (f / "tokenizer" / "tokenizer.json").unlink(),
        ("tokenizer/ has no words",),
    ),
    "no tokenizer": (
        lambda f: (f / "tokenizer" / "tokenizer_config.json").unlink(),
        ("tokenizer/ has no tokenizer_config.json",),
    ),
    "another autoencoder": (
        lambda f: put(f, "vae", diffusers.AutoencoderOobleck(**OOBLECK)),
        ("has a AutoencoderOobleck as its vae, where a MusicLDMPipeline has a AutoencoderKL",),
    ),
    "no vocoder": (lambda f: rewrite(f, lambda index: index.pop("vocoder")), ("names no vocoder",)),
    "foreign code": (
        lambda f: rewrite(f, lambda index: index.update(vae=["os.path", "join"])),
        ("'os.path'", "does not run"),
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_a_folder_lacks_is_named_in_one_line(folder: Path, how: str) -> None:
    spoil, parts = SPOILT[how]
    spoil(folder)
    with pytest.raises(ModelError) as error:
        load(folder)
    one_line(error, *parts)


def test_weights_are_moved_in_their_precision_and_too_many_are_one_line(
    saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[list[torch.dtype]] = []
    monkeypatch.setattr(
        hub, "move", lambda networks, device: moved.append([n.dtype for n in networks])
    )
    load(saved["musicldm"], device="cpu", precision="bfloat16", decoder_precision="float16")
    assert moved == [[torch.bfloat16, torch.float16, torch.float16]]
    monkeypatch.undo()

    def full(network: Any, *where: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    words = r"\Acpu has not enough memory for 0\.0 GiB of weights: give a smaller [^\n]*\Z"
    with pytest.raises(OutOfMemoryError, match=words):
        hub.move([torch.nn.Linear(2, 2)], torch.device("cpu"))


def test_a_missing_folder_and_an_unreachable_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as error:
        load(tmp_path / "nothing")
    one_line(error, "no model folder", "nothing")

    def refuse(repo_id: str, **settings: object) -> str:
        raise OSError("Name or service not known\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ModelError) as error:
        load("cvssp/audioldm2-music")
    one_line(
        error,
        "cvssp/audioldm2-music",
        "Name or service not known",
        "check name, network and licence",
    )


def test_a_hub_id_is_downloaded_without_pickles(
    monkeypatch: pytest.MonkeyPatch, saved: dict[str, Path]
) -> None:
    asked = {}

    def download(repo_id: str, **settings: list[str]) -> str:
        asked.update(settings, repo_id=repo_id)
        return str(saved["musicldm"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    model = load("ucsd-reach/musicldm")
    assert model.name == asked["repo_id"] == "ucsd-reach/musicldm"
    assert not any(pattern.endswith(("bin", "ckpt", "pt")) for pattern in asked["allow_patterns"])


@pytest.mark.parametrize(
    ("found", "said"), [("4.31.0", "but 4.31.0 is installed"), (None, "which is not installed")]
)
def test_an_unsupported_transformers_is_named(
    monkeypatch: pytest.MonkeyPatch, saved: dict[str, Path], found: str | None, said: str
) -> None:
    def version(package: str) -> str:
        if found is None:
            raise hub.PackageNotFoundError(package)
        return found

    monkeypatch.setattr(hub, "version", version)
    with pytest.raises(ModelError) as error:
        load(saved["musicldm"])
    one_line(error, "MusicLDMPipeline needs transformers", said, "pip install")


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputError, match="is not a model folder"):
        adapt(make_musicldm()).save(tmp_path / "mine")


def test_loading_leaves_the_process_as_it_was(saved: dict[str, Path]) -> None:
    state = (
        torch.get_rng_state(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )
    load(saved["stable_audio"]).cond(PROMPT)
    after = (
        torch.get_rng_state(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )
    assert torch.equal(state[0], after[0])
    assert state[1:] == after[1:]


def test_our_own_models_have_the_hubs_layout_and_names(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    tiny_model.save_pretrained(tmp_path / "own")
    index = json.loads((tmp_path / "own" / "model_index.json").read_text())
    assert index["denoiser"] == ["ditto.models.transformer", "PatchTransformer"]
    assert index["vocoder"] == ["ditto.models.vocoder", "Vocoder"]
    for part in ("denoiser", "vocoder"):
        assert {"config.json", "diffusion_pytorch_model.safetensors"} <= {
            f.name for f in (tmp_path / "own" / part).iterdir()
        }
    again = MusicModel.from_pretrained(tmp_path / "own")
    x_0 = torch.zeros(1, *again.shape())
    assert torch.equal(again.to_audio(x_0), load(tmp_path / "own").to_audio(x_0))


class Api:
    """A Hub that keeps what it is given."""

    taken: dict[str, set[str]] = {}  # noqa: RUF012
    token: str | None = None

    def __init__(self, token: str | None) -> None:
        Api.token = token

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        if repo_id.startswith("nobody/"):
            raise OSError("403 Forbidden")
        Api.taken[repo_id] = {
            str(file.relative_to(folder_path)) for file in folder_path.rglob("*") if file.is_file()
        }


def test_push_to_hub_uploads_the_folder(
    monkeypatch: pytest.MonkeyPatch, tiny_model: MusicModel
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert tiny_model.push_to_hub("me/tiny", token="secret") == "https://hub/me/tiny"
    assert Api.token == "secret"
    assert {"model_index.json", "denoiser/diffusion_pytorch_model.safetensors"} <= Api.taken[
        "me/tiny"
    ]
    adapt(make_musicldm()).push_to_hub("me/musicldm")
    assert {"README.md", "unet/config.json", "tokenizer/tokenizer.json"} <= Api.taken["me/musicldm"]
    with pytest.raises(ModelError, match=r"did not take nobody/tiny \(403 Forbidden\)"):
        tiny_model.push_to_hub("nobody/tiny")
