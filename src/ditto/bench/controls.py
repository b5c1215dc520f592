"""``ditto-music bench controls``: every control and edit of the papers, on targets that training never saw.

Each task is done without control, by DITTO, and by DITTO-2 with a CTM and a CM student, with the same x_T, tags and
targets: curves and forms drawn by the clip's seed, public-domain tunes, and held-out recordings to edit. Errors are
measured on what a user gets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ditto.bench import charts
from ditto.bench.clips import RealClips, real_clips, weights_digest
from ditto.bench.intensity import random_curve
from ditto.bench.report import Claim, Partial, Report, Row, Tensors, model_entry
from ditto.bench.tunes import drawn_tune
from ditto.controls.balance import papers_iterations
from ditto.controls.base import Control
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.regions import Region, SelfLoop
from ditto.controls.structure import Form, Structure
from ditto.edit.edits import SELF_OVERLAP
from ditto.edit.fill import Filling
from ditto.edit.timeline import FADE_SECONDS, Timeline
from ditto.errors import ModelError
from ditto.latents import Latent
from ditto.methods.inversion import ddim_inversion
from ditto.metrics.bootstrap import mean_interval, ratio_interval, statistic_interval
from ditto.metrics.embeddings import listen
from ditto.metrics.frechet import frechet_distance
from ditto.metrics.seams import seam_jump, typical_jumps
from ditto.models.classifier import ClipClassifier
from ditto.models.music_model import MusicModel
from ditto.request import Request, Result, chain_of, run

Method = str
METHODS: tuple[Method, ...] = ("no control", "DITTO", "DITTO-2 CTM", "DITTO-2 CM")
FORMS = ("AB", "ABA", "ABAB", "ABBA", "AAB", "ABB", "A:2 B:3 A:2", "A:3 B:2")
OVERLAP, WIDE_OVERLAP, GAP = 1.0, 2.0, 4.0
"""Seconds: of out- and inpainting, of outpainting beside intensity (appendix H), and of the gap to inpaint."""
MOST_OVERLAP = 0.4
"""Share of a clip that is overlapped at most."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What all tasks share."""

    model: MusicModel
    cm: MusicModel | None
    ear: ClipClassifier
    real: RealClips
    seed: int
    iterations: int | None
    guidance: float

    def request(self, i: int, method: Method, controls: Sequence[Control] = ()) -> Request:
        """Clip `i` by a method; the method "none" draws and measures the same without optimising."""
        tags = self.model.vocabulary.decode(self.real.tags[i].tolist())
        kind: Any = {"no control": "none", "DITTO": "ditto"}.get(method, "ditto2")
        iterations = papers_iterations(controls) if self.iterations is None else self.iterations
        return Request(
            controls=tuple(controls), tags=tags, seed=self.seed + i, method=kind, guidance=self.guidance,
            iterations=iterations,
        )  # fmt: skip

    def player(self, method: Method) -> MusicModel:
        """The model that a method plays on.

        Raises:
            ModelError: it needs a student that is not there.
        """
        if not method.startswith("DITTO-2"):
            return self.model
        kind = method.split()[-1].lower()
        found = self.cm if kind == "cm" else self.model
        if found is None or found.distilled is None or found.distilled.kind != kind:
            raise ModelError(f"there is no {kind.upper()} student: distil one with `ditto-music distill {kind}`")
        return found

    def song(self, i: int) -> Timeline:
        """A held-out clip as a recording."""
        samples = self.real.audio[i].numpy()[None]
        return Timeline(samples, np.ones(samples.shape[1], bool), self.model.spec.sample_rate)


Outcome = tuple[Result, list[float]]
"""A result, and the spectral jumps of its seams in dB."""

Make = Callable[[Setting, int, Method], Outcome]


@dataclass(frozen=True)
class Task:
    """One control or edit.

    Attributes:
        name: the row's first word.
        make: does it.
        units: of the errors that are reported, by name.
        paper: what DITTO reports without and with control, by error.
        cut: how many times smaller the (first) error must become; None for no claim.
    """

    name: str
    make: Make
    units: dict[str, str]
    paper: dict[str, tuple[float, float]]
    cut: float | None


