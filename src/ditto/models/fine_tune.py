"""A base fine-tuned from the embedded one, in a folder of the weights that differ alone.

It is a fraction of a model's size::

    model_index.json  class MusicFineTune, the embedded denoiser's hash, spectrogram, the file's
                      SHA-256
    denoiser/         diffusion_pytorch_model.safetensors: the weights that differ, in float16
"""

from dataclasses import asdict, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ditto.audio.spec import AudioSpec
from ditto.errors import ModelError, one_line
from ditto.models.folder import (
    INDEX,
    check_finite,
    checked_weights,
    hash_file,
    hash_with_student,
    model_folder,
    read_index,
    write_index,
)
from ditto.models.model import MusicModel
from ditto.models.network import WEIGHTS, hash_weights
from ditto.models.own import check_whole, load_own
from ditto.paths import printable

FINE_TUNE = "MusicFineTune"
"""The ``_class_name`` of the index."""

FILE = Path("denoiser") / WEIGHTS


def save_fine_tune(network: nn.Module, spec: AudioSpec, folder: Path) -> str:
    """Write the weights in which a network differs from the embedded denoiser.

    Args:
        network: the fine-tuned network, of the embedded one's settings.
        spec: the spectrogram of the clips that it was tuned for.
        folder: where; a model that was there is replaced.

    Returns:
        The hash that loading will give.

    Raises:
        ModelError: a weight does not fit float16.
        OutputError: see `MusicModel.save`.
    """
    base = load_own()
    tuned = {
        name: tensor.detach().cpu().half().contiguous()
        for name, tensor in network.state_dict().items()
    }
    check_finite("denoiser", tuned.values())
    stored = base.network.state_dict()
    changed = {n: tensor for n, tensor in tuned.items() if not tensor.equal(stored[n].half())}
    with model_folder(folder) as new:
        file = new / FILE
        file.parent.mkdir()
        save_file(changed, file)
        index = {
            "_class_name": FINE_TUNE,
            "spec": asdict(spec),
            "base": hash_weights(base.network),
            "sha256": {"denoiser": hash_file(file)},
        }
        write_index(new, index)
        return hash_with_student(base.base_sha256, index["sha256"]["denoiser"])


def load_fine_tune(folder: Path) -> MusicModel:
    """Load the embedded model with a fine-tuned denoiser and its window: float32, frozen.

    Student and adapter of the embedded model do not fit the fine-tuned denoiser and are left out.

    Raises:
        ModelError: the folder is damaged, or was fine-tuned from another base than the embedded.
    """
    index, base = read_index(folder, (FINE_TUNE,), "a fine-tuned base"), load_own()
    if index.get("base") != hash_weights(base.network):
        raise ModelError(
            f"{printable(folder)} was fine-tuned from another base than the embedded one: train "
            "it again"
        )
    file = checked_weights(folder, "denoiser", index)
    try:
        unknown = base.network.load_state_dict(load_file(file), strict=False).unexpected_keys
        model = replace(base, spec=AudioSpec(**index["spec"]), name=folder.name, distilled=None)
        check_whole(model)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{printable(folder)} is damaged: its weights or its {INDEX} do not fit "
            f"({one_line(error)})"
        ) from None
    if unknown:
        raise ModelError(
            f"{printable(file)} has weights that the embedded base has not, such as {unknown[0]}"
        )
    sha256 = hash_with_student(base.base_sha256, hash_file(file))
    return replace(model, sha256=sha256, base_sha256=sha256)
