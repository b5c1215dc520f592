"""CLAP: texts and sounds in one space, compared by cosine similarity (DITTO-2 §5.4).

`Clap.load` takes the embedded one, a folder, or a Hub id such as ``laion/larger_clap_music``. All
have the weights of a `transformers.ClapModel`; only size and values differ. A folder has the Hub's
layout::

    config.json  model.safetensors  preprocessor_config.json  tokenizer.json  tokenizer_config.json
    clap.json    how it was made, its scores, the SHA-256 of its weights (only in folders that Ditto
    wrote)
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from ditto.errors import ControlError, ModelError, OutputError, one_line
from ditto.models.clap_audio import ClapAudio, ClapAudioConfig
from ditto.models.clap_frontend import ClapFrontEnd
from ditto.models.clap_text import ClapText, ClapTextConfig, Tokens
from ditto.models.folder import ANY_FAULT, hash_file
from ditto.models.network import Unfilled, at_most, hash_tensors
from ditto.paths import atomic_folder, printable

if TYPE_CHECKING:  # imported at use: transformers is slow to import
    from transformers import ClapModel, PreTrainedTokenizerBase

Half = TypeVar("Half", bound=nn.Module)

EMBEDDED = Path(__file__).parents[1] / "weights" / "clap"
"""Folder of the CLAP that is installed with the package."""

WEIGHTS, CARD, EXTRACTOR = "model.safetensors", "clap.json", "preprocessor_config.json"
# Index tables that transformers makes by itself; some published weights have them and some have
# not.
_DERIVED = re.compile(r"(position_ids|token_type_ids|relative_position_index|num_batches_tracked)$")


@dataclass(frozen=True, eq=False)
class Clap:
    """Embeddings of texts and sounds.

    Both halves are frozen, in float32 and in evaluation mode. What reads texts is made when there
    is one to read.

    Attributes:
        config: what ``config.json`` says.
        weights: by the names of a `transformers.ClapModel`.
        make_tokens: makes what cuts its texts into tokens.
        front_end: of its sounds.
        name: where it came from.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Tensor] = field(repr=False)
    make_tokens: Callable[[], Tokens] = field(repr=False)
    front_end: ClapFrontEnd
    name: str = "unnamed"

    @classmethod
    def load(cls, source: str | os.PathLike[str] | None = None) -> "Clap":
        """Load the embedded CLAP, or a folder's or Hub id's ``model.safetensors``.

        Raises:
            ModelError: there is none, it is incomplete or damaged, or the Hub cannot be reached.
        """
        folder = EMBEDDED if source is None else _folder(source)
        if not (folder / WEIGHTS).is_file():
            hint = (
                "train it with `ditto-music train clap`"
                if source is None
                else f"it has no {WEIGHTS}"
            )
            raise ModelError(
                f"no CLAP in {printable(folder)}: {hint}, or name another folder or Hub id"
            )
        name = "embedded" if source is None else os.fspath(source)
        with _loading(folder):
            _check_hash(folder)
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            settings = json.loads((folder / EXTRACTOR).read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS)
            clap = cls(
                config, weights, partial(Tokens.load, folder), ClapFrontEnd.of(settings), name
            )
            clap.audio.check(clap.front_end.frames, clap.front_end.n_mels)  # said now, not in use
        return clap

    @classmethod
    def of(
        cls,
        model: "ClapModel",
        tokenizer: "PreTrainedTokenizerBase | Tokens",
        front_end: ClapFrontEnd,
        name: str = "unnamed",
    ) -> "Clap":
        """Make one of what transformers has made."""
        tokens = tokenizer if isinstance(tokenizer, Tokens) else Tokens.of(tokenizer)
        return cls(model.config.to_dict(), model.state_dict(), lambda: tokens, front_end, name)

    @cached_property
    def audio(self) -> ClapAudio:
        """The half that hears."""
        config = ClapAudioConfig.of(self.config)
        return self._half(lambda: ClapAudio(config), "audio_")

    @cached_property
    def text(self) -> ClapText:
        """The half that reads, on the CPU.

        Raises:
            ModelError: weights of it are missing or of other shapes than the config's.
        """
        with _loading(self.name):
            config = ClapTextConfig.of(self.config)
            return self._half(lambda: ClapText(config), "text_")

    @cached_property
    def tokens(self) -> Tokens:
        """What cuts texts into tokens.

        Raises:
            ModelError: its file is missing or damaged.
        """
        with _loading(self.name):
            tokens, most = self.make_tokens(), ClapTextConfig.of(self.config).vocab_size
            if tokens.tokenizer.get_vocab_size() > most:
                known = tokens.tokenizer.get_vocab_size()
                raise ValueError(f"its tokenizer knows {known} words, and its text half {most}")
            return tokens

    def _half(self, make: Callable[[], Half], prefix: str) -> Half:
        """Make the half whose weights' names begin with `prefix`.

        Raises:
            ValueError: weights are missing, or the config asks for more than there are.
            RuntimeError: one has another shape than the config's.
        """
        # Not from_pretrained: it fills weights that a file lacks with random ones.
        found = {name: value for name, value in self.weights.items() if name.startswith(prefix)}
        values = sum(value.numel() for value in self.weights.values())
        with torch.random.fork_rng(devices=[]), at_most(values), Unfilled():
            half = make()
        missing = half.load_state_dict(found, strict=False).missing_keys
        lost = [name for name in missing if not _DERIVED.search(name)]
        if lost:
            raise ValueError(f"{WEIGHTS} lacks {len(lost)} tensors, {lost[0]} among them")
        return half.float().requires_grad_(False).eval()

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Embed N texts as unit vectors (N, D), on the CPU.

        Raises:
            ControlError: a text is empty, longer than CLAP reads, or has no word that CLAP knows.
        """
        for text in texts:
            self._check_text(text)
        tokens = self.tokens.batch(texts, self.text.config.pad_token_id)
        return normalize(self.text(tokens), dim=-1)

    def to(self, device: torch.device) -> None:
        """Move what hears to a device, which sounds to embed then need not leave."""
        self.audio.to(device)

    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Embed audio (B, samples) as unit vectors (B, D), differentiably.

        A long sound's is the mean over its windows, normalised.
        """
        return self.embed_features(self.front_end(audio, sample_rate))

    def embed_features(self, features: Tensor) -> Tensor:
        """Embed a front end's log-mels (B, windows, channels, frames, n_mels) as (B, D)."""
        weight = self.audio.audio_projection.linear1.weight
        flat = features.flatten(0, 1).to(weight.device, weight.dtype)
        windows = self.audio(flat).unflatten(0, features.shape[:2])
        return normalize(windows.mean(dim=1), dim=-1).to(features.device)

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text without a token (none if the tokenizer spells words out)."""
        words = re.findall(r"\w+", text)
        return [word for word in words if self.tokens.unknown in self.tokens.content(word)]

    @property
    def size(self) -> int:
        """Length of an embedding, D."""
        return self.audio.audio_projection.linear2.out_features

    @cached_property
    def sha256(self) -> str:
        """`hash_tensors` of the weights."""
        return hash_tensors(self.weights)

    def _check_text(self, text: str) -> None:
        content = self.tokens.content(text)
        if not content:
            raise ControlError(
                "the text is empty: describe the music, e.g. 'a calm jazz trio with vibraphone'"
            )
        limit = min(self.text.config.positions, self.tokens.longest) - 2
        if len(content) > limit:
            raise ControlError(
                f"the text has {len(content)} tokens and CLAP reads at most {limit}: shorten it"
            )
        if all(token == self.tokens.unknown for token in content):
            raise ControlError(
                f"CLAP knows no word of {_excerpt(text)!r}: describe genre, mood, tempo or "
                "instruments in English"
            )


def _folder(source: str | os.PathLike[str]) -> Path:
    """Return the folder itself, or the Hub's copy."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(os.fspath(source), allow_patterns=["*.json", "*.txt", WEIGHTS])
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = one_line(error)
        raise ModelError(
            f"no folder {printable(source)}, and the Hub gives no model of that name: {reason}"
        ) from None