def _targets(setting: Setting, i: int, names: Sequence[str]) -> list[Control]:
    """The targets of clip `i`, drawn by its seed."""
    model = setting.model
    curve = random_curve(np.random.default_rng([setting.seed + i, 2]), model.spec.clip_seconds)
    tempo = model.vocabulary.decode(setting.real.tags[i].tolist()).tempo or 120.0
    form = FORMS[int(np.random.default_rng([setting.seed + i, 5]).integers(len(FORMS)))]
    overlap = round(SELF_OVERLAP * model.spec.frame_rate)
    found: dict[str, Control] = {
        "intensity": Intensity(curve),
        "melody": Melody(drawn_tune(np.random.default_rng([setting.seed + i, 4]), tempo)),
        "structure": Structure(_form(form)),
        "loop": SelfLoop(model.shape()[-1] - overlap, overlap),
    }
    return [found[name] for name in names]


def _form(text: str) -> Form:
    return Structure(text).form


def _generated(names: Sequence[str], setting: Setting, i: int, method: Method) -> Outcome:
    """A clip from nothing that follows its targets."""
    controls = _targets(setting, i, names)
    return run(setting.request(i, method, controls), setting.player(method)), []


def _painted(kind: str, names: Sequence[str], overlap: float, setting: Setting, i: int, method: Method) -> Outcome:
    """A held-out clip that goes on, or whose middle is made anew; without control it is cut and pasted."""
    song, model = setting.song(i), setting.player(method)
    overlap = min(overlap, MOST_OVERLAP * song.seconds)
    new = song.length - song.at(overlap) - 64
    gap = (song.length, song.length + new)
    if kind == "inpaint":
        middle, half = song.length // 2, song.at(min(GAP, song.seconds - 2 * overlap) / 2)
        gap = (middle - half, middle + half)
    timeline = song.extended(0, max(gap[1] - song.length, 0))
    extra = _targets(setting, i, names)
    request = setting.request(i, method, extra)
    fade = 0.0 if method == "no control" else FADE_SECONDS
    filling = Filling(kind, model, request, overlap, all_context=kind == "inpaint", fade=fade)
    filled, results = filling.fill(timeline, [gap])
    heard = torch.from_numpy(filled.samples[0])
    edges = [edge for edge in gap if 0 < edge < filled.length]
    return results[0], [seam_jump(heard, edge / song.sample_rate, model.spec) for edge in edges]


def _looped(setting: Setting, i: int, method: Method) -> Outcome:
    """A loop from nothing; its join is heard when it is repeated."""
    result, _ = _generated(("loop",), setting, i, method)
    spec, control = setting.model.spec, result.request.controls[0]
    assert isinstance(control, SelfLoop)
    once = result.audio[0, : spec.samples(control.period)]
    return result, [seam_jump(torch.cat([once, once]), len(once) / spec.sample_rate, spec)]


def _inverted(setting: Setting, i: int, method: Method) -> Outcome:
    """A held-out clip made again; "no control" is DDIM inversion alone."""
    model = setting.player(method)
    x_ref = model.encode(setting.real.audio[i : i + 1])
    request = setting.request(i, method)
    chain = chain_of(replace(request, method="ditto"), model)
    start = Latent(ddim_inversion(chain, x_ref), model.sha256, name="DDIM inversion")
    return run(replace(request, controls=(Region.invert(x_ref[0]),), start=start), model), []


INTENSITY, MELODY, STRUCTURE = {"intensity_mse_db2": "dB^2"}, {"melody_accuracy_percent": "%"}, {"structure_mse": ""}
PAPER = {
    "intensity_mse_db2": (40.843, 4.758), "melody_accuracy_percent": (10.527, 82.625), "structure_mse": (0.309, 0.024),
}  # fmt: skip
TASKS = (
    Task("intensity", partial(_generated, ("intensity",)), INTENSITY, PAPER, 8.0),
    Task("melody", partial(_generated, ("melody",)), MELODY, PAPER, None),
    Task("structure", partial(_generated, ("structure",)), STRUCTURE, PAPER, 10.0),
    Task("outpainting", partial(_painted, "outpaint", (), OVERLAP), {"outpaint_mse": ""}, {}, 10.0),
    Task("inpainting", partial(_painted, "inpaint", (), OVERLAP), {"inpaint_mse": ""}, {}, 10.0),
    Task("looping", _looped, {"loop_mse": ""}, {}, 10.0),
    Task("inversion", _inverted, {"invert_mse": ""}, {"invert_mse": (0.0072, 0.001)}, None),
    Task("intensity+structure", partial(_generated, ("intensity", "structure")), INTENSITY | STRUCTURE,
         {"intensity_mse_db2": (40.843, 6.802), "structure_mse": (0.309, 0.092)}, 2.0),
    Task("intensity+melody", partial(_generated, ("intensity", "melody")), INTENSITY | MELODY,
         {"intensity_mse_db2": (40.843, 7.833), "melody_accuracy_percent": (10.527, 43.6)}, 2.0),
    Task("intensity+outpainting", partial(_painted, "outpaint", ("intensity",), WIDE_OVERLAP),
         INTENSITY | {"outpaint_mse": ""}, {"intensity_mse_db2": (40.843, 5.783)}, 2.0),
)  # fmt: skip
"""The papers' controls and edits, and Table 9's pairs."""


