"""The papers' tables as data: which method does which task, what is measured, and what the paper
found.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from benchmarks.ear import CLAP, FAD, OWN_CLAP, Found
from benchmarks.report import Claim, Report, Row
from benchmarks.setups import (
    CHECKPOINTED,
    CONTROLNET,
    CTM,
    DITTO,
    DOODL,
    FREEDOM,
    GG,
    MD,
    MD50,
    NAIVE,
    PUBLISHED_CM,
    PUBLISHED_CTM,
    TTM,
    Base,
    Setup,
    Task,
)
from benchmarks.tasks import (
    CONTROLS,
    FIXED,
    FREE,
    INPAINTING,
    INVERSION,
    LOOPING,
    MEMORY,
    OUTPAINTING,
    PAIRS,
    PLAIN,
    TEXT,
    TOLD,
    reuse,
)
from ditto.eval.batch_variance import less_variance
from ditto.eval.bootstrap import ratio_interval
from ditto.models.conditioning import Tags


@dataclass(frozen=True)
class Measure:
    """A figure of clips.

    Attributes:
        unit: "" for a pure number.
        best: what it is at best; the distance from there is what claims compare. None where more
            says nothing.
    """

    unit: str = ""
    best: float | None = 0.0


MEASURES = {
    "intensity_mse_db2": Measure("dB^2"),
    "intensity_rho": Measure("", 1.0),
    "melody_accuracy_percent": Measure("%", 100.0),
    "structure_mse": Measure(),
    "outpaint_mse": Measure(),
    "inpaint_mse": Measure(),
    "loop_mse": Measure(),
    "invert_mse": Measure(),
    "seam_jump": Measure("dB"),
    "seam_jumps": Measure("dB"),
    "seams_within_limit": Measure("", 1.0),
    "frechet_distance": Measure(),
    "clap_score": Measure("", 1.0),
    "clap_score_optimised": Measure("", 1.0),
    "seconds_per_clip": Measure("s"),
    "steps_to_converge": Measure("steps"),
    "seconds_per_step": Measure("s"),
    "mean_memory_gb": Measure("GB"),
    "reuse_loss": Measure(),
    "intensity_variance": Measure("dB^2"),
    "melody_variance": Measure(),
    "structure_variance": Measure(),
}
"""By name, as in rows."""
TIME = "seconds_per_clip"
MSE, RHO, ACCURACY, STRUCTURE = (
    "intensity_mse_db2",
    "intensity_rho",
    "melody_accuracy_percent",
    "structure_mse",
)


@dataclass(frozen=True, eq=False)
class Entry:
    """One row: a task by a method.

    Attributes:
        group: rows that are compared with each other share it; the row's first words.
        task, setup: what is made.
        columns: measures.
        row: the paper's row.
        papers: the paper's columns, by measure.
        scale: factors from the paper's unit to ours, by measure.
        figures: what the papers have where the table has no paper of its own, by measure.
    """

    group: str
    task: Task
    setup: Setup
    columns: tuple[str, ...]
    row: str | None = None
    papers: Mapping[str, str] = field(default_factory=dict)
    scale: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The row's name."""
        return f"{self.group}, {self.setup.name}" if self.group else self.setup.name


@dataclass(frozen=True, eq=False)
class Table:
    """A table of a paper.

    Attributes:
        name: of the bench.
        title: what it shows.
        paper: its key in ``paper.json``; None for a figure without numbers.
        entries: rows.
        pivot: the method that the paper compares the others with; each comparison becomes a claim.
        given: rows that are not measured.
        claims: what is claimed, if it is not the pivot's order.
        further: claims besides that order.
        picture: of the report, if it is not `benchmarks.charts.table`.
    """

    name: str
    title: str
    paper: str | None
    entries: tuple[Entry, ...]
    pivot: str
    given: tuple[Row, ...] = ()
    claims: "Callable[[Mapping[Entry, Found | str]], list[Claim]] | None" = None
    further: "Callable[[Mapping[Entry, Found | str]], list[Claim]] | None" = None
    picture: Callable[[Report], Figure] | None = None


def _edits(tasks: Iterable[tuple[Task, str, str]], setups: Sequence[Setup]) -> tuple[Entry, ...]:
    """Tables 1 and 2: (task, its error, the paper's column) by every method."""
    return tuple(
        Entry(task.name, task, setup, (FAD, error, "seam_jump", TIME), setup.name, {FAD: column})
        for task, error, column in tasks
        for setup in setups
    )


