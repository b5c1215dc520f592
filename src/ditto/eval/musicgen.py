"""MusicGen by `transformers`, the baseline of text adherence (Copet et al. 2023; DITTO-2 Table 3).

An autoregressive model from text to audio, without controls.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    MusicgenForConditionalGeneration,
    MusicgenMelodyForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from ditto.errors import ModelError, RequestError, one_line
from ditto.paths import printable

DEFAULT = "facebook/musicgen-small"
KINDS = {"musicgen_melody": MusicgenMelodyForConditionalGeneration}
MAX_SECONDS = 30.0
"""Length of MusicGen's training clips; quality degrades beyond."""


@dataclass(frozen=True, eq=False)
class MusicGen:
    """Generate audio by MusicGen, or by the kind of it that also takes melodies, without one.

    Attributes:
        model: frozen, in evaluation mode, float32.
        tokenizer: of its text encoder.
        name: folder or Hub id.
    """

    model: MusicgenForConditionalGeneration | MusicgenMelodyForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    name: str = "unnamed"

    @classmethod
    def load(cls, source: str | os.PathLike[str] = DEFAULT) -> "MusicGen":
        """Load a folder or a Hub id, from safetensors.

        Raises:
            ModelError: it is missing, incomplete or damaged, or the Hub cannot be reached.
        """
        local = Path(source).is_dir()
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
            kind = AutoConfig.from_pretrained(source, local_files_only=local).model_type
            cls_of = KINDS.get(kind, MusicgenForConditionalGeneration)
            loaded: Any = cls_of.from_pretrained(
                source,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=local,
                output_loading_info=True,
            )
            model, report = loaded
        except Exception as error:  # the Hub, its cache and damaged files raise unrelated types
            raise ModelError(
                f"cannot load MusicGen from {printable(source)}: {one_line(error)}"
            ) from None
        missing = len(report["missing_keys"])  # transformers fills them with random numbers
        if missing:
            raise ModelError(
                f"the MusicGen in {printable(source)} is incomplete: {missing} tensors lack"
            )
        return cls(model.requires_grad_(False).eval(), tokenizer, os.fspath(source))

    @property
    def sample_rate(self) -> int:
        """Sample rate of its audio, in Hz."""
        return int(self._config.audio_encoder.sampling_rate)

    @property
    def _config(self) -> Any:
        return self.model.config

    def generate(
        self, texts: Sequence[str], seconds: float, *, seed: int = 0, guidance: float = 3.0
    ) -> Tensor:
        """Generate mono audio (B, samples), one clip per text; clip i has the seed ``seed + i``.

        Args:
            texts: descriptions.
            seconds: length, at most 30.
            seed: of the first clip.
            guidance: scale of classifier-free guidance in MusicGen's convention, 3 as published.

        Raises:
            RequestError: an empty text, or a length out of range.
        """
        if not texts or not all(text.strip() for text in texts):
            raise RequestError("MusicGen needs a text for every clip")
        if not 0 < seconds <= MAX_SECONDS:
            raise RequestError(
                f"seconds must be above 0 and at most {MAX_SECONDS:g} for MusicGen, not {seconds:g}"
            )
        clips = [self._clip(text, seconds, seed + i, guidance) for i, text in enumerate(texts)]
        return torch.cat(clips)

    @torch.no_grad()
    def _clip(self, text: str, seconds: float, seed: int, guidance: float) -> Tensor:
        codec = self._config.audio_encoder
        tokens = self.tokenizer([text], return_tensors="pt").to(self.model.device)
        # The codebooks are delayed against each other: the last frames of all but one are padding.
        frames = math.ceil(seconds * codec.frame_rate) + self._config.decoder.num_codebooks
        # transformers draws from the process-wide generators, which are restored here
        device = self.model.device
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
            torch.manual_seed(seed)
            audio = self.model.generate(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                do_sample=True,
                guidance_scale=guidance,
                max_new_tokens=frames,
            )
        assert isinstance(audio, Tensor)
        return audio.mean(dim=1)[:, : round(seconds * self.sample_rate)].cpu().float()
