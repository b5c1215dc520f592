"""From runs to a model folder: averaged weights of base, vocoder, student; the vocabulary."""

from dataclasses import replace
from pathlib import Path

from ditto.audio.spec import AudioSpec
from ditto.data.dataset import vocabulary_of
from ditto.data.shards import find_data
from ditto.errors import DataError, one_line
from ditto.models.conditioning import TagVocabulary
from ditto.models.fine_tune import save_fine_tune
from ditto.models.folder import INDEX
from ditto.models.hub import load
from ditto.models.model import MusicModel
from ditto.models.own import check_whole
from ditto.paths import StrPath
from ditto.training.base import EMBEDDED, Network, load_bands, load_ema
from ditto.training.denoising import BaseConfig
from ditto.training.distill import load_distilled
from ditto.training.loop import load_config
from ditto.training.vocoder import load_vocoder


def pack(base: Path, vocoder: Path, data: StrPath, out: Path, guidance: float) -> str:
    """Write a model folder from the newest checkpoints of two runs; return the model's hash.

    Args:
        base: run folder of the base; of one that never saw a tag, the model knows none.
        vocoder: run folder of the vocoder, or "embedded" for the embedded model's.
        data: the folder whose tags the base knows; else it is not read.
        out: of the model.
        guidance: its default w.

    Raises:
        DataError: a run has no checkpoint, the data folder is not one, or these do not fit
            together.
    """
    config = load_config(base / "config.json", BaseConfig)
    head = load().vocoder if str(vocoder) == EMBEDDED else load_vocoder(vocoder)
    network = load_ema(base)
    if config.tag_dropout == 1:
        network, vocabulary = _untagged(network), TagVocabulary((), (), tempo_bins=0)
    else:
        vocabulary = vocabulary_of(find_data(data))
    spec = AudioSpec(clip_frames=config.frames)
    shift = config.data_std if config.shift is None else config.shift
    bands = load_bands(base)
    # Karras' levels are for data of a deviation of about 1.
    normalised = bool(bands)
    model = MusicModel(
        network,
        head,
        spec,
        vocabulary,
        guidance,
        shift=shift,
        spacing="karras" if normalised else None,
        sampler="dpm++" if normalised else "ddim",
        bands=bands,
    )
    try:
        check_whole(model)
    except (ValueError, ArithmeticError) as error:
        raise DataError(
            f"these make no model ({one_line(error)}): give --data of the folder that the base "
            "learned from, a vocoder of its spectrogram, and a finite --guidance"
        ) from None
    return model.save(out)


def _untagged(network: Network) -> Network:
    """Return a base with the embeddings of no tag alone: those of the others are as they began."""
    alone = type(network)(**{**network.config, "tag_sizes": (1, 1, 1)})
    state, shapes = network.state_dict(), alone.state_dict()
    alone.load_state_dict({name: state[name][: len(shapes[name])] for name in shapes})
    return alone.eval()


def pack_fine_tune(run: Path, out: Path) -> str:
    """Write what a run changed of the embedded base, from its newest checkpoint; return the hash.

    Raises:
        DataError: the run has no checkpoint, or did not start from the embedded base or a model
            that was tuned from it.
    """
    config = load_config(run / "config.json", BaseConfig)
    start = config.start_from
    if start != EMBEDDED and not (start and (Path(start) / INDEX).is_file()):
        raise DataError(
            f"the run {str(run)!r} did not start from the embedded base: pack it with a vocoder"
        )
    return save_fine_tune(load_ema(run), AudioSpec(clip_frames=config.frames), out)


def pack_student(
    run: Path, teacher: Path | None, out: Path, *, alone: bool = False, device: str = "cpu"
) -> str:
    """Write the teacher's model with a run's student, or the student `alone`; return the hash.

    `teacher` is a model folder, None the embedded one; `out` may be the same folder;
    `device` is where the teacher is loaded.

    Raises:
        DataError: the run has no checkpoint, or was made with another teacher.
    """
    model = load(teacher, device=device)
    distilled = load_distilled(run, model)
    return (
        distilled.save(out, model.student_card())
        if alone
        else replace(model, distilled=distilled).save(out)
    )
