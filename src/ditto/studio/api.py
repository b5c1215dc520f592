"""The functions that Gradio's API offers, for `gradio_client` and curl.

Sounds are addresses on this server, ``studio/files/…``; recordings and latents are given by the
token that ``POST studio/upload/sound?name=song.wav`` answers.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import gradio as gr

from ditto.errors import DittoError
from ditto.studio.front import Front
from ditto.studio.jobs import NOT_BEGUN, Job


def functions(studio: Front) -> list[Callable[..., Any]]:
    """Return the functions; their signatures are the API's."""

    async def generate(
        tags: str = "",
        loudness: str = "",
        melody: str = "",
        structure: str = "",
        text: str = "",
        brightness: str = "",
        seed: int = 0,
        iterations: int = 0,
        seconds: float = 0.0,
        chords: str = "",
        beats: str = "",
    ) -> dict:
        """Make a clip that follows the controls; texts are those of the command line.

        Args:
            tags: such as "genre=jazz mood=calm tempo=110".
            loudness: a shape, or "0:-36 3:-14 5:-30" (seconds:dB).
            melody: such as "C4:1 E4:1 G4:2".
            structure: such as "ABA".
            text: a description.
            brightness: a shape, or "0:700 5:2800" (seconds:Hz).
            seed: of the clip.
            iterations: K; 0 is the default for the controls.
            seconds: length; 0 is the model's window, and more than that a song.
            chords: such as "Am:4 F:4 C:4 G:4".
            beats: such as "120".
        """
        texts = {
            "loudness": loudness,
            "melody": melody,
            "structure": structure,
            "text": text,
            "brightness": brightness,
            "chords": chords,
            "beats": beats,
        }
        values: dict[str, Any] = {name: {"text": given} for name, given in texts.items() if given}
        values |= {"tags": tags, "seed": seed}
        values |= {"iterations": iterations} if iterations else {}
        values |= {"seconds": seconds} if seconds else {}
        return await _clip(studio, lambda: studio.wish("generate", values, compare=False))

    async def edit(
        kind: str,
        recording: str = "",
        regions: list = [],  # noqa: B006 - Gradio shows the default; it is not changed
        seconds: float = 0.0,
        backwards: bool = False,
        bpm: float = 0.0,
        bars: int = 0,
        tags: str = "",
        seed: int = 0,
        iterations: int = 0,
        loudness: str = "",
        melody: str = "",
        text: str = "",
        brightness: str = "",
        chords: str = "",
        beats: str = "",
    ) -> dict:
        """Edit a recording, or make a loop.

        Args:
            kind: inpaint, outpaint or loop.
            recording: token of an upload; none is a loop from nothing.
            regions: of inpaint, such as [[2.0, 4.0]].
            seconds: length of the whole in the end.
            backwards: whether outpaint grows at the start.
            bpm: of a loop, with bars.
            bars: of a loop, with bpm.
            tags: such as "genre=jazz".
            seed: of the first window.
            iterations: K; 0 is the default.
            loudness: of what is new, over the whole.
            melody: of what is new, over the whole.
            text: a description of what is new.
            brightness: of what is new, over the whole.
            chords: of what is new, over the whole.
            beats: of what is new, over the whole.
        """
        values: dict[str, Any] = {"kind": kind, "regions": regions, "backwards": backwards}
        given = {"recording": recording, "seconds": seconds, "bpm": bpm, "bars": bars}
        given |= {"iterations": iterations}
        values |= {name: value for name, value in given.items() if value}
        texts = {
            "loudness": loudness,
            "melody": melody,
            "text": text,
            "brightness": brightness,
            "chords": chords,
            "beats": beats,
        }
        values |= {name: {"text": given} for name, given in texts.items() if given}
        values |= {"tags": tags, "seed": seed}
        return await _clip(studio, lambda: studio.wish("edit", values, compare=False))

    async def vary(latent: str, count: int = 4, tags: str = "", seed: int = 0) -> list:
        """Make other clips from one latent.

        Args:
            latent: token of an upload, or of a clip.
            count: clips.
            tags: new ones; none keeps the latent's.
            seed: of the first clip.
        """
        values = {"latent": latent, "count": count, "tags": tags, "seed": seed}
        job = await _over(studio, lambda: studio.wish("vary", values))
        return [about(clip) for clip in job.clips]

    return [generate, edit, vary]


def about(clip: dict[str, Any]) -> dict[str, Any]:
    """Return what an answer says of a clip."""
    shown = {key: clip[key] for key in ("title", "seconds", "sound", "command") if key in clip}
    shown["files"] = {one["label"]: one["url"] for one in clip["downloads"]}
    shown["errors"] = {one["key"]: one["value"] for one in clip["errors"]}
    return shown | ({"latent": clip["latent"]} if "latent" in clip else {})


async def _over(studio: Front, submit: Callable[[], Job]) -> Job:
    """Queue a job and wait for it.

    Raises:
        gr.Error: it was refused, or failed.
    """
    try:
        job = await asyncio.to_thread(submit)
    except DittoError as error:
        raise gr.Error(studio.store.clean(str(error)), print_exception=False) from None
    async for _ in studio.jobs.watch(job):
        pass
    if not job.clips:
        raise gr.Error(job.line or NOT_BEGUN, print_exception=False)
    return job


async def _clip(studio: Front, submit: Callable[[], Job]) -> dict[str, Any]:
    job = await _over(studio, submit)
    return about(job.clips[0]) | {"note": job.line}
