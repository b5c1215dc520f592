"""Results as the page shows them: plain data, and files beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import singledispatch
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from ditto.audio.io import read, write
from ditto.controls.base import Control
from ditto.controls.melody import Melody
from ditto.controls.output import Output
from ditto.edit.result import Edit
from ditto.panels import ChromaPanel, CurvePanel, MatrixPanel, Panel, Spans
from ditto.result import Result
from ditto.studio.tunes import write_midi

COLUMNS = 4000
"""Most columns of a waveform."""
POINTS = 2000
"""Most values of a curve: the page is told of them at every change of a job."""
SOUND = "out.wav"

LABELS = {
    "intensity_mse_db2": ("Loudness, mean square error", "dB²"),
    "intensity_rho": ("Loudness, correlation", ""),
    "melody_accuracy_percent": ("Melody, frames on the tune", "%"),
    "melody_nll": ("Melody, 𝓛", "nats"),
    "structure_mse": ("Form, mean square error", ""),
    "clap_score": ("Text, CLAP score", ""),
    "brightness_mse_octaves2": ("Brightness, mean square error", "octaves²"),
    "brightness_rho": ("Brightness, correlation", ""),
    "beats_f_measure_percent": ("Beats, F-measure", "%"),
    "beats_stand_out_times": ("Beats, how they stand out", "times"),
    "inpaint_mse": ("What is kept, mean square error", ""),
    "outpaint_mse": ("The overlap, mean square error", ""),
    "loop_mse": ("Start against end, mean square error", ""),
}
"""Names of errors in reports → what the page calls them, unit."""


def address(file: Path) -> str:
    """Return where a file of the store is found, from the studio's root."""
    return f"studio/files/{file.parent.name}/{quote(file.name)}"


def peaks(samples: np.ndarray, columns: int = COLUMNS) -> dict[str, list[int]]:
    """Return lowest and highest sample of each column in hundredths, all channels together.

    Args:
        samples: shape (channels, n).
        columns: most of them.
    """
    count = min(columns, samples.shape[1])
    edges = np.linspace(0, samples.shape[1], count, endpoint=False).astype(int)
    low = np.minimum.reduceat(samples.min(axis=0), edges)
    high = np.maximum.reduceat(samples.max(axis=0), edges)
    return {
        "low": np.clip(np.floor(low * 100), -100, 100).astype(int).tolist(),
        "high": np.clip(np.ceil(high * 100), -100, 100).astype(int).tolist(),
    }


def errors(values: Mapping[str, float]) -> list[dict[str, str]]:
    """Return the errors as lines: key, label and value with its unit."""
    found = []
    for key, value in values.items():
        label, unit = LABELS.get(key.split("#")[0], (key.replace("_", " "), ""))
        found.append({"key": key, "label": label, "value": f"{value:.3g} {unit}".strip()})
    return found


def show_clip(result: Result, item: int, folder: Path) -> dict[str, Any]:
    """Write one clip of a result and everything beside it; return what the page shows.

    Args:
        result: what a request came to.
        item: of the batch.
        folder: empty.
    """
    sound, picture, report = result.save(folder / SOUND, item)
    latent = result.latent(item).save(folder / "out.latent")
    downloads = [("WAV", sound), ("JSON", report), (".latent", latent), ("picture", picture)]
    controls = result.request.controls
    downloads += write_target(controls, folder, result.request.tags.tempo)
    control = result.request.control
    with torch.no_grad():
        output = Output(result.x_0, result.model, result.audio)
        mel = output.mel[item]
        panels = control.panels(output, item) if control else []
    spectrogram = save_image(folder / "spectrogram.png", mel, -0.375, 0.875)
    samples = np.atleast_2d(result.samples(item))
    return {
        "name": f"Seed {result.request.seed + item}",
        "title": result.title(item),
        "seconds": samples.shape[1] / result.model.spec.sample_rate,
        "sound": address(sound),
        "peaks": peaks(samples),
        "spectrogram": address(spectrogram),
        "side": "With control",
        "others": [],
        "panels": draw_all(panels, folder),
        "errors": errors({name: value[item].item() for name, value in result.errors.items()}),
        "downloads": [{"label": label, "url": address(file)} for label, file in downloads],
        "latent": folder.name,
    }


def show_plain(samples: np.ndarray, rate: int, folder: Path) -> dict[str, Any]:
    """Write a sound without control; return it as another side of an A/B.

    Args:
        samples: shape (channels, n) or (n,), within ±1.
        rate: in Hz.
        folder: of the clip or the edit with control.
    """
    samples, file = np.atleast_2d(samples), folder / "without-control.wav"
    write(file, samples, rate)
    return {
        "name": "Without control",
        "sound": address(file),
        "peaks": peaks(samples),
        "errors": [],
        "seconds": samples.shape[1] / rate,
    }


def show_edit(
    edit: Edit, before: Path | None, folder: Path, tempo: float | None = None
) -> dict[str, Any]:
    """Write an edit's files; return what the page shows.

    Args:
        edit: what was made.
        before: the recording as the page plays it, if there was one.
        folder: empty.
        tempo: that a melody is written down in.
    """
    sound, picture, report = edit.save(folder / SOUND)
    rate, seams = edit.sample_rate, edit.seams()
    worst = max((seam["percentile"] or 0.0 for seam in seams), default=np.nan)
    lines = errors(edit.errors)
    if np.isfinite(worst):
        told = f"percentile {worst:.0f} of the music's own jumps"
        lines.append({"key": "seams", "label": "Seams, at most", "value": told})
    controls = () if edit.request is None else edit.request.controls
    downloads = [("WAV", sound), ("JSON", report), ("picture", picture)]
    downloads += write_target(controls, folder, tempo)
    return {
        "name": edit.kind,
        "title": f"{edit.timeline.seconds:.2f} s at {rate} Hz",
        "seconds": edit.timeline.seconds,
        "sound": address(sound),
        "peaks": peaks(edit.timeline.samples),
        "picture": address(picture),
        "new": [] if edit.kind == "song" else new_spans(edit),
        "side": "With control" if before is None else "After",
        "others": [] if before is None else [show_before(edit, before)],
        "loop": edit.kind == "loop",
        "panels": draw_all(edit_panels(edit), folder),
        "errors": lines,
        "downloads": [{"label": label, "url": address(file)} for label, file in downloads],
    }


