"""What controls read: a batch of clips in the model's space, and the part of a song that it is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ditto.audio.spec import AudioSpec
from ditto.models.heads import Feature
from ditto.models.model import MusicModel
from ditto.panels import Spans

FrameSpans = tuple[tuple[int, int], ...]
"""Stretches of frames, (first, after the last)."""


@dataclass(frozen=True, eq=False)
class Output:
    """One x_0 and its audio, which is made when first needed.

    Attributes:
        x_0: shape (B, 1, n_mels, frames).
        model: makes the audio.
        rendered: audio (B, samples), if it exists already.
        mask: frames that count, (frames,) bool; None is all.
        source: an output with the same audio, and which item of it this is (None: all).
        x_T: the latent that x_0 is of, shape (B, …); None where there is none, or several.
        seeds: of the decoder's noise, see `MusicModel.to_audio`.
    """

    x_0: Tensor
    model: MusicModel
    rendered: Tensor | None = None
    mask: Tensor | None = None
    source: "tuple[Output, int | None] | None" = None
    x_T: Tensor | None = None
    seeds: tuple[int, ...] = ()

    @cached_property
    def audio(self) -> Tensor:
        """V(x_0), shape (B, samples)."""
        if self.rendered is not None:
            return self.rendered
        if self.source is None:
            return self.model.to_audio(self.x_0, self.seeds)
        output, item = self.source
        return output.audio if item is None else output.audio[item : item + 1]

    @cached_property
    def mel(self) -> Tensor:
        """Log-mel of x_0, shape (B, n_mels, frames), in [−1, 1]."""
        return self.model.to_mel(self.x_0)

    def read(
        self, feature: Feature, of_mel: Callable[[Tensor, AudioSpec], Tensor]
    ) -> Tensor | None:
        """Return a feature estimated without the decoder.

        Args:
            feature: which of the heads'.
            of_mel: estimates it from the log-mel, where x_0 is one and there is no head.

        Returns:
            The head's, or `of_mel`'s; None where x_0 is another latent that no head reads.
        """
        read = self.model.read(self.x_0, feature)
        if read is None and self.model.has_mel:
            return of_mel(self.mel, self.model.spec)
        return read

    @property
    def frames(self) -> int:
        """Length in mel frames."""
        return self.x_0.shape[-1]

    def item(self, i: int) -> "Output":
        """Return item `i` alone; its audio is still made with the whole batch."""
        x_T = None if self.x_T is None else self.x_T[i : i + 1]
        return Output(self.x_0[i : i + 1], self.model, None, self.mask, (self, i), x_T)

    def during(self, spans: Spans) -> "Output":
        """Return the same output, counting only frames within `spans` (seconds)."""
        seconds = torch.arange(self.frames, device=self.x_0.device) / self.model.spec.frame_rate
        mask = torch.zeros_like(seconds, dtype=torch.bool)
        for start, end in spans:
            mask |= (seconds >= start) & (seconds < end)
        mask = mask if self.mask is None else mask & self.mask
        return replace(self, mask=mask, source=(self, None))

    def masked(self, values: Tensor) -> Tensor:
        """Return the frames of values (…, frames) that count."""
        return values if self.mask is None else values[..., self.mask]


@dataclass(frozen=True)
class Window:
    """One window of the model in a longer recording.

    Attributes:
        start: where it begins, in seconds of the recording.
        total: length of the recording in seconds.
        new: the part of it that is to be made, (from, to) in seconds of the window.
        before: of music made window by window: returns the log-mel of all that comes before what is
            new, (n_mels, columns), and how many frames a column is the mean of; None elsewhere.
    """

    start: float
    total: float
    new: tuple[float, float]
    before: "Callable[[], tuple[Tensor, int]] | None" = None

    @property
    def makes_all(self) -> bool:
        """Whether all of what is made lies in this window, as that of a short loop."""
        return self.start == 0 and self.new == (0, self.total)
