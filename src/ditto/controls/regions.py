"""Regions of x_0 that match others: outpainting, inpainting, looping, inversion.

DITTO section 4, appendices D and E. All are 𝓛 = mean of (M_gen ⊙ x_0 − M_ref ⊙ x_ref)² over the
masked values, of the log-mel whatever the model space, or of a latent; they need no vocoder, and
fit any model whose x_0 has time on its last axis.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ditto.controls.base import Control
from ditto.controls.output import FrameSpans, Output
from ditto.errors import ControlError
from ditto.models.model import MusicModel
from ditto.panels import Panel, RegionPanel
from ditto.tables import Constant


@dataclass(frozen=True, eq=False)
class Region(Control):
    """Parts of x_0 equal a reference.

    Attributes:
        kind: what for: "outpaint", "inpaint", "loop" or "invert"; it names the error.
        reference: y in the clip's own time, shape (…, frames) of the model's x_0; only `spans` are
            read.
        spans: frames where it counts.
    """

    kind: str
    reference: Tensor
    spans: FrameSpans

    def __post_init__(self) -> None:
        """Check the spans.

        Raises:
            ControlError: none, or one that is empty or outside the reference.
        """
        for start, end in self.spans or ((0, 0),):
            if not 0 <= start < end <= self.reference.shape[-1]:
                raise ControlError(
                    f"a region to {self.kind} must lie within the clip's "
                    f"{self.reference.shape[-1]} frames, and not be empty: not {start} to {end}"
                )

    @classmethod
    def outpaint(
        cls, reference: Tensor, overlap: int, frames: int, *, backwards: bool = False
    ) -> "Region":
        """Match the clip's first `overlap` frames with the reference's last.

        Args:
            reference: shape (…, frames of the reference).
            overlap: frames that are alike.
            frames: of the clip.
            backwards: match the clip's last frames with the reference's first.
        """
        if not 0 < overlap <= min(frames, reference.shape[-1]):
            raise ControlError(
                f"the overlap, {overlap} frames, must be shorter than the clip and the reference"
            )
        placed = reference.new_zeros(*reference.shape[:-1], frames)
        if backwards:
            placed[..., frames - overlap :] = reference[..., :overlap]
            return cls("outpaint", placed, ((frames - overlap, frames),))
        placed[..., :overlap] = reference[..., reference.shape[-1] - overlap :]
        return cls("outpaint", placed, ((0, overlap),))

    @classmethod
    def inpaint(cls, reference: Tensor, gaps: FrameSpans) -> "Region":
        """Keep all of the reference but the `gaps` (frames)."""
        frames = reference.shape[-1]
        ends = [0, *(edge for gap in sorted(gaps) for edge in gap), frames]
        kept = tuple(
            (start, end) for start, end in zip(ends[::2], ends[1::2], strict=True) if start < end
        )
        return cls("inpaint", reference, kept)

    @classmethod
    def loop(cls, reference: Tensor, overlap: int, frames: int) -> "Region":
        """Start the clip with the reference's last `overlap` frames and end it with its first."""
        if not 0 < 2 * overlap <= frames or overlap > reference.shape[-1]:
            raise ControlError(
                f"the overlap, {overlap} frames, must be at most half the clip and not pass the "
                "reference"
            )
        placed = reference.new_zeros(*reference.shape[:-1], frames)
        placed[..., :overlap] = reference[..., reference.shape[-1] - overlap :]
        placed[..., frames - overlap :] = reference[..., :overlap]
        return cls("loop", placed, ((0, overlap), (frames - overlap, frames)))

    @classmethod
    def invert(cls, reference: Tensor) -> "Region":
        """Match all of the reference (appendix D); start from DDIM inversion."""
        return cls("invert", reference, ((0, reference.shape[-1]),))

    def without(self, frames: FrameSpans) -> "Region":
        """Return the region less some frames, e.g. those whose windows pass a file's end."""
        counts = torch.zeros(self.reference.shape[-1], dtype=torch.bool)
        for start, end in self.spans:
            counts[start:end] = True
        for start, end in frames:
            counts[max(start, 0) : max(end, 0)] = False
        edges = (
            torch.diff(torch.cat([counts.new_zeros(1), counts, counts.new_zeros(1)]).int())
            .nonzero()[:, 0]
            .tolist()
        )
        return Region(self.kind, self.reference, tuple(zip(edges[::2], edges[1::2], strict=True)))

    def loss(self, output: Output) -> Tensor:
        """Return 𝓛 of each item, shape (B,)."""
        return self._difference(output).square().flatten(1).mean(dim=1)

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the mean square error in units of the log-mel, or of a latent.

        A log-mel is [-1, 1] over the dynamic range.
        """
        return {f"{self.kind}_mse": self.loss(output)}

    def _difference(self, output: Output) -> Tensor:
        """Return x_0 − y where it counts, shape (B, …, frames that count)."""
        mel, reference = output.model.bands.mel, self._constant.like(output.x_0)
        made, reference = mel(output.x_0), mel(reference)
        difference = torch.cat(
            [made[..., a:b] - reference[..., a:b] for a, b in self.spans], dim=-1
        )
        if output.mask is None:
            return difference
        return difference[..., torch.cat([output.mask[a:b] for a, b in self.spans])]

    @cached_property
    def _constant(self) -> Constant:
        return Constant(self.reference)

    def check(self, model: MusicModel, frames: int) -> None:
        """Refuse a reference of another length or of another model's shape."""
        expected = (*model.shape(None)[:-1], frames)
        if tuple(self.reference.shape) != expected:
            raise ControlError(
                f"the reference to {self.kind} has shape {tuple(self.reference.shape)}, but the "
                f"clip {expected}"
            )

    def known_region(self) -> tuple[Tensor, FrameSpans]:
        """Return the reference and the spans."""
        return self.reference, self.spans

    def panels(self, output: Output, item: int) -> list[Panel]:
        """Return the reference where it counts."""
        mel = output.model.to_mel(self.reference[None].float())[0].cpu().numpy()
        return [RegionPanel(title=f"{self.kind}: to be matched", target=mel, spans=self.spans)]

    def to_dict(self) -> dict[str, Any]:
        """Return kind and spans of frames."""
        return {"control": self.kind, "frames": [list(span) for span in self.spans]}