def show_before(edit: Edit, before: Path) -> dict[str, Any]:
    """Return the recording as the other side of an edit, and where it begins in the whole."""
    recording = edit.before
    assert recording is not None
    return {
        "name": "Before",
        "sound": address(before),
        "peaks": peaks(recording.samples),
        "seconds": recording.seconds,
        "offset": edit.timeline.origin / edit.sample_rate,
        "errors": [],
    }


def show_source(sound: Path) -> dict[str, Any]:
    """Return the clip that others were made from as the other side of an A/B."""
    audio = read(sound)
    return {
        "name": "Source",
        "sound": address(sound),
        "peaks": peaks(audio.samples),
        "errors": [],
        "seconds": audio.seconds,
    }


def new_spans(edit: Edit) -> list[tuple[float, float]]:
    """Return what is new of an edit's sound, (from, to) in seconds."""
    return [(start / edit.sample_rate, end / edit.sample_rate) for start, end in edit.gaps]


def edit_panels(edit: Edit) -> list[Panel]:
    """Return target and achieved over an edit's whole, of the controls that count in what is new.

    What grows with the square of the length is left out where it does not fit the model's window.
    """
    if edit.kind == "song" or edit.request is None or not edit.model.has_mel:
        return edit.panels
    model, spec, new = edit.model, edit.model.spec, new_spans(edit)
    frames = int(edit.timeline.seconds * spec.frame_rate)
    fits = frames <= model.shape(None)[-1]
    controls = [one for one in edit.request.controls if fits or one.bare().grows_evenly]
    if not controls:
        return []
    with torch.no_grad():
        heard = edit.timeline.heard(0, frames, 0, spec)[None].to(model.device)
        output = Output(model.encode(heard), model, rendered=heard)
        found = [panel for control in controls for panel in control.panels(output, 0)]
    return [replace(panel, during=_common(panel.during, new)) for panel in found]


def _common(spans: Spans, new: Sequence[tuple[float, float]]) -> Spans:
    """Return what spans (none is all of the time) have in common with what is new."""
    pairs = [(max(a, c), min(b, d)) for a, b in spans or ((0.0, np.inf),) for c, d in new]
    return tuple((start, end) for start, end in pairs if start < end)


def write_target(
    controls: Sequence[Control], folder: Path, tempo: float | None
) -> list[tuple[str, Path]]:
    """Write the tune that the first melody among the controls asks for; return it as a download."""
    terms = [term for control in controls for term in bare_terms(control)]
    found = []
    for melody in [term for term in terms if isinstance(term, Melody)][:1]:
        write_midi(folder / "target.mid", melody.tune, tempo)
        found.append(("MIDI of the target", folder / "target.mid"))
    return found


def draw_all(panels: Sequence[Panel], folder: Path) -> list[dict[str, Any]]:
    """Return controls' panels as data for the page, with pictures in a folder."""
    return [
        {"title": panel.title, "during": panel.during, **drawing}
        for i, panel in enumerate(panels)
        if (drawing := draw(panel, folder / f"panel-{i}"))
    ]


@singledispatch
def draw(panel: Panel, stem: Path) -> dict[str, Any] | None:
    """Return a control's panel as data for the page; None where there is nothing to draw.

    Args:
        panel: target against achieved.
        stem: of the names of pictures, which are written.
    """
    return None


@draw.register
def _(panel: CurvePanel, stem: Path) -> dict[str, Any]:
    return {
        "kind": "curve",
        "unit": panel.unit,
        "target": _rounded(panel.target),
        "achieved": _rounded(panel.achieved),
    }


@draw.register
def _(panel: ChromaPanel, stem: Path) -> dict[str, Any]:
    picture = save_image(stem.with_suffix(".png"), torch.from_numpy(panel.shares), 0.0, 1.0)
    classes = [int(value) for value in panel.target]
    return {"kind": "chroma", "achieved": address(picture), "target": classes}


@draw.register
def _(panel: MatrixPanel, stem: Path) -> dict[str, Any]:
    found = {"kind": "matrix"}
    for name in ("target", "achieved"):
        matrix = torch.from_numpy(getattr(panel, name))[::2, ::2]
        file = stem.with_name(f"{stem.name}-{name}.png")
        found[name] = address(save_image(file, matrix, 0.0, 1.0, "viridis"))
    return found


def save_image(file: Path, values: Tensor, low: float, high: float, colours: str = "magma") -> Path:
    """Write values (rows, columns), the first row lowest, as a PNG of a pixel each."""
    from matplotlib.image import imsave  # slow to import, and no start of a page needs it

    picture = values.float().cpu().numpy()
    imsave(file, picture, vmin=low, vmax=high, cmap=colours, origin="lower", format="png")
    return file


def bare_terms(control: Control) -> list[Control]:
    """Return the controls that a control is a sum of, without what wraps them."""
    return [term.bare() for term, _ in control.bare().terms()]


def _rounded(values: np.ndarray) -> list[float]:
    """Return a curve of at most `POINTS` values."""
    return [round(float(value), 2) for value in values[:: -(-len(values) // POINTS)]]
