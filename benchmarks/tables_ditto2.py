"""The tables of DITTO-2 (arXiv 2405.20289) as data."""

from dataclasses import replace

from benchmarks.measures import (
    ACCURACY,
    CLAP_SCORE,
    FAD,
    INPAINT,
    MSE,
    OUTPAINT,
    OWN_CLAP_SCORE,
    RHO,
    STRUCTURE,
    TIME,
    RowResult,
)
from benchmarks.report import Claim
from benchmarks.runner import Entry, Results, Table, Versus, figures
from benchmarks.tasks import (
    CONTROLS,
    INPAINTING,
    MUSICGEN,
    MUSICGEN_MELODY,
    OUTPAINTING,
    PLAIN,
    TEXT,
    Task,
)
from benchmarks.variants import (
    CHECKPOINTED,
    CM,
    CTM,
    DITTO,
    PUBLISHED_CM,
    PUBLISHED_CTM,
    TTM,
    Variant,
)
from ditto.errors import DittoError
from ditto.eval.bootstrap import ratio_interval
from ditto.methods.ditto import Ditto
from ditto.models.conditioning import Tags

TASKS = {
    "intensity": (CONTROLS["intensity"], MSE),
    "melody": (CONTROLS["melody"], ACCURACY),
    "structure": (CONTROLS["structure"], STRUCTURE),
    "outpainting": (OUTPAINTING[1], OUTPAINT),
    "inpainting": (INPAINTING[4], INPAINT),
}


def _benchmark(name: str, variant: Variant, *, published: bool) -> Entry:
    task, error = TASKS[name]
    columns = {TIME: "time s", FAD: "FAD", CLAP_SCORE: "CLAP", error: "control"}
    return Entry(
        group=name,
        task=task,
        variant=variant,
        measures=tuple(columns),
        papers=figures("d2_table1_benchmark", f"{name} {variant.name}", columns)
        if published
        else {},
    )


TABLE_1 = Table(
    "d2-table1",
    "DITTO-2 against DITTO",
    (
        *(
            _benchmark(name, variant, published=True)
            for name in TASKS
            for variant in (DITTO, PUBLISHED_CM, PUBLISHED_CTM)
        ),
        *(
            _benchmark(name, CTM.with_(name="DITTO-2 CTM corrected"), published=False)
            for name in TASKS
        ),
    ),
    pivot="DITTO-2 CTM",
)
"""With rows of our own: the surrogate corrected by what decoding gives, as a user gets it."""


def _budget(variant: Variant, name: str, row: str | None = None) -> Entry:
    """Return a row of the budgets' tables.

    Args:
        variant: with M and T'.
        name: as Fig. 4 has it, "CTM-1/2"; a star is the adaptive schedule.
        row: of the paper's Table 2, whose FAD is in another embedding and is left out.
    """
    columns = {TIME: "runtime s", MSE: "MSE", CLAP_SCORE: "CLAP"}
    papers = {} if row is None else figures("d2_table2_budget_intensity", row, columns)
    measures = (TIME, MSE, RHO, FAD, CLAP_SCORE)
    return Entry("", CONTROLS["loudness"], variant.with_(name=name), measures, papers)


