"""The tables of DITTO-2 (arXiv 2405.20289) as data."""

from dataclasses import replace

from benchmarks import measures as m
from benchmarks import music
from benchmarks import tasks as t
from benchmarks import variants as v
from benchmarks.ablation import W
from benchmarks.helped import HELPED_DITTO, Helped
from benchmarks.report import Claim
from benchmarks.runner import Entry, Results, Table, Versus, figures
from ditto.errors import DittoError
from ditto.eval.bootstrap import ratio_interval
from ditto.methods.ditto import Ditto
from ditto.models.conditioning import Tags

TASKS = {
    "intensity": (t.CONTROLS["intensity"], m.MSE),
    "melody": (t.CONTROLS["melody"], m.ACCURACY),
    "structure": (t.CONTROLS["structure"], m.STRUCTURE),
    "outpainting": (t.OUTPAINTING[1], m.OUTPAINT),
    "inpainting": (t.INPAINTING[4], m.INPAINT),
}


def _benchmark(name: str, variant: v.Variant, *, published: bool) -> Entry:
    task, error = TASKS[name]
    columns = {m.TIME: "time s", m.FAD: "FAD", m.CLAP_SCORE: "CLAP", error: "control"}
    return Entry(
        group=name,
        task=task,
        variant=variant,
        measures=(m.TIME, error, *music.BESIDE),
        papers=figures("d2_table1_benchmark", f"{name} {variant.name}", columns)
        if published
        else {},
    )


def _helped(entry: Entry) -> Entry:
    """Return the row of DITTO with all that DITTO-2 has."""
    return replace(entry, task=Helped.of(entry.task))


def _searched(entry: Entry) -> Entry:
    """Return the row of a search with its number of candidates."""
    return replace(entry, measures=(*entry.measures, m.CANDIDATES))


CORRECTED_CTM = v.CTM.with_(name="DITTO-2 CTM corrected")
FASTER = 10.0
"""Times: the least that the papers' pair is claimed to differ by."""


def _corrected_claims(name: str) -> list[Versus]:
    """Return the claims on DITTO-2 as a user gets it: against DITTO helped, and on the music."""
    row, helped = f"{name}, {CORRECTED_CTM.name}", f"{name}, {HELPED_DITTO.name}"
    error, words = TASKS[name][1], f"{row}: {{}} DITTO with all that it has"
    return [
        Versus(words.format(f"at least {FASTER:g} times as fast as"), helped, row, m.TIME, FASTER),
        Versus(words.format(f"{error.name} is better than that of"), helped, row, error),
        *music.kept(row, f"{name}, {v.PUBLISHED_CTM.name}", than="DITTO-2 as published"),
    ]


TABLE_1 = Table(
    "d2-table1",
    "DITTO-2 against DITTO",
    (
        *(
            _benchmark(name, variant, published=True)
            for name in TASKS
            for variant in (v.DITTO, v.PUBLISHED_CM, v.PUBLISHED_CTM)
        ),
        *(_benchmark(name, CORRECTED_CTM, published=False) for name in TASKS),
        *(_helped(_benchmark(name, HELPED_DITTO, published=False)) for name in TASKS),
        *(_searched(_benchmark(name, v.searched(v.CTM), published=False)) for name in TASKS),
    ),
    pivot="DITTO-2 CTM",
    claims=tuple(claim for name in TASKS for claim in _corrected_claims(name)),
)
"""With rows of our own: the surrogate corrected by what decoding gives, as a user gets it, DITTO
with all that this has, and a search over seeds that takes as long."""


def _budget(variant: v.Variant, name: str, row: str | None = None) -> Entry:
    """Return a row of the budgets' tables.

    Args:
        variant: with M and T'.
        name: as Fig. 4 has it, "CTM-1/2"; a star is the adaptive schedule.
        row: of the paper's Table 2, whose FAD is in another embedding and is left out.
    """
    columns = {m.TIME: "runtime s", m.MSE: "MSE", m.CLAP_SCORE: "CLAP"}
    papers = {} if row is None else figures("d2_table2_budget_intensity", row, columns)
    measures = (m.TIME, m.MSE, m.RHO, *music.BESIDE)
    return Entry("", t.CONTROLS["intensity"], variant.with_(name=name), measures, papers)