def run_controls(
    model: MusicModel, heldout: Path, classifier: ClipClassifier | Path, *, cm: Path | None = None, count: int = 16,
    tasks: Sequence[str] = (), seed: int = 0, out: Path = Path("docs/results"), iterations: int | None = None,
    guidance: float | None = None, cache: Path = Path("runs/bench"), resume: bool = True, show: bool = True,
    command: str | None = None,
) -> Report:  # fmt: skip
    """Measure and write controls.json, controls.md and controls.png into `out`.

    Args:
        model: what is steered, with its CTM student if it has one.
        heldout: data folder of real clips: what is edited, the tags, and the reference of the Fréchet distance.
        classifier: the network whose embedding that distance is in, or its folder.
        cm: folder of a CM student; None leaves its rows without values.
        count: clips a row.
        tasks: names of some of `TASKS`; none given is all.
        seed: item i draws targets and x_T from ``seed + i``.
        out: folder of the results.
        iterations: K; None is the papers' for each control.
        guidance: CFG scale w of every row; None is the model's default.
        cache: where finished clips are kept, so that a killed run goes on.
        resume: use those.
        show: progress.
        command: what the report says it was run by.

    Raises:
        DataError: the held-out folder cannot be used.
        ModelError: a folder of weights cannot be loaded, or a task has no such name.
        OutputError: the results cannot be written.
    """
    ear = classifier if isinstance(classifier, ClipClassifier) else ClipClassifier.load(classifier)
    chosen = _chosen(tasks)
    real = real_clips(heldout, model.spec, model.vocabulary, count, seed)
    count = min(count, real.count)
    scale = model.guidance if guidance is None else guidance
    setting = Setting(model, model.with_student(cm) if cm else None, ear, real, seed, iterations, scale)
    settings: dict[str, Any] = {
        "iterations": iterations or "papers'", "guidance": scale, "classifier_sha256": ear.sha256(),
        "heldout": real.digest,
    }  # fmt: skip
    identity = settings | {"model": weights_digest(model), "seed": seed}
    found = {
        (task.name, method): _found(setting, task, method, count, identity, cache, resume, show)
        for task in chosen for method in METHODS
    }  # fmt: skip
    spec = model.spec
    limit = float(np.percentile(np.concatenate([typical_jumps(audio, spec) for audio in real.audio[:count]]), 95))
    halves = listen(ear, model.encode(real.audio)).vectors
    reference = halves[: real.count], halves[real.count :]
    rows = [row for task in chosen for method in METHODS for row in _rows(task, method, found, reference, limit)]
    report = Report(
        "controls", command or f"ditto-music bench controls --count {count}", model_entry(model), "classifier", count,
        seed, sum(f["seconds"].sum().item() for f in found.values() if not isinstance(f, str)),
        settings | {"seam_limit_db": limit}, tuple(rows), tuple(c for task in chosen for c in _claims(task, found)),
    )  # fmt: skip
    report.write(out, _picture(chosen, report))
    return report


def _chosen(names: Sequence[str]) -> list[Task]:
    unknown = sorted(set(names) - {task.name for task in TASKS})
    if unknown:
        raise ModelError(f"there is no task {unknown[0]!r}: choose of {', '.join(task.name for task in TASKS)}")
    return [task for task in TASKS if not names or task.name in names]


def _found(
    setting: Setting, task: Task, method: Method, count: int, identity: dict[str, Any], cache: Path, resume: bool,
    show: bool,
) -> Tensors | str:  # fmt: skip
    """What a method makes of a task, or why it cannot."""
    try:
        player = setting.player(method)
    except ModelError as error:
        return str(error)
    own = identity | {"task": task.name, "method": method, "student": weights_digest(player)}
    parts = Partial(cache, "controls", own, batch=1, resume=resume, show=show)
    return parts.gathered(f"{task.name} {method}".replace(" ", "-"), count, partial(_measured, setting, task, method))


