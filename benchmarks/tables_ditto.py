"""The tables of DITTO (arXiv 2401.12179) as data; Table 4, a listening test, is in `listening`."""

from collections.abc import Sequence

from benchmarks import measures as m
from benchmarks import music
from benchmarks import tasks as t
from benchmarks import variants as v
from benchmarks.report import Row, paper
from benchmarks.runner import Entry, Table, Versus, figures

EDITORS = (v.DOODL, v.NAIVE, v.MD, v.MD_ONE, v.MD50, v.MD50_ONE, v.GG, v.FREEDOM, v.DITTO, v.CTM)
UNPUBLISHED = (v.MD_ONE, v.MD50_ONE, v.CTM)
"""Of the editors: MultiDiffusion as it might be, and DITTO-2, corrected, of which there are enough
clips for a distance."""
ERRORS = {"intensity": m.MSE, "melody": m.ACCURACY, "structure": m.STRUCTURE}
PAPER_ERRORS = {
    "intensity": "intensity MSE",
    "melody": "melody acc %",
    "structure": "structure MSE",
}


def _edits(table: str, tasks: Sequence[tuple[t.Task, m.Measure, str]]) -> tuple[Entry, ...]:
    """Return every method's rows of (task, its error, the paper's column of FAD)."""
    return tuple(
        Entry(
            group=task.name,
            task=task,
            variant=variant,
            measures=(error, *music.BESIDE, m.SEAM, m.TIME),
            papers={} if variant in UNPUBLISHED else figures(table, variant.name, {m.FAD: column}),
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
            *((t.OUTPAINTING[o], m.OUTPAINT, f"overlap {o} s") for o in (1, 2, 3)),
            (t.LOOPING, m.LOOP, "looping"),
        ],
    ),
    pivot="DITTO",
)
TABLE_2 = Table(
    "d1-table2",
    "Inpainting",
    _edits(
        "d1_table2_inpaint_fad",
        [(t.INPAINTING[gap], m.INPAINT, f"gap {gap} s") for gap in (2, 3, 4)],
    ),
    pivot="DITTO",
)


OWN_SAMPLER = v.TTM.with_(name="Default TTM, own sampler")
OWN_ROWS = (OWN_SAMPLER, v.STUDENT, v.CTM)
"""That Table 3 of the paper has not: the base as it is sampled by default, and DITTO-2, corrected,
beside its student without control."""


def _controlled(name: str, variant: v.Variant) -> Entry:
    error = ERRORS[name]
    columns = {error: PAPER_ERRORS[name], m.FAD: f"{name} FAD", m.CLAP_SCORE: f"{name} CLAP"}
    return Entry(
        group=name,
        task=t.CONTROLS[name],
        variant=variant,
        measures=(error, *music.BESIDE, m.TIME),
        papers={} if variant in OWN_ROWS else figures("d1_table3_controls", variant.name, columns),
    )


def _music_kept(name: str) -> list[Versus]:
    """Return the claims on the music under a control, beside those of the paper's figures."""
    row, plain = f"{name}, {v.CTM.name}", f"{name}, {v.STUDENT.name}"
    words = f"{row}: its {{}} is below that of no control, as DITTO's FAD is in the paper"
    nearer = [Versus(words.format(each.name), plain, row, each) for each in music.DISTANCES]
    chain, ditto = f"{name}, {v.CHAIN.name}", f"{name}, {v.DITTO.name}"
    return [*nearer, *music.kept(row, plain, music.NOTES), *music.kept(ditto, chain, music.NOTES)]


TABLE_3 = Table(
    "d1-table3",
    "Intensity, melody and structure control",
    tuple(
        _controlled(name, variant)
        for name in ERRORS
        for variant in (v.CHAIN, v.CONTROLNET, v.FREEDOM, v.DOODL, v.DITTO, *OWN_ROWS)
        if (name, variant) != ("structure", v.CONTROLNET)
    ),
    pivot="DITTO",
    claims=tuple(claim for name in ERRORS for claim in _music_kept(name)),
)


def _efficiency(steps: int) -> list[Entry]:
    """Return Table 5's rows at T = `steps`: the clips, and the memory, which is measured apart."""
    columns = {
        m.MSE: "MSE",
        m.FAD: "FAD",
        m.CLAP_SCORE: "CLAP",
        m.CONVERGENCE: "MS2C (steps)",
        m.STEP_TIME: "MOS (s/step)",
    }
    entries = []
    for base in (v.CHECKPOINTED, v.DOODL):
        variant = base if steps == 20 else base.with_(clips=v.MINUTES, steps=steps)
        for task, own, beside in (
            (t.CONTROLS["intensity"], columns, (*music.FRECHET.values(), music.NOTES)),
            (t.MEMORY, {m.MEMORY: "MAM (GB)"}, ()),
        ):
            row = figures("d1_table5_efficiency_intensity", f"{base.name} {steps}", own)
            entries.append(Entry(f"T={steps}", task, variant, (*own, *beside), row))
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
            task=t.CONTROLS[name],
            variant=variant,
            measures=(m.MSE, m.RHO, *music.BESIDE),
            papers=figures(
                "d1_table6_intensity_correlation",
                row,
                {m.MSE: "MSE", m.RHO: "rho", m.CLAP_SCORE: "CLAP"},
            ),
        )
        for name, variant, row in (
            ("intensity", v.CONTROLNET, "Music ControlNet"),
            ("intensity", v.DITTO.with_(name="DITTO (MSE loss)"), "DITTO (MSE loss)"),
            ("correlation", v.DITTO.with_(name="DITTO (rho loss)"), "DITTO (rho loss)"),
        )
    ),
    pivot="DITTO (rho loss)",
)
"""Table 6's and Table 8's FAD is in another embedding than the other tables', so it is left out."""

