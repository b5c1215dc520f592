"""The tables of DITTO (arXiv 2401.12179) as data; Table 4, a listening test, is in `listening`."""

from collections.abc import Sequence

from benchmarks.measures import (
    ACCURACY,
    CLAP_SCORE,
    CONVERGENCE,
    FAD,
    INPAINT,
    INVERT,
    LOOP,
    MEMORY,
    MSE,
    OUTPAINT,
    REUSE,
    RHO,
    SEAM,
    STEP_TIME,
    STRUCTURE,
    TIME,
    VARIANCES,
    Measure,
)
from benchmarks.report import Row, paper
from benchmarks.runner import Entry, Table, Versus, figures
from benchmarks.tasks import (
    CONTROLS,
    FIXED,
    FREE,
    INPAINTING,
    INVERSION,
    LOOPING,
    OUTPAINTING,
    PAIRS,
    Task,
)
from benchmarks.tasks import MEMORY as MEASURED_MEMORY
from benchmarks.tasks import REUSE as REUSING
from benchmarks.variants import (
    CHECKPOINTED,
    CONTROLNET,
    DITTO,
    DOODL,
    FREEDOM,
    GG,
    MD,
    MD50,
    NAIVE,
    TTM,
    Base,
    Variant,
)

EDITORS = (DOODL, NAIVE, MD, MD50, GG, FREEDOM, DITTO)
ERRORS = {"intensity": MSE, "melody": ACCURACY, "structure": STRUCTURE}
PAPER_ERRORS = {
    "intensity": "intensity MSE",
    "melody": "melody acc %",
    "structure": "structure MSE",
}


def _edits(table: str, tasks: Sequence[tuple[Task, Measure, str]]) -> tuple[Entry, ...]:
    """Return every method's rows of (task, its error, the paper's column of FAD)."""
    return tuple(
        Entry(
            group=task.name,
            task=task,
            variant=variant,
            measures=(FAD, error, SEAM, TIME),
            papers=figures(table, variant.name, {FAD: column}),
        )
        for task, error, column in tasks
        for variant in EDITORS
    )


TABLE_1 = Table(
    "d1-table1",
    "Outpainting and looping",
    _edits(
        "d1_table1_out_and_loop_fad",
        [
            *((OUTPAINTING[o], OUTPAINT, f"overlap {o} s") for o in (1, 2, 3)),
            (LOOPING, LOOP, "looping"),
        ],
    ),
    pivot="DITTO",
)
TABLE_2 = Table(
    "d1-table2",
    "Inpainting",
    _edits(
        "d1_table2_inpaint_fad", [(INPAINTING[gap], INPAINT, f"gap {gap} s") for gap in (2, 3, 4)]
    ),
    pivot="DITTO",
)


def _controlled(name: str, variant: Variant) -> Entry:
    error = ERRORS[name]
    columns = {error: PAPER_ERRORS[name], FAD: f"{name} FAD", CLAP_SCORE: f"{name} CLAP"}
    return Entry(
        group=name,
        task=CONTROLS[name],
        variant=variant,
        measures=(error, FAD, CLAP_SCORE, TIME),
        papers=figures("d1_table3_controls", variant.name, columns),
    )


TABLE_3 = Table(
    "d1-table3",
    "Intensity, melody and structure control",
    tuple(
        _controlled(name, variant)
        for name in ERRORS
        for variant in (TTM, CONTROLNET, FREEDOM, DOODL, DITTO)
        if (name, variant) != ("structure", CONTROLNET)
    ),
    pivot="DITTO",
)


def _efficiency(steps: int) -> list[Entry]:
    """Return Table 5's rows at T = `steps`: the clips, and the memory, which is measured apart."""
    columns = {
        MSE: "MSE",
        FAD: "FAD",
        CLAP_SCORE: "CLAP",
        CONVERGENCE: "MS2C (steps)",
        STEP_TIME: "MOS (s/step)",
    }
    entries = []
    for base in (CHECKPOINTED, DOODL):
        variant = base if steps == 20 else base.with_(slow=True, steps=steps)
        for task, own in (
            (CONTROLS["intensity"], columns),
            (MEASURED_MEMORY, {MEMORY: "MAM (GB)"}),
        ):
            row = figures("d1_table5_efficiency_intensity", f"{base.name} {steps}", own)
            entries.append(Entry(f"T={steps}", task, variant, tuple(own), row))
    return entries


TABLE_5 = Table(
    "d1-table5",
    "Efficiency of DITTO and DOODL on intensity",
    (*_efficiency(20), *_efficiency(50)),
    pivot="DITTO",
)
TABLE_6 = Table(
    "d1-table6",
    "Intensity by its correlation",
    tuple(
        Entry(
            group="intensity",
            task=CONTROLS[name],
            variant=variant,
            measures=(MSE, RHO, FAD, CLAP_SCORE),
            papers=figures(
                "d1_table6_intensity_correlation", row, {MSE: "MSE", RHO: "rho", CLAP_SCORE: "CLAP"}
            ),
        )
        for name, variant, row in (
            ("intensity", CONTROLNET, "Music ControlNet"),
            ("intensity", DITTO.with_(name="DITTO (MSE loss)"), "DITTO (MSE loss)"),
            ("correlation", DITTO.with_(name="DITTO (rho loss)"), "DITTO (rho loss)"),
        )
    ),
    pivot="DITTO (rho loss)",
)
"""Table 6's and Table 8's FAD is in another embedding than the other tables', so it is left out."""

