"""MusicGen through `transformers`: what text adherence is compared with (DITTO-2, Table 3; Copet et
al. 2023).

It is no diffusion model and takes no control; it only makes audio of texts.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, MusicgenForConditionalGeneration, PreTrainedTokenizerBase

from ditto.errors import ModelError, RequestError, one_line
from ditto.paths import printable

DEFAULT = "facebook/musicgen-small"
MAX_SECONDS = 30.0
"""Length of MusicGen's training clips; its positions go no further in earnest."""


@dataclass(frozen=True, eq=False)
class MusicGen:
    """A MusicGen model.

    Attributes:
        model: frozen, in evaluation mode, float32.
        tokenizer: of its text encoder.
        name: where it came from.
    """

    model: MusicgenForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    name: str = "unnamed"

    @classmethod
    def load(cls, source: str | os.PathLike[str] = DEFAULT) -> "MusicGen":
        """The model of a folder or a Hub id, from safetensors.

        Raises:
            ModelError: there is none, it is incomplete or damaged, or the Hub cannot be reached.
        """
        local = Path(source).is_dir()
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
            found: Any = MusicgenForConditionalGeneration.from_pretrained(
                source,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=local,
                output_loading_info=True,
            )
            model, report = found
        except (
            Exception
        ) as error:  # what the Hub, its cache and damaged files raise has no common ancestor
            raise ModelError(
                f"cannot load MusicGen from {printable(source)}: {one_line(error)}"
            ) from None
        if report["missing_keys"]:
            # transformers has filled them with random numbers
            raise ModelError(
                f"the MusicGen in {printable(source)} is incomplete: {len(report['missing_keys'])} tensors lack"
            )
        return cls(model.requires_grad_(False).eval(), tokenizer, os.fspath(source))

    @property
    def sample_rate(self) -> int:
        """Of its audio, in Hz."""
        return int(self._config.audio_encoder.sampling_rate)

    @property
    def _config(self) -> Any:
        return self.model.config

    def generate(
        self, texts: Sequence[str], seconds: float, *, seed: int = 0, guidance: float = 3.0
    ) -> Tensor:
        """Audio (B, samples), mono, one clip a text; clip i is drawn with ``seed + i``, as it would
        be alone.

        Args:
            texts: descriptions.
            seconds: length, at most 30.
            seed: of the first clip.
            guidance: scale of classifier-free guidance in MusicGen's convention, 3 as published.

        Raises:
            RequestError: no text, or a length out of range.
        """
        if not texts or not all(text.strip() for text in texts):
            raise RequestError("MusicGen needs a text for every clip")
        if not 0 < seconds <= MAX_SECONDS:
            raise RequestError(
                f"seconds must be above 0 and at most {MAX_SECONDS:g} for MusicGen, not {seconds:g}"
            )
        return torch.cat(
            [self._clip(text, seconds, seed + i, guidance) for i, text in enumerate(texts)]
        )

    @torch.no_grad()
    def _clip(self, text: str, seconds: float, seed: int, guidance: float) -> Tensor:
        codec = self._config.audio_encoder
        tokens = self.tokenizer([text], return_tensors="pt").to(self.model.device)
        # The codebooks are delayed against each other, so the last frames of all but one are
        # padding.
        frames = math.ceil(seconds * codec.frame_rate) + self._config.decoder.num_codebooks
        # transformers draws from the process-wide generators.
        with torch.random.fork_rng(devices=_devices(self.model.device)):
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


def _devices(device: torch.device) -> list[torch.device]:
    """The generators to keep besides the CPU's."""
    return [] if device.type == "cpu" else [device]