WINDOWS: tuple[tuple[str, v.Base, int], ...] = (
    ("6s", "window", v.MINUTE),
    ("24s", "long", v.MINUTES),
)
INVERSIONS = (("Naive", "naive"), ("DDIM", "ddim"), ("NT", "null-text"), ("DITTO", "ditto"))
TABLE_7 = Table(
    "d1-table7",
    "Inversion of held-out clips",
    tuple(
        Entry(
            group=f"{window} w={w:g}",
            task=t.INVERSION[how],
            variant=v.DITTO.with_(name=name, base=base, clips=clips, guidance=w),
            measures=(m.INVERT,),
            papers=figures("d1_table7_inversion_mse", name, {m.INVERT: f"{window} w={w:g}"}),
        )
        for window, base, clips in WINDOWS
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
            measures=(error, *music.BESIDE),
            papers=figures("d1_table8_samplers", f"{name} {variant.name}", columns),
        )
        for name, task, error, columns in (
            ("intensity", t.CONTROLS["intensity"], m.MSE, {m.MSE: "MSE"}),
            ("outpainting", t.OUTPAINTING[1], m.OUTPAINT, {}),
        )
        for variant in (v.DITTO.with_(name="DDIM"), v.DITTO.with_(name="DPM++", sampler="dpm++"))
    ),
    pivot="DDIM",
)

SECOND = {"outpainting": m.OUTPAINT, "structure": m.STRUCTURE, "melody": m.ACCURACY}


def _two_controls(name: str, variant: v.Variant) -> Entry:
    """Return a row of Table 9; the paper gives the accuracy of the melody as a share of 1."""
    second = SECOND[name]
    measures = (m.MSE, second, *music.BESIDE)
    if variant is v.CTM:
        return Entry(f"intensity+{name}", t.PAIRS[name], variant, measures)
    table = "d1_table9_multi_objective"
    row = f"intensity+{name} {'Music-ControlNet' if variant is v.CONTROLNET else variant.name}"
    papers = figures(table, row, {m.MSE: "first", m.FAD: "FAD", m.CLAP_SCORE: "CLAP"})
    papers |= figures(table, row, {second: "second"}, 100.0 if second is m.ACCURACY else 1.0)
    return Entry(f"intensity+{name}", t.PAIRS[name], variant, measures, papers)


TABLE_9 = Table(
    "d1-table9",
    "Two controls at once",
    tuple(
        _two_controls(name, variant)
        for name in SECOND
        for variant in (v.DITTO, v.FREEDOM, v.CONTROLNET, v.CTM)
        if variant is not v.CONTROLNET or name == "melody"
    ),
    pivot="DITTO",
)
PROMPTS, FRESH = ("random prompts", "fixed prompt"), ", fresh x_T"
TABLE_10 = Table(
    "d1-table10",
    "Clips from one optimised latent",
    tuple(
        Entry(
            group=f"{name}, {prompts}",
            task=t.REUSE[name, how, prompts, fresh],
            # As many as there are latents, which DITTO optimises.
            variant=v.TTM.with_(name=label + FRESH * fresh, clips=v.DITTO.clips),
            measures=(m.REUSE, m.TIME),
            papers={}
            if fresh
            else figures("d1_table10_reuse", f"{name} {label}", {m.REUSE: f"loss, {prompts}"}),
        )
        for name in ERRORS
        for prompts in PROMPTS
        for label, how in (("DDPM", "ddpm"), ("DDPM+FreeDoM", "ddpm+freedom"))
        for fresh in (False, True)
    ),
    pivot="DDPM+FreeDoM",
    claims=tuple(
        Versus(
            f"{name}, {prompts}: {label} from the optimised latent is nearer than from fresh noise",
            above=f"{name}, {prompts}, {label}{FRESH}",
            below=f"{name}, {prompts}, {label}",
            measure=m.REUSE,
        )
        for name in ERRORS
        for prompts in PROMPTS
        for label in ("DDPM", "DDPM+FreeDoM")
    ),
)

TRAINED = "fine-tuning GPU hours"
TABLE_11 = Table(
    "d1-table11",
    "Latency of intensity control",
    tuple(
        Entry(
            group="",
            task=t.CONTROLS["intensity"],
            variant=variant,
            measures=(m.TIME, m.MSE, *music.BESIDE),
            papers=figures("d1_table11_latency", row, {m.TIME: "latency s"}),
        )
        for variant, row in (
            (v.CHAIN, "Base TTM"),
            (v.CONTROLNET, "ControlNet"),
            (v.FREEDOM, "FreeDoM"),
            (v.CHECKPOINTED, "DITTO"),
            (v.DOODL, "DOODL"),
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
        Entry("", t.FIXED, v.TTM.with_(name="fixed x_T"), m.VARIANCES),
        Entry("", t.FREE, v.TTM.with_(name="free x_T"), m.VARIANCES),
    ),
    claims=tuple(
        Versus(
            f"fixing x_T reduces the {measure.name} within batches",
            above="free x_T",
            below="fixed x_T",
            measure=measure,
            paired=False,
        )
        for measure in m.VARIANCES
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