WINDOWS: tuple[tuple[str, Base], ...] = (("6s", "window"), ("24s", "long"))
INVERSIONS = (("Naive", "naive"), ("DDIM", "ddim"), ("NT", "null-text"), ("DITTO", "ditto"))
TABLE_7 = Table(
    "d1-table7",
    "Inversion of held-out clips",
    tuple(
        Entry(
            group=f"{window} w={w:g}",
            task=INVERSION[how],
            variant=DITTO.with_(name=name, base=base, slow=base == "long", guidance=w),
            measures=(INVERT,),
            papers=figures("d1_table7_inversion_mse", name, {INVERT: f"{window} w={w:g}"}),
        )
        for window, base in WINDOWS
        for w in (0.0, 1.0, 4.0, 7.5)
        for name, how in INVERSIONS
    ),
    pivot="DITTO",
)
TABLE_8 = Table(
    "d1-table8",
    "Samplers while optimising",
    tuple(
        Entry(
            group=name,
            task=task,
            variant=variant,
            measures=(error, FAD),
            papers=figures("d1_table8_samplers", f"{name} {variant.name}", columns),
        )
        for name, task, error, columns in (
            ("intensity", CONTROLS["intensity"], MSE, {MSE: "MSE"}),
            ("outpainting", OUTPAINTING[1], OUTPAINT, {}),
        )
        for variant in (DITTO.with_(name="DDIM"), DITTO.with_(name="DPM++", sampler="dpm++"))
    ),
    pivot="DDIM",
)

SECOND = {"outpainting": OUTPAINT, "structure": STRUCTURE, "melody": ACCURACY}


def _two_controls(name: str, variant: Variant) -> Entry:
    """Return a row of Table 9; the paper gives the accuracy of the melody as a share of 1."""
    second = SECOND[name]
    table = "d1_table9_multi_objective"
    row = f"intensity+{name} {'Music-ControlNet' if variant is CONTROLNET else variant.name}"
    papers = figures(table, row, {MSE: "first", FAD: "FAD", CLAP_SCORE: "CLAP"})
    papers |= figures(table, row, {second: "second"}, 100.0 if second is ACCURACY else 1.0)
    measures = (MSE, second, FAD, CLAP_SCORE)
    return Entry(f"intensity+{name}", PAIRS[name], variant, measures, papers)


TABLE_9 = Table(
    "d1-table9",
    "Two controls at once",
    tuple(
        _two_controls(name, variant)
        for name in SECOND
        for variant in (DITTO, FREEDOM, CONTROLNET)
        if variant is not CONTROLNET or name == "melody"
    ),
    pivot="DITTO",
)
TABLE_10 = Table(
    "d1-table10",
    "Clips from one optimised latent",
    tuple(
        Entry(
            group=f"{name}, {prompts}",
            task=REUSING[name, how, prompts],
            variant=TTM.with_(name=label),
            measures=(REUSE, TIME),
            papers=figures("d1_table10_reuse", f"{name} {label}", {REUSE: f"loss, {prompts}"}),
        )
        for name in ERRORS
        for prompts in ("random prompts", "fixed prompt")
        for label, how in (("DDPM", "ddpm"), ("DDPM+FreeDoM", "ddpm+freedom"))
    ),
    pivot="DDPM+FreeDoM",
)

TRAINED = "fine-tuning GPU hours"
TABLE_11 = Table(
    "d1-table11",
    "Latency of intensity control",
    tuple(
        Entry(
            group="",
            task=CONTROLS["intensity"],
            variant=variant,
            measures=(TIME, MSE),
            papers=figures("d1_table11_latency", row, {TIME: "latency s"}),
        )
        for variant, row in (
            (TTM, "Base TTM"),
            (CONTROLNET, "ControlNet"),
            (FREEDOM, "FreeDoM"),
            (CHECKPOINTED, "DITTO"),
            (DOODL, "DOODL"),
        )
    ),
    pivot="DITTO",
    given=(
        *(
            Row(
                name,
                "fine_tuning_hours",
                "GPU h",
                value=0.0,
                paper=paper("d1_table11_latency", name, TRAINED),
            )
            for name in ("FreeDoM", "DITTO", "DOODL")
        ),
        Row(
            "ControlNet",
            "fine_tuning_hours",
            "GPU h",
            paper=paper("d1_table11_latency", "ControlNet", TRAINED),
            error="trained on a CPU: see its training report",
        ),
    ),
)
FIG_10 = Table(
    "d1-fig10",
    "Variance within batches that share x_T, and that do not",
    (
        Entry("", FIXED, TTM.with_(name="fixed x_T"), VARIANCES),
        Entry("", FREE, TTM.with_(name="free x_T"), VARIANCES),
    ),
    claims=tuple(
        Versus(
            f"fixing x_T reduces the {measure.name} within batches",
            above="free x_T",
            below="fixed x_T",
            measure=measure,
            paired=False,
        )
        for measure in VARIANCES
    ),
)

TABLES = (
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
)