LINEAR = (DOODL, NAIVE, MD, MD50, GG, FREEDOM, DITTO)
TABLE_1 = Table(
    "d1-table1",
    "Outpainting and looping",
    "d1_table1_out_and_loop_fad",
    _edits(
        [
            *((OUTPAINTING[o], "outpaint_mse", f"overlap {o} s") for o in (1, 2, 3)),
            (LOOPING, "loop_mse", "looping"),
        ],
        LINEAR,
    ),
    "DITTO",
)
TABLE_2 = Table(
    "d1-table2",
    "Inpainting",
    "d1_table2_inpaint_fad",
    _edits(((INPAINTING[gap], "inpaint_mse", f"gap {gap} s") for gap in (2, 3, 4)), LINEAR),
    "DITTO",
)

ERRORS = {"intensity": MSE, "melody": ACCURACY, "structure": STRUCTURE}
PAPERS_ERROR = {
    "intensity": "intensity MSE",
    "melody": "melody acc %",
    "structure": "structure MSE",
}
TABLE_3 = Table(
    "d1-table3",
    "Intensity, melody and structure control",
    "d1_table3_controls",
    tuple(
        Entry(
            name,
            CONTROLS[name],
            setup,
            (error, FAD, CLAP, TIME),
            setup.name,
            {error: PAPERS_ERROR[name], FAD: f"{name} FAD", CLAP: f"{name} CLAP"},
        )
        for name, error in ERRORS.items()
        for setup in (TTM, CONTROLNET, FREEDOM, DOODL, DITTO)
        if (name, setup) != ("structure", CONTROLNET)
    ),
    "DITTO",
)


def _efficiency(steps: int) -> tuple[Entry, ...]:
    """Table 5's columns at T = `steps`: the clips, and the memory, which is measured apart."""
    figures = {
        MSE: "MSE",
        FAD: "FAD",
        CLAP: "CLAP",
        "steps_to_converge": "MS2C (steps)",
        "seconds_per_step": "MOS (s/step)",
    }
    found = []
    for setup in (CHECKPOINTED, DOODL):
        timed = setup if steps == 20 else setup.but(setup.name, few=True, steps=steps)
        name = f"{setup.name} {steps}"
        found.append(
            Entry(f"T={steps}", CONTROLS["intensity"], timed, tuple(figures), name, figures)
        )
        found.append(
            Entry(
                f"T={steps}",
                MEMORY,
                timed,
                ("mean_memory_gb",),
                name,
                {"mean_memory_gb": "MAM (GB)"},
            )
        )
    return tuple(found)


TABLE_5 = Table(
    "d1-table5",
    "Efficiency of DITTO and DOODL on intensity",
    "d1_table5_efficiency_intensity",
    (*_efficiency(20), *_efficiency(50)),
    "DITTO",
)

BY_SHAPE = {MSE: "MSE", RHO: "rho", CLAP: "CLAP"}
TABLE_6 = Table(
    "d1-table6",
    "Intensity by its correlation",
    "d1_table6_intensity_correlation",
    tuple(
        Entry("intensity", task, setup, (MSE, RHO, FAD, CLAP), row, BY_SHAPE)
        for task, setup, row in (
            (CONTROLS["intensity"], CONTROLNET, "Music ControlNet"),
            (CONTROLS["intensity"], DITTO.but("DITTO (MSE loss)"), "DITTO (MSE loss)"),
            (CONTROLS["correlation"], DITTO.but("DITTO (rho loss)"), "DITTO (rho loss)"),
        )
    ),
    "DITTO (rho loss)",
)

HOWS = (("Naive", "naive"), ("DDIM", "ddim"), ("NT", "null-text"), ("DITTO", "ditto"))
WINDOWS: tuple[tuple[str, Base], ...] = (("6s", "window"), ("24s", "long"))


def _inverting(how: str, base: Base, guidance: float, name: str) -> Setup:
    return DITTO.but(name, base=base, few=base == "long", how=how, guidance=guidance)


TABLE_7 = Table(
    "d1-table7",
    "Inversion of held-out clips",
    "d1_table7_inversion_mse",
    tuple(
        Entry(
            f"{window} w={w:g}",
            INVERSION,
            _inverting(how, base, w, name),
            ("invert_mse",),
            name,
            {"invert_mse": f"{window} w={w:g}"},
        )
        for window, base in WINDOWS
        for w in (0.0, 1.0, 4.0, 7.5)
        for name, how in HOWS
    ),
    "DITTO",
)

