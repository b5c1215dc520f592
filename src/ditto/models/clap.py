"""CLAP: texts and sounds in one space, compared by cosine similarity (DITTO-2 §5.4).

`Clap.load` takes the embedded one, a folder, or a Hub id such as ``laion/larger_clap_music``. All
are `transformers.ClapModel`; only size and weights differ. A folder has the Hub's
layout::

    config.json  model.safetensors  preprocessor_config.json  tokenizer.json  tokenizer_config.json
    clap.json    how it was made, its scores, the SHA-256 of its weights (only in folders that Ditto
    wrote)
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from ditto.errors import ControlError, ModelError, OutputError, one_line
from ditto.models.clap_frontend import ClapFrontEnd
from ditto.models.folder import hash_file
from ditto.models.network import hash_weights
from ditto.paths import atomic_folder, printable

if TYPE_CHECKING:  # imported at use: transformers takes a second
    from transformers import ClapModel, PreTrainedTokenizerBase

EMBEDDED = Path(__file__).parents[1] / "weights" / "clap"
"""Folder of the CLAP that is installed with the package."""

WEIGHTS, CARD, EXTRACTOR = "model.safetensors", "clap.json", "preprocessor_config.json"
# Index tables that transformers makes by itself; some published weights have them and some have
# not.
_DERIVED = re.compile(r"(position_ids|token_type_ids|relative_position_index|num_batches_tracked)$")


@dataclass(frozen=True, eq=False)
class Clap:
    """Embeddings of texts and sounds.

    Attributes:
        model: frozen, float32, in evaluation mode.
        tokenizer: of its texts.
        front_end: of its sounds.
        name: where it came from.
    """

    model: "ClapModel"
    tokenizer: "PreTrainedTokenizerBase"
    front_end: ClapFrontEnd
    name: str = "unnamed"

    @classmethod
    def load(cls, source: str | os.PathLike[str] | None = None) -> "Clap":
        """Load the embedded CLAP, or a folder's or Hub id's ``model.safetensors``.

        Raises:
            ModelError: there is none, it is incomplete or damaged, or the Hub cannot be reached.
        """
        from transformers import AutoTokenizer

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
        try:
            _check_hash(folder)
            settings = json.loads((folder / EXTRACTOR).read_text(encoding="utf-8"))
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = _model(folder)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"cannot load the CLAP in {printable(folder)}: {one_line(error)}"
            ) from None
        name = "embedded" if source is None else os.fspath(source)
        return cls(model, tokenizer, ClapFrontEnd.of(settings), name)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Embed N texts as unit vectors (N, D), on the CPU.

        Raises:
            ControlError: a text is empty, longer than CLAP reads, or has no word that CLAP knows.
        """
        for text in texts:
            self._check_text(text)
        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt").to(
            self.model.device
        )
        output: Any = self.model.get_text_features(
            tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return output.pooler_output.cpu()

    def to(self, device: torch.device) -> None:
        """Move the network to a device, which sounds to embed then need not leave."""
        self.model.to(device)  # pyright: ignore[reportArgumentType]

    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Embed audio (B, samples) as unit vectors (B, D), differentiably.

        A long sound's is the mean over its windows, normalised.
        """
        return self.embed_features(self.front_end(audio, sample_rate))

    def embed_features(self, features: Tensor) -> Tensor:
        """Embed a front end's log-mels (B, windows, channels, frames, n_mels) as (B, D)."""
        weight = self.model.logit_scale_a
        flat = features.flatten(0, 1).to(weight.device, weight.dtype)
        # Four equal channels are what a fused CLAP expects of a sound that needs no fusion.
        longer = torch.zeros(len(flat), 1, dtype=torch.bool, device=flat.device)
        output: Any = self.model.get_audio_features(flat, is_longer=longer)
        windows = output.pooler_output.unflatten(0, features.shape[:2])
        return normalize(windows.mean(dim=1), dim=-1).to(features.device)

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text without a token (none if the tokenizer spells words out)."""
        words = re.findall(r"\w+", text)
        return [word for word in words if self.tokenizer.unk_token_id in self._content(word)]

    @property
    def size(self) -> int:
        """Length of an embedding, D."""
        return self.model.config.projection_dim

    @cached_property
    def sha256(self) -> str:
        """`hash_weights` of the model."""
        return hash_weights(self.model)

    def _check_text(self, text: str) -> None:
        content = self._content(text)
        if not content:
            raise ControlError(
                "the text is empty: describe the music, e.g. 'a calm jazz trio with vibraphone'"
            )
        limit = self._max_tokens()
        if len(content) > limit:
            raise ControlError(
                f"the text has {len(content)} tokens and CLAP reads at most {limit}: shorten it"
            )
        if all(token == self.tokenizer.unk_token_id for token in content):
            raise ControlError(
                f"CLAP knows no word of {_excerpt(text)!r}: describe genre, mood, tempo or "
                "instruments in English"
            )

    def _content(self, text: str) -> list[int]:
        return list(
            self.tokenizer(text.strip(), add_special_tokens=False, verbose=False)["input_ids"]
        )  # pyright: ignore[reportArgumentType]

    def _max_tokens(self) -> int:
        """Return the longest text in tokens; positions count from the padding's index on."""
        config: Any = self.model.config.text_config
        positions = config.max_position_embeddings - config.pad_token_id - 1
        return min(positions, self.tokenizer.model_max_length) - 2


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


def _model(folder: Path) -> "ClapModel":
    from transformers import ClapConfig, ClapModel

    config = ClapConfig.from_pretrained(folder)
    # Not from_pretrained: it fills weights that a file lacks with random ones.
    with torch.random.fork_rng(devices=[]):
        model = ClapModel(config)
    missing = model.load_state_dict(load_file(folder / WEIGHTS), strict=False).missing_keys
    lost = [name for name in missing if not _DERIVED.search(name)]
    if lost:
        raise ValueError(f"{WEIGHTS} lacks {len(lost)} tensors, {lost[0]} among them")
    return model.float().requires_grad_(False).eval()


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