@dataclass(frozen=True, eq=False)
class SelfLoop(Control):
    """The clip returns to its own start (appendix E).

    Frames [0, overlap) equal frames [period, period + overlap). Both ends are free in the paper's
    loss, and meet most easily where nothing moves: a held chord. With `start` both are to equal the
    start of a clip that is music already, besides each other.

    Attributes:
        period: length of the loop in frames.
        overlap: frames that are alike (the paper's 0.5 s).
        start: a clip's x_0 (…, frames), with whose first frames the loop begins, and to which it
            returns; None leaves both ends free.
    """

    period: int
    overlap: int
    start: Tensor | None = field(default=None, repr=False)
    kind = "loop"

    def loss(self, output: Output) -> Tensor:
        """Return 𝓛 of each item, shape (B,)."""
        if self.start is None:
            return self._distance(output)
        first, again = self._ends(output)
        wanted = output.model.bands.mel(self._constant.like(output.x_0))[..., : self.overlap]
        apart = torch.stack([first - wanted, again - wanted, first - again])
        return apart.square().mean(dim=0).flatten(1).mean(dim=1)

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the mean square error between the ends, in units of the log-mel or of a latent."""
        return {"loop_mse": self._distance(output)}

    def _distance(self, output: Output) -> Tensor:
        first, again = self._ends(output)
        return (first - again).square().flatten(1).mean(dim=1)

    def _ends(self, output: Output) -> tuple[Tensor, Tensor]:
        mel = output.model.bands.mel(output.x_0)
        return mel[..., : self.overlap], mel[..., self.period : self.period + self.overlap]

    @cached_property
    def _constant(self) -> Constant:
        assert self.start is not None
        return Constant(self.start)

    def check(self, model: MusicModel, frames: int) -> None:
        """Refuse a loop that does not fit the clip together with its overlap, and another start."""
        if not 0 < self.overlap <= self.period or self.period + self.overlap > frames:
            raise ControlError(
                f"a loop of {self.period} frames with {self.overlap} of overlap does not fit a "
                f"clip of {frames}"
            )
        shape = model.shape(None)[:-1]
        if self.start is not None and (
            self.start.shape[:-1] != shape or self.start.shape[-1] < self.overlap
        ):
            raise ControlError(
                f"the loop's start has shape {tuple(self.start.shape)}, but the clip "
                f"{(*shape, frames)}"
            )

    def panels(self, output: Output, item: int) -> list[Panel]:
        """Return the loop's start, where it has to come again."""
        mel = output.model.to_mel(output.x_0[item : item + 1].float())[0].detach().cpu().numpy()
        shown = mel.copy()
        shown[:, self.period : self.period + self.overlap] = mel[:, : self.overlap]
        spans = ((self.period, self.period + self.overlap),)
        return [
            RegionPanel(title="loop: the start, where it comes again", target=shown, spans=spans)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return period and overlap in frames."""
        return {"control": self.kind, "period": self.period, "overlap": self.overlap}