DDIM, DPM = DITTO.but("DDIM"), DITTO.but("DPM++", sampler="dpm++")
TABLE_8 = Table(
    "d1-table8",
    "Samplers while optimising",
    "d1_table8_samplers",
    tuple(
        Entry(
            name,
            task,
            setup,
            columns,
            f"{name} {setup.name}",
            {MSE: "MSE"} if MSE in columns else {},
        )
        for name, task, columns in (
            ("intensity", CONTROLS["intensity"], (MSE, FAD)),
            ("outpainting", OUTPAINTING[1], ("outpaint_mse", FAD)),
        )
        for setup in (DDIM, DPM)
    ),
    "DDIM",
)
"""Table 6's and Table 8's FAD is in another embedding than the other tables' and is not put beside
ours."""

SECOND = {"outpainting": "outpaint_mse", "structure": STRUCTURE, "melody": ACCURACY}
TABLE_9 = Table(
    "d1-table9",
    "Two controls at once",
    "d1_table9_multi_objective",
    tuple(
        Entry(
            f"intensity+{name}",
            PAIRS[name],
            setup,
            (MSE, second, FAD, CLAP),
            f"intensity+{name} {'Music-ControlNet' if setup is CONTROLNET else setup.name}",
            {MSE: "first", second: "second", FAD: "FAD", CLAP: "CLAP"},
            {ACCURACY: 100.0},
        )
        for name, second in SECOND.items()
        for setup in (DITTO, FREEDOM, CONTROLNET)
        if setup is not CONTROLNET or name == "melody"
    ),
    "DITTO",
)
"""The paper gives the accuracy of the melody as a share of 1."""

DDPM, FOLLOWED = TTM.but("DDPM"), TTM.but("DDPM+FreeDoM")
TABLE_10 = Table(
    "d1-table10",
    "Clips from one optimised latent",
    "d1_table10_reuse",
    tuple(
        Entry(
            f"{name}, {words}",
            reuse(name, "ddpm" if setup is DDPM else "ddpm+freedom", words.startswith("random")),
            setup,
            ("reuse_loss", TIME),
            f"{name} {setup.name}",
            {"reuse_loss": f"loss, {words}"},
        )
        for name in ERRORS
        for words in ("random prompts", "fixed prompt")
        for setup in (DDPM, FOLLOWED)
    ),
    "DDPM+FreeDoM",
)

TABLE_11 = Table(
    "d1-table11",
    "Latency of intensity control",
    "d1_table11_latency",
    tuple(
        Entry("", CONTROLS["intensity"], setup, (TIME, MSE), row, {TIME: "latency s"})
        for setup, row in (
            (TTM, "Base TTM"),
            (CONTROLNET, "ControlNet"),
            (FREEDOM, "FreeDoM"),
            (CHECKPOINTED, "DITTO"),
            (DOODL, "DOODL"),
        )
    ),
    "DITTO",
    (
        *(
            Row(name, "fine_tuning_hours", "GPU h", 0.0, paper=0.0)
            for name in ("FreeDoM", "DITTO", "DOODL")
        ),
        Row(
            "ControlNet",
            "fine_tuning_hours",
            "GPU h",
            paper=576.0,
            error="trained on a CPU: see its training report",
        ),
    ),
)

SIGNIFICANT = 0.01


def _variances(found: Mapping[Entry, Found | str]) -> list[Claim]:
    """One x_T for all reduces the variance within a batch."""
    fixed, free = found.values()
    if isinstance(fixed, str) or isinstance(free, str):
        return []
    claims = []
    for measure in VARIANCES:
        # One x_T may fix a feature altogether.
        a, b = (np.maximum(clips.values(measure), 1e-12) for clips in (free, fixed))
        p, ratio = less_variance(b, a).p_value, ratio_interval(a, b, paired=False)
        verdict = (
            "reproduced" if p < SIGNIFICANT else "not reproduced" if ratio.high < 1 else "undecided"
        )
        claims.append(
            Claim(f"fixing x_T reduces the {measure} within batches (p = {p:.2g})", verdict, *ratio)
        )
    return claims


VARIANCES = ("intensity_variance", "melody_variance", "structure_variance")
FIG_10 = Table(
    "d1-fig10",
    "Variance within batches that share x_T, and that do not",
    None,
    (
        Entry("", FIXED, TTM.but("fixed x_T"), VARIANCES),
        Entry("", FREE, TTM.but("free x_T"), VARIANCES),
    ),
    "fixed x_T",
    claims=_variances,
)