@contextmanager
def _loading(source: str | os.PathLike[str]) -> Iterator[None]:
    """Say in one line what is wrong with a CLAP's files.

    Raises:
        ModelError: something is.
    """
    try:
        yield
    except ANY_FAULT as error:
        said = f"cannot load the CLAP in {printable(source)}: {one_line(error)}"
        raise ModelError(said) from None


def _check_hash(folder: Path) -> None:
    card = folder / CARD
    if card.is_file():
        promised = json.loads(card.read_text(encoding="utf-8"))["sha256"]
        if hash_file(folder / WEIGHTS) != promised:
            raise ValueError(f"the SHA-256 of {WEIGHTS} is not the one in {CARD}")


def save(
    folder: Path,
    model: "ClapModel",
    tokenizer: "PreTrainedTokenizerBase",
    extractor: dict[str, Any],
    card: dict[str, Any],
) -> str:
    """Write a folder that `Clap.load` takes, weights in float16; return their SHA-256.

    Args:
        folder: made if need be; a CLAP that is there is replaced.
        model: of any floating dtype; left as it is.
        tokenizer: of its texts.
        extractor: fields of a `ClapFeatureExtractor`.
        card: what ``clap.json`` is to say.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
    """
    from transformers import ClapFeatureExtractor

    if folder.exists() and not (folder / WEIGHTS).is_file() and any(folder.iterdir()):
        raise OutputError(f"{printable(folder)} exists and holds no CLAP: choose another name")
    tensors = {name: _half(value) for name, value in model.state_dict().items()}
    with atomic_folder(folder) as new:
        model.config.save_pretrained(new)
        tokenizer.save_pretrained(new)
        ClapFeatureExtractor(**extractor).save_pretrained(new)
        save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
        digest = hash_file(new / WEIGHTS)
        whole = json.dumps({**card, "sha256": digest}, indent=1) + "\n"
        (new / CARD).write_text(whole, encoding="utf-8")
    return digest


def _half(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return (value.half() if value.is_floating_point() else value).contiguous()


def _excerpt(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"