CTM, CM = v.PUBLISHED_CTM, v.PUBLISHED_CM
BUDGETS = (
    _budget(CTM.with_(decode_steps=1), "CTM-1/1", "M=1 T=1"),
    _budget(CTM.with_(decode_steps=2), "CTM-1/2", "M=1 T=2"),
    _budget(CTM.with_(decode_steps=4), "CTM-1/4", "M=1 T=4"),
    _budget(CTM.with_(decode_steps=8), "CTM-1/8"),
    _budget(CTM.with_(surrogate_steps=2, decode_steps=2), "CTM-2/2", "M=2 T=2"),
    _budget(CTM.with_(surrogate_steps=2, decode_steps=4), "CTM-2/4", "M=2 T=4"),
    _budget(CTM.with_(surrogate_steps="adaptive", decode_steps=4), "CTM-*/4", "adaptive T=4"),
    _budget(v.CTM.with_(decode_steps=2), "CTM-1/2 corrected"),
    _budget(v.CTM.with_(decode_steps=4), "CTM-1/4 corrected"),
    _searched(_budget(v.searched(v.CTM), "best of N, equal time")),
)
"""The paper's grid of (M, T'), and rows that the paper has not: two with corrections, and a search
over seeds that takes as long as the first of these."""
CM_BUDGETS = (
    *(_budget(CM.with_(decode_steps=steps), f"CM-1/{steps}") for steps in (1, 2, 4, 8)),
    _budget(v.CM.with_(decode_steps=2), "CM-1/2 corrected"),
    _budget(v.CM.with_(decode_steps=2, other_noise=True), "CM-1/2 corrected, other noise"),
)
"""Corrections fit a CM's clip to the noise of its decoding, so there is a row with other noise."""
DITTO_8 = _budget(v.CHECKPOINTED.with_(through=Ditto(steps=8)), "DM-8/20")
DITTO_20 = replace(
    _budget(v.CHECKPOINTED, "DM-20/20"),
    papers=figures("d1_table3_controls", "DITTO", {m.MSE: "intensity MSE"})
    | figures("d1_table11_latency", "DITTO", {m.TIME: "latency s"}),
)
DITTO_HELPED = _helped(_budget(HELPED_DITTO, "DM-20/20 helped"))
PLAIN, CORRECTED = "CTM-1/2", "CTM-1/2 corrected"
ERROR_CLAIMS = tuple(
    Versus(claim, above, below, measure, least)
    for claim, above, below, measure, least in (
        (
            "DITTO-2 (1, 2) is at least 10 times as fast as DITTO (20, 20)",
            "DM-20/20",
            PLAIN,
            m.TIME,
            10.0,
        ),
        (
            "the MSE of DITTO-2 (1, 2) is below that of DITTO (20, 20)",
            "DM-20/20",
            PLAIN,
            m.MSE,
            1.0,
        ),
        (
            "DITTO-2 (1, 2), corrected, is at least 25 times as fast as DITTO (20, 20)",
            "DM-20/20",
            CORRECTED,
            m.TIME,
            25.0,
        ),
        (
            "the MSE of DITTO-2 (1, 2), corrected, is below that of DITTO (20, 20)",
            "DM-20/20",
            CORRECTED,
            m.MSE,
            1.0,
        ),
        (
            "DITTO-2 (1, 2), corrected, is at least 10 times as fast as DITTO with all that it has",
            "DM-20/20 helped",
            CORRECTED,
            m.TIME,
            10.0,
        ),
        (
            "the MSE of DITTO-2 (1, 2), corrected, is below that of DITTO with all that it has",
            "DM-20/20 helped",
            CORRECTED,
            m.MSE,
            1.0,
        ),
        (
            "more decoding steps lie further from the one-step surrogate: MSE rises",
            "CTM-1/4",
            "CTM-1/1",
            m.MSE,
            1.0,
        ),
        (
            "the adaptive schedule lowers the MSE of decoding in 4 steps",
            "CTM-1/4",
            "CTM-*/4",
            m.MSE,
            1.0,
        ),
        ("the adaptive schedule has a lower MSE than M = 2", "CTM-2/4", "CTM-*/4", m.MSE, 1.0),
        ("corrections lower the MSE of decoding in 2 steps", PLAIN, CORRECTED, m.MSE, 1.0),
        (
            "optimising has a lower MSE than the best of as many seeds as take as long",
            "best of N, equal time",
            CORRECTED,
            m.MSE,
            1.0,
        ),
        (
            "corrections have a lower MSE than the adaptive schedule",
            "CTM-*/4",
            "CTM-1/4 corrected",
            m.MSE,
            1.0,
        ),
    )
)


def _nearer(claim: str, above: str, below: str, least: float = 1.0) -> list[Versus]:
    """Return a claim on distances from real music, in every embedding."""
    return [Versus(f"{claim} ({each.name})", above, below, each, least) for each in music.DISTANCES]