BENCHMARK = {
    "intensity": (CONTROLS["intensity"], MSE),
    "melody": (CONTROLS["melody"], ACCURACY),
    "structure": (CONTROLS["structure"], STRUCTURE),
    "outpainting": (OUTPAINTING[1], "outpaint_mse"),
    "inpainting": (INPAINTING[4], "inpaint_mse"),
}
D2_TABLE_1 = Table(
    "d2-table1",
    "DITTO-2 against DITTO",
    "d2_table1_benchmark",
    tuple(
        Entry(
            name,
            task,
            setup,
            (TIME, FAD, CLAP, error),
            f"{name} {setup.name}",
            {TIME: "time s", FAD: "FAD", CLAP: "CLAP", error: "control"},
        )
        for name, (task, error) in BENCHMARK.items()
        for setup in (DITTO, PUBLISHED_CM, PUBLISHED_CTM)
    )
    + tuple(
        Entry(name, task, CTM.but("DITTO-2 CTM corrected"), (TIME, FAD, CLAP, error))
        for name, (task, error) in BENCHMARK.items()
    ),
    "DITTO-2 CTM",
)
"""With rows of our own: the surrogate corrected by what decoding gives (`ditto.methods.ditto2`), as
a user gets it."""

TAGGED = TTM.but("Base TTM (tags)")
U_PLAIN = TTM.but("U-base, no control", base="unconditional", tags=Tags())
U_CTM = PUBLISHED_CTM.but("U-DITTO-2", base="unconditional", tags=Tags())
HONEST = 0.5
"""Share of the gain by the CLAP that was optimised against which a judge must hear too, or it is
reward hacking."""


def _adherence(found: Mapping[Entry, Found | str]) -> list[Claim]:
    """Text control of the unconditional model against the base that knows the tags, and whether a
    judge agrees.
    """
    rows = {entry.setup.name: clips for entry, clips in found.items()}
    steered, claims = rows[U_CTM.name], []
    for setup, words in (
        (TAGGED, "the base with tags"),
        (U_PLAIN, "the same model without control"),
    ):
        plain = rows[setup.name]
        if isinstance(plain, str) or isinstance(steered, str) or plain.ear.judge is None:
            continue
        before, after = (clips.values(CLAP) for clips in (plain, steered))
        optimised = steered.values(OWN_CLAP) - plain.values(OWN_CLAP)
        better = ratio_interval(1 - before, 1 - after, paired=True)
        shared = ratio_interval(after - before, optimised, paired=True)
        claims += [
            Claim.at_least(
                f"by a CLAP not optimised against, U-DITTO-2 fits texts better than {words}",
                better,
                1.0,
            ),
            Claim.at_least(
                f"that CLAP hears half or more of its gain over {words} by the other",
                shared,
                HONEST,
            ),
        ]
    return claims


D2_TABLE_3 = Table(
    "d2-table3",
    "Text adherence",
    "d2_table3_text",
    (
        *(
            Entry(
                "", task, setup, (CLAP, OWN_CLAP, FAD, TIME), setup.name, {CLAP: "CLAP", FAD: "FAD"}
            )
            for task, setup in (
                (PLAIN, TAGGED),
                (TEXT, PUBLISHED_CTM.but("DITTO-2 (tags)")),
                (TEXT, PUBLISHED_CTM.but("DITTO-2 (no condition)", tags=Tags())),
                (TEXT, U_CTM),
                (TOLD, TTM.but("MusicGen 1.5B melody (caption)", size="1.5B")),
                (TOLD, TTM.but("MusicGen 3.3B (caption)", size="3.3B")),
            )
        ),
        Entry("", PLAIN, U_PLAIN, (CLAP, OWN_CLAP, FAD, TIME)),
    ),
    "DITTO-2 (no condition)",
    further=_adherence,
)

TABLES = {
    table.name: table
    for table in (
        TABLE_1,
        TABLE_2,
        TABLE_3,
        TABLE_5,
        TABLE_6,
        TABLE_7,
        TABLE_8,
        TABLE_9,
        TABLE_10,
        TABLE_11,
        FIG_10,
        D2_TABLE_1,
        D2_TABLE_3,
    )
}
"""By name. Table 4 of DITTO was a listening test (`benchmarks.listening`); DITTO-2's Table 2, Fig.
4 and Fig. 5 vary budgets (`benchmarks.budget`)."""