BUDGETS = (
    *(
        _budget(PUBLISHED_CTM.with_(decode_steps=t), f"CTM-1/{t}", f"M=1 T={t}" if t < 8 else None)
        for t in (1, 2, 4, 8)
    ),
    *(
        _budget(PUBLISHED_CTM.with_(surrogate_steps=2, decode_steps=t), f"CTM-2/{t}", f"M=2 T={t}")
        for t in (2, 4)
    ),
    _budget(
        PUBLISHED_CTM.with_(surrogate_steps="adaptive", decode_steps=4), "CTM-*/4", "adaptive T=4"
    ),
    *(_budget(CTM.with_(decode_steps=t), f"CTM-1/{t} corrected") for t in (2, 4)),
)
"""The paper's grid of (M, T'), and two rows with corrections, which the paper has not."""
CM_BUDGETS = (
    *(_budget(PUBLISHED_CM.with_(decode_steps=t), f"CM-1/{t}") for t in (1, 2, 4, 8)),
    _budget(CM, "CM-1/2 corrected"),
)
SLOW_DITTO = CHECKPOINTED.with_(slow=True)
DITTO_8 = _budget(SLOW_DITTO.with_(through=Ditto(steps=8)), "DM-8/20")
DITTO_20 = replace(
    _budget(SLOW_DITTO, "DM-20/20"),
    papers=figures("d1_table3_controls", "DITTO", {MSE: "intensity MSE"})
    | figures("d1_table11_latency", "DITTO", {TIME: "latency s"}),
)
CLAIMS = (
    Versus(
        "DITTO-2 (1, 2) is at least 10 times as fast as DITTO (20, 20)",
        "DM-20/20",
        "CTM-1/2",
        TIME,
        least=10.0,
    ),
    Versus("the MSE of DITTO-2 (1, 2) is below that of DITTO (20, 20)", "DM-20/20", "CTM-1/2", MSE),
    Versus(
        "DITTO-2 (1, 2), corrected, is at least 25 times as fast as DITTO (20, 20)",
        "DM-20/20",
        "CTM-1/2 corrected",
        TIME,
        least=25.0,
    ),
    Versus(
        "the MSE of DITTO-2 (1, 2), corrected, is below that of DITTO (20, 20)",
        "DM-20/20",
        "CTM-1/2 corrected",
        MSE,
    ),
    Versus(
        "more decoding steps lie further from the one-step surrogate: MSE rises",
        "CTM-1/4",
        "CTM-1/1",
        MSE,
    ),
    Versus(
        "the adaptive schedule lowers the MSE of decoding in 4 steps", "CTM-1/4", "CTM-*/4", MSE
    ),
    Versus("the adaptive schedule has a lower MSE than M = 2", "CTM-2/4", "CTM-*/4", MSE),
    Versus("corrections lower the MSE of decoding in 2 steps", "CTM-1/2", "CTM-1/2 corrected", MSE),
    Versus(
        "corrections have a lower MSE than the adaptive schedule",
        "CTM-*/4",
        "CTM-1/4 corrected",
        MSE,
    ),
)
TABLE_2 = Table(
    "d2-table2",
    "Surrogate and decoding steps (M, T') against time, error and distance",
    BUDGETS,
    claims=CLAIMS,
    count=32,
)
FIG_4 = Table(
    "d2-fig4",
    "The budgets of CM, CTM and the base beside one another",
    (*BUDGETS, *CM_BUDGETS, DITTO_8, DITTO_20),
    claims=CLAIMS,
    count=32,
)
FIG_5 = Table(
    "d2-fig5",
    "One-step optimisation, decoded in 1 to 8 steps",
    (*(row for row in BUDGETS if "-1/" in row.name), *CM_BUDGETS, DITTO_20),
    claims=CLAIMS,
    count=32,
)

TAGGED = TTM.with_(name="Base TTM (tags)")
UNTAGGED = TTM.with_(name="U-base, no control", base="unconditional", tags=Tags())
U_DITTO2 = PUBLISHED_CTM.with_(name="U-DITTO-2", base="unconditional", tags=Tags())
HEARD = 0.5
"""Share of the gain by the CLAP that was optimised against which a judge must hear too, or it is
reward hacking."""


def adherence(rows: Results) -> list[Claim]:
    """Compare text control of the unconditional model with two rows, by two CLAPs.

    Each comparison is two claims: a CLAP not optimised against hears a better fit, and it hears at
    least half of the gain that the optimised one does.
    """
    steered, claims = rows.get(U_DITTO2.name), []
    for variant, words in (
        (TAGGED, "the base with tags"),
        (UNTAGGED, "the same model without control"),
    ):
        plain = rows.get(variant.name)
        if not isinstance(plain, RowResult) or not isinstance(steered, RowResult):
            continue
        if plain.judge.clap is None:
            continue
        count = min(plain.count, steered.count)
        plain, steered = plain.first(count), steered.first(count)
        try:
            before, after = (CLAP_SCORE.values(row) for row in (plain, steered))
            gain = OWN_CLAP_SCORE.values(steered) - OWN_CLAP_SCORE.values(plain)
        except DittoError:
            continue
        better = ratio_interval(1 - before, 1 - after, paired=True)
        shared = ratio_interval(after - before, gain, paired=True)
        fits = f"by a CLAP not optimised against, U-DITTO-2 fits texts better than {words}"
        hears = f"that CLAP hears half or more of its gain over {words} by the other"
        claims += [Claim(fits, *better, count), Claim(hears, *shared, count, border=HEARD)]
    return claims


def _text(task: Task, variant: Variant, *, published: bool = True) -> Entry:
    columns = {CLAP_SCORE: "CLAP", FAD: "FAD"}
    papers = figures("d2_table3_text", variant.name, columns) if published else {}
    return Entry("", task, variant, (CLAP_SCORE, OWN_CLAP_SCORE, FAD, TIME), papers)


TABLE_3 = Table(
    "d2-table3",
    "Text adherence",
    (
        _text(PLAIN, TAGGED),
        _text(TEXT, PUBLISHED_CTM.with_(name="DITTO-2 (tags)")),
        _text(TEXT, PUBLISHED_CTM.with_(name="DITTO-2 (no condition)", tags=Tags())),
        _text(TEXT, U_DITTO2),
        _text(MUSICGEN_MELODY, TTM.with_(name="MusicGen 1.5B melody (caption)")),
        _text(MUSICGEN, TTM.with_(name="MusicGen 3.3B (caption)")),
        _text(PLAIN, UNTAGGED, published=False),
    ),
    pivot="DITTO-2 (no condition)",
    claims=(adherence,),
)

TABLES = (TABLE_1, TABLE_2, TABLE_3, FIG_4, FIG_5)