def _measured(setting: Setting, task: Task, method: Method, first: int, last: int) -> Tensors:
    """Errors, embedding, seams and seconds of clip `first`."""
    assert last == first + 1
    result, jumps = task.make(setting, first, method)
    return {
        **{name: result.errors[name].double() for name in task.units},
        "embeddings": listen(setting.ear, setting.model.encode(result.audio)).embeddings,
        "jumps": torch.tensor([jumps], dtype=torch.float64),
        "clip_seconds": torch.tensor([sum(result.timings.values())], dtype=torch.float64),
    }


def _rows(
    task: Task, method: Method, found: dict[tuple[str, Method], Tensors | str], reference: tuple[Any, Any], limit: float
) -> list[Row]:
    own, name = found[task.name, method], f"{task.name}, {method}"
    place = {"no control": 0, "DITTO": 1}.get(method)
    if isinstance(own, str):
        return [Row(name, column, unit, error=own) for column, unit in task.units.items()]
    papers = {column: task.paper[column][place] for column in task.units if column in task.paper and place is not None}
    rows = [Row.of(name, c, unit, mean_interval(own[c].numpy()), papers.get(c)) for c, unit in task.units.items()]
    vectors = own["embeddings"].double().numpy()
    if len(vectors) > 1:
        rows.append(Row.of(name, "frechet_distance", "", statistic_interval(_distance, vectors, *reference)))
    if own["jumps"].shape[1]:
        within = (own["jumps"] <= limit).double().mean(dim=1).numpy()
        rows.append(Row.of(name, "seams_within_limit", "", mean_interval(within)))
        rows.append(Row.of(name, "seam_jump", "dB", mean_interval(own["jumps"].mean(dim=1).numpy())))
    return [*rows, Row.of(name, "seconds_per_clip", "s", mean_interval(own["clip_seconds"].numpy()))]


def _distance(clips: Any, first: Any, second: Any) -> float:
    """Fréchet distance to real clips, the mean over their two halves."""
    return (frechet_distance(clips, first) + frechet_distance(clips, second)) / 2


def _claims(task: Task, found: dict[tuple[str, Method], Tensors | str]) -> list[Claim]:
    claims = []
    plain = found[task.name, "no control"]
    for method in METHODS[1:]:
        own = found[task.name, method]
        if isinstance(own, str) or isinstance(plain, str):
            continue
        if task.name == "melody":
            accuracy = mean_interval(own["melody_accuracy_percent"].numpy())
            claims.append(Claim.at_least(f"melody, {method}: accuracy of at least 75 % (chance 8.3)", accuracy, 75.0))
        if task.name == "inversion":
            error = mean_interval(own["invert_mse"].numpy())
            claims.append(Claim.at_most(f"inversion, {method}: MSE of at most 0.003", error, 0.003))
        for column in task.units if task.cut else ():
            ratio = ratio_interval(_error(plain, column), _error(own, column), paired=True)
            words = f"{task.name}, {method}: {column} at least {task.cut:g} times nearer than without control"
            claims.append(Claim.at_least(words, ratio, task.cut or 0.0))
    return claims


def _error(found: Tensors, column: str) -> Any:
    """An error that falls as things get better: an accuracy counts by what it lacks."""
    values: Tensor = found[column]
    return (100 - values if column == "melody_accuracy_percent" else values).numpy()


def _picture(tasks: Sequence[Task], report: Report) -> Figure:
    """Every error as a share of no control's."""
    shares = {
        f"{task.name}: {column}": {
            method: share for method in METHODS[1:] if (share := _share(report, task, column, method)) is not None
        }
        for task in tasks for column in task.units
    }  # fmt: skip
    return charts.shares(shares, "error as a share of no control's (melody: of what accuracy lacks)")


def _share(report: Report, task: Task, column: str, method: Method) -> float | None:
    own = report.value(f"{task.name}, {method}", column)
    plain = report.value(f"{task.name}, no control", column)
    if own is None or plain is None:
        return None
    own, plain = (100 - v if column == "melody_accuracy_percent" else v for v in (own, plain))
    return own / plain if plain else None