MUSIC_CLAIMS = (
    *_nearer("from 1 decoding step to 2 CTM comes nearer to real music", "CTM-1/1", PLAIN),
    *_nearer("from 1 decoding step to 8 CTM comes nearer to real music", "CTM-1/1", "CTM-1/8"),
    *_nearer("from 1 decoding step to 8 CM comes less than 5 % nearer", "CM-1/8", "CM-1/1", 0.95),
    *_nearer("in 8 decoding steps CTM is nearer to real music than CM", "CM-1/8", "CTM-1/8"),
    *_nearer("the adaptive schedule is nearer to real music than M = 2", "CTM-2/4", "CTM-*/4"),
    *_nearer("DITTO-2 (1, 2) is nearer to real music than DITTO (20, 20)", "DM-20/20", PLAIN),
    Versus(
        "the CLAP score of DITTO-2 (1, 4) is better than that of DITTO (20, 20)",
        "DM-20/20",
        "CTM-1/4",
        m.CLAP_SCORE,
    ),
    *music.kept(CORRECTED, PLAIN, than="DITTO-2 as published"),
)
"""The paper's on quality (Table 2, Figs. 4 and 5), and what corrections cost."""
CLAIMS = (*ERROR_CLAIMS, *MUSIC_CLAIMS)
AT_W = tuple(
    replace(row, group=f"w={W:g}", variant=row.variant.with_(guidance=W), papers={})
    for row in BUDGETS
    if row.name in ("CTM-1/1", PLAIN, "CTM-1/4", "CTM-*/4", CORRECTED, "CTM-1/4 corrected")
)
W_CLAIMS = tuple(
    replace(
        claim,
        claim=f"at w = {W:g}: {claim.claim}",
        above=f"w={W:g}, {claim.above}",
        below=f"w={W:g}, {claim.below}",
    )
    for claim in ERROR_CLAIMS
    if {f"w={W:g}, {claim.above}", f"w={W:g}, {claim.below}"} <= {row.name for row in AT_W}
)
TABLE_2 = Table(
    "d2-table2",
    "Surrogate and decoding steps (M, T') against time, error and distance",
    (*BUDGETS, *AT_W),
    claims=(*CLAIMS, *W_CLAIMS),
)
FIG_4 = Table(
    "d2-fig4",
    "The budgets of CM, CTM and the base beside one another",
    (*BUDGETS, *CM_BUDGETS, DITTO_8, DITTO_20, DITTO_HELPED),
    claims=CLAIMS,
)
FIG_5 = Table(
    "d2-fig5",
    "One-step optimisation, decoded in 1 to 8 steps",
    (
        *(row for row in BUDGETS if "-1/" in row.name or row.variant.as_long_as),
        *CM_BUDGETS,
        DITTO_20,
        DITTO_HELPED,
    ),
    claims=CLAIMS,
)

TAGGED = v.TTM.with_(name="Base TTM (tags)")
UNTAGGED = v.TTM.with_(name="U-base, no control", base="unconditional", tags=Tags())
U_DITTO2 = v.PUBLISHED_CTM.with_(name="U-DITTO-2", base="unconditional", tags=Tags())
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
        if not isinstance(plain, m.RowResult) or not isinstance(steered, m.RowResult):
            continue
        if plain.judge.clap is None:
            continue
        count = min(plain.count, steered.count)
        plain, steered = plain.first(count), steered.first(count)
        try:
            before, after = (m.CLAP_SCORE.values(row) for row in (plain, steered))
            gain = m.OWN_CLAP_SCORE.values(steered) - m.OWN_CLAP_SCORE.values(plain)
        except DittoError:
            continue
        better = ratio_interval(1 - before, 1 - after, paired=True)
        shared = ratio_interval(after - before, gain, paired=True)
        fits = f"by a CLAP not optimised against, U-DITTO-2 fits texts better than {words}"
        hears = f"that CLAP hears half or more of its gain over {words} by the other"
        claims += [Claim(fits, *better, count), Claim(hears, *shared, count, border=HEARD)]
    return claims


def _text(task: t.Task, variant: v.Variant, *, published: bool = True) -> Entry:
    columns = {m.CLAP_SCORE: "CLAP", m.FAD: "FAD"}
    papers = figures("d2_table3_text", variant.name, columns) if published else {}
    measures = (m.CLAP_SCORE, m.OWN_CLAP_SCORE, *music.DISTANCES, music.NOTES, m.TIME)
    return Entry("", task, variant, measures, papers)


TABLE_3 = Table(
    "d2-table3",
    "Text adherence",
    (
        _text(t.PLAIN, TAGGED),
        _text(t.TEXT, v.PUBLISHED_CTM.with_(name="DITTO-2 (tags)")),
        _text(t.TEXT, v.PUBLISHED_CTM.with_(name="DITTO-2 (no condition)", tags=Tags())),
        _text(t.TEXT, U_DITTO2),
        _text(t.MUSICGEN_MELODY, v.TTM.with_(name="MusicGen 1.5B melody (caption)")),
        _text(t.MUSICGEN, v.TTM.with_(name="MusicGen 3.3B (caption)")),
        _text(t.PLAIN, UNTAGGED, published=False),
        _searched(_text(t.TEXT, v.searched(U_DITTO2), published=False)),
    ),
    pivot="DITTO-2 (no condition)",
    claims=(
        adherence,
        *music.kept("DITTO-2 (tags)", TAGGED.name, music.NOTES, than="the base"),
        *music.kept(U_DITTO2.name, UNTAGGED.name, music.NOTES),
    ),
)

TABLES = (TABLE_1, TABLE_2, TABLE_3, FIG_4, FIG_5)
