"""From runs to a model folder: the averaged base weights and the vocoder's, with the data's vocabulary."""

from pathlib import Path

from ditto.audio.spec import AudioSpec
from ditto.data.dataset import vocabulary_of
from ditto.models.music_model import MusicModel
from ditto.training.base import BaseConfig, load_ema
from ditto.training.loop import load_config
from ditto.training.vocoder import load_vocoder


def pack(base: Path, vocoder: Path, data: Path, out: Path, guidance: float) -> str:
    """Write a model folder from the newest checkpoints of two runs; returns the model's hash.

    Raises:
        DataError: a run has no checkpoint, or the data folder is not one.
    """
    config = load_config(base / "config.json", BaseConfig)
    head = load_vocoder(vocoder)
    spec = AudioSpec(clip_frames=config.frames)
    shift = config.data_std if config.shift is None else config.shift
    model = MusicModel(load_ema(base), head, spec, vocabulary_of(data), guidance, shift=shift)
    return model.save(out)
