"""A base fine-tuned from the embedded one, in a folder of what differs alone.

It is a fraction of a model's size::

    model_index.json   class MusicFineTune, the embedded denoiser's fingerprint, spectrogram, the
    file's SHA-256 denoiser/          diffusion_pytorch_model.safetensors: the weights that differ,
    in float16

All else, vocoder, tags and noise schedule included, is the embedded model's. Its student and its
adapter know nothing of the fine-tuning and are left out.
"""

from dataclasses import asdict, replace
from pathlib import Path

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ditto.audio.spec import AudioSpec
from ditto.errors import ModelError
from ditto.models.hashes import extended, file_sha256, fingerprint
from ditto.models.music_model import (
    INDEX,
    WEIGHTS,
    MusicModel,
    checked_weights,
    load,
    put_folder,
    read_index,
    save_index,
)
from ditto.paths import printable

CLASS = "MusicFineTune"
FILE = Path("denoiser") / WEIGHTS


def save_fine_tune(network: ModelMixin, spec: AudioSpec, folder: Path) -> str:
    """Write the folder; returns the hash that loading will give.

    Args:
        network: the fine-tuned network, of the embedded one's settings.
        spec: the spectrogram of the clips that it was tuned for.
        folder: where; a model that was there is replaced.

    Raises:
        ModelError: a weight does not fit float16.
        OutputError: see `MusicModel.save`.
    """
    base = load()

    def fill(folder: Path) -> str:
        (folder / FILE).parent.mkdir()
        save_file(_differing(network, base.network), folder / FILE)
        digest = file_sha256(folder / FILE)
        index = {
            "_class_name": CLASS,
            "_diffusers_version": diffusers.__version__,
            "spec": asdict(spec),
        }
        save_index(
            folder, index | {"base": fingerprint(base.network), "sha256": {"denoiser": digest}}
        )
        return extended(base.base_sha256, digest)

    return put_folder(folder, fill)


def load_fine_tune(folder: Path) -> MusicModel:
    """The embedded model with a folder's weights and window, parameters frozen, in float32.

    Raises:
        ModelError: the folder is damaged, or was fine-tuned from another base than the one that is
            embedded here.
    """
    index, base = read_index(folder, CLASS), load()
    if index.get("base") != fingerprint(base.network):
        raise ModelError(
            f"{printable(folder)} was fine-tuned from another base than the embedded one: train it again"
        )
    file = checked_weights(folder, "denoiser", index)
    try:
        unknown = base.network.load_state_dict(load_file(file), strict=False).unexpected_keys
        spec = AudioSpec(**index["spec"])
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        why = " ".join(str(error).split())
        raise ModelError(
            f"{printable(folder)} is damaged: its weights or its {INDEX} do not fit ({why})"
        ) from None
    if unknown:
        raise ModelError(
            f"{printable(file)} has weights that the embedded base has not, such as {unknown[0]}"
        )
    sha256 = extended(base.base_sha256, file_sha256(file))
    return replace(
        base, spec=spec, name=folder.name, sha256=sha256, base_sha256=sha256, distilled=None
    )


def _differing(network: ModelMixin, base: ModelMixin) -> dict[str, Tensor]:
    """The weights that are stored otherwise than the base's."""
    own = {
        name: value.detach().cpu().half().contiguous()
        for name, value in network.state_dict().items()
    }
    if not all(bool(value.isfinite().all()) for value in own.values()):
        raise ModelError(
            "a weight of the denoiser does not fit float16: train again with a lower lr"
        )
    theirs = base.state_dict()
    return {
        name: value for name, value in own.items() if not torch.equal(value, theirs[name].half())
    }
