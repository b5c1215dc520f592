"""The page: four tabs of parts, and the API that Gradio makes of three functions."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import gradio as gr
from gradio import themes
from gradio.events import api as endpoint

from ditto.audio.scales import FREQUENCY, LOUDNESS
from ditto.errors import DittoError
from ditto.studio import api
from ditto.studio.facts import METHODS
from ditto.studio.front import Front
from ditto.studio.jobs import BROKEN, Job, log

SCRIPTS = ("base", "sound", "music", "curve", "roll", "form", "recording", "result")
FONT = ("system-ui", "Segoe UI", "sans-serif")
HEAD = '<link rel="stylesheet" href="studio/static/studio.css">'
LOADS = "".join(f'<script src="studio/static/{name}.js"></script>' for name in SCRIPTS)
"""What each part loads before it is made. In the page's head nothing would wait for the scripts: a
part that is made before its own script has come stays empty."""
IN_EDITS = ("loudness", "melody", "text", "beats", "chords", "brightness")
"""Controls of edits, over the whole in the end; a form is that of one clip as a whole."""
IN_LOOPS = (*IN_EDITS, "structure")
"""A loop that fits the model's window is one clip."""
LOOK_SECONDS = 0.03
"""How often Gradio's queue looks for work. By default every millisecond, which takes 8 % of a
core from whatever else the machine does (tests/studio/test_many.py)."""
TABS = ("Create", "Edit", "Loop", "Vary")

Parts = dict[str, Any]


def part(script: str, value: Any = None, **props: Any) -> gr.HTML:
    """Return a part of the page that a script of ours draws, see ``static``; its value is JSON.

    Args:
        script: name of its function in the scripts.
        value: what it begins with.
        props: its settings, and those of `gr.HTML`.
    """
    return gr.HTML(
        value,
        html_template='<div class="ditto-part"></div>',
        js_on_load=f"ditto.{script}(element.firstElementChild, props, trigger, watch);",
        head=LOADS,
        apply_default_css=False,
        **props,
    )


def theme() -> themes.Base:
    """Return a theme that fetches no font."""
    return themes.Base(
        primary_hue="indigo", neutral_hue="slate", font=list(FONT), font_mono=["monospace"]
    )


def make_page(studio: Front) -> gr.Blocks:
    """Return the page.

    Args:
        studio: what does the work, and knows which tags there are.
    """
    with gr.Blocks(title="Ditto studio", analytics_enabled=False) as blocks:
        part("nav", tabs=list(TABS), elem_id="nav")
        with tab("create"):
            create_tab(studio)
        with tab("edit"):
            edit_tab(studio)
        with tab("loop"):
            loop_tab(studio)
        with tab("vary"):
            vary_tab(studio)
        for function in api.functions(studio):
            endpoint(function, api_name=function.__name__, concurrency_limit=None)
    blocks.queue(max_size=None, default_concurrency_limit=None)
    blocks._queue.sleep_when_free = LOOK_SECONDS
    return blocks


def tab(name: str) -> gr.Column:
    """Return a tab's panel; all but the first begin hidden."""
    away = [] if name == "create" else ["away"]
    return gr.Column(elem_id=f"panel-{name}", elem_classes=["tab-panel", *away])


def music(studio: Front, name: str, fields: list[str], **chosen: Any) -> gr.HTML:
    """Return the fields of tags, seed and settings."""
    words = studio.facts
    return part(
        "music",
        {},
        elem_id=f"{name}-music",
        tab=name,
        genres=list(words.genres),
        moods=list(words.moods),
        tempo=list(words.tempo),
        prompts=words.steered and not words.genres and not words.moods,
        methods=list(METHODS),
        seconds=words.window,
        fields=[each for each in fields if words.steered or each != "tempo"],
        chosen=chosen,
    )


def controls(studio: Front, name: str, *words: str) -> dict[str, gr.HTML]:
    """Return the parts of some controls, by the words of `WORDS`; of all that there are by
    default.
    """
    shared = {"tab": name, "seconds": studio.facts.window}
    counts = "counts in what is made anew" if name == "edit" else ""

    def curve(word: str, title: str, hint: str, scale: Any, **more: Any) -> gr.HTML:
        shapes = {key: [list(point) for point in points] for key, points in scale.shapes}
        return part(
            "curve",
            {},
            elem_id=f"{name}-{word}",
            word=word,
            title=title,
            hint="; ".join(filter(None, [hint, counts])),
            unit=scale.unit,
            range=[scale.low, scale.high],
            shapes=shapes,
            first=next(iter(shapes)),
            **more,
            **shared,
        )

    def text(word: str, title: str, hint: str, **more: Any) -> gr.HTML:
        names = {"word": word, "title": title, "hint": "; ".join(filter(None, [hint, counts]))}
        return part("words", {}, elem_id=f"{name}-{word}", **names, **more, **shared)

    made: dict[str, Callable[[], gr.HTML]] = {
        "loudness": lambda: curve(
            "loudness",
            "Loudness",
            "draw how loud it is, over time",
            LOUDNESS,
            view=[-60, 0],
            lines=[-60, -40, -20, 0],
            middle=-30,
            digits=1,
            log=False,
        ),
        "melody": lambda: part(
            "roll",
            {},
            elem_id=f"{name}-melody",
            word="melody",
            first="C4:1 E4:1 G4:2",
            hint=counts or "a tune that the music follows",
            **shared,
        ),
        "structure": lambda: part(
            "form",
            {},
            elem_id=f"{name}-structure",
            word="structure",
            first="ABA",
            hint="which parts sound alike" + (name == "loop") * ", in a loop of one window",
            **shared,
        ),
        "text": lambda: text(
            "text",
            "Text",
            "what it should sound like, by CLAP",
            placeholder="a calm jazz trio with vibraphone",
            rows=2,
        ),
        "beats": lambda: text(
            "beats",
            "Beats",
            "sounds begin on the beats of a tempo",
            placeholder="beats per minute, such as 120",
            rows=1,
        ),
        "chords": lambda: text(
            "chords",
            "Chords",
            "a progression, in beats",
            placeholder="such as Am:4 F:4 C:4 G:4",
            rows=1,
        ),
        "brightness": lambda: curve(
            "brightness",
            "Brightness",
            "draw its spectral centroid",
            FREQUENCY,
            view=[200, 6400],
            lines=[200, 800, 3200],
            middle=1400,
            digits=0,
            log=True,
        ),
    }
    return {word: make() for word, make in made.items() if not words or word in words}


def asked_of(parts: Iterable[str], values: Iterable[Parts]) -> Parts:
    """Return what a wish is told of the controls that are switched on."""
    return {
        word: {key: value[key] for key in ("text", "during", "weight")}
        for word, value in zip(parts, values, strict=True)
        if value.get("on")
    }


def go(name: str, label: str) -> gr.Button:
    """Return a tab's main button."""
    return gr.Button(label, variant="primary", elem_id=f"{name}-go", elem_classes=["go"])


def create_tab(studio: Front) -> None:
    """Make the tab that makes clips."""
    with gr.Row(elem_classes=["sides"]):
        with gr.Column():
            fields = ["tempo", "iterations", "guidance", "method", "seconds", "fade"]
            tags = music(studio, "create", fields, genre="jazz", tempo=110)
            parts = controls(studio, "create")
            button = go("create", "Generate")
        with gr.Column():
            result = part(
                "result",
                {},
                elem_id="create-result",
                go="create-go",
                empty="Switch on what the music must follow, and press Generate. "
                "Without a control it is plain music.",
            )

    def wish(music: Parts, *values: Parts) -> Job:
        return studio.wish("generate", music | asked_of(parts, values))

    run(studio, button, wish, [tags, *parts.values()], result)


def edit_tab(studio: Front) -> None:
    """Make the tab that edits a recording."""
    with gr.Row(elem_classes=["sides"]):
        with gr.Column():
            recording = part("recording", None, elem_id="edit-recording", tab="edit")
            kinds = [
                ["inpaint", "make the regions anew"],
                ["forwards", "extend forwards"],
                ["backwards", "extend backwards"],
                ["loop", "lead back to its start (loop)"],
            ]
            longer = ["forwards", "backwards", "loop"]
            what = part(
                "numbers",
                {},
                elem_id="edit-what",
                title="What to do",
                tab="edit",
                hint="What is not made anew stays bit for bit. The length is that of the whole in "
                "the end: in seconds, or of a loop in bars of four beats at a tempo.",
                parts=[
                    {"name": "action", "label": "action", "options": kinds},
                    {
                        "name": "seconds",
                        "label": "seconds in all",
                        "min": 0,
                        "step": 0.1,
                        "when": longer,
                    },
                    {"name": "bars", "label": "bars in all", "min": 1, "step": 1, "when": ["loop"]},
                    {"name": "bpm", "label": "bpm", "min": 20, "max": 400, "when": ["loop"]},
                ],
            )
            fields = ["tempo", "iterations", "guidance", "method", "overlap", "beat"]
            tags = music(studio, "edit", fields)
            parts = controls(studio, "edit", *IN_EDITS)
            button = go("edit", "Edit")
        with gr.Column():
            result = part(
                "result",
                {},
                elem_id="edit-result",
                go="edit-go",
                empty="Give a recording, drag over what is to be made anew, and press Edit.",
            )

    def wish(file: Parts | None, what: Parts, music: Parts, *asked: Parts) -> Job:
        values = {key: value for key, value in what.items() if key != "action"}
        action = what.get("action", "inpaint")
        extend = action in ("forwards", "backwards")
        kind = "outpaint" if extend else action
        if kind == "inpaint":
            values = {"regions": (file or {}).get("regions", [])}
        elif extend:
            values = {"seconds": values.get("seconds"), "backwards": action == "backwards"}
        token = {"recording": (file or {}).get("token")}
        values |= {"kind": kind} | token | music | asked_of(parts, asked)
        return studio.wish("edit", values)

    run(studio, button, wish, [recording, what, tags, *parts.values()], result)


def loop_tab(studio: Front) -> None:
    """Make the tab that makes loops from nothing."""
    with gr.Row(elem_classes=["sides"]):
        with gr.Column():
            length = part(
                "numbers",
                {},
                elem_id="loop-length",
                title="Length",
                tab="loop",
                hint="Bars have four beats. What does not fit one window of the model, "
                f"{studio.facts.window:.1f} s, is made in several.",
                parts=[
                    {"name": "bpm", "label": "bpm", "min": 20, "max": 400, "value": 120},
                    {"name": "bars", "label": "bars", "min": 1, "max": 16, "value": 2},
                    {"name": "repeats", "label": "repeats", "min": 1, "max": 16, "value": 1},
                ],
            )
            fields = ["iterations", "guidance", "method", "overlap"]
            tags = music(studio, "loop", fields, genre="electronic")
            parts = controls(studio, "loop", *IN_LOOPS)
            button = go("loop", "Make a loop")
        with gr.Column():
            result = part(
                "result",
                {},
                elem_id="loop-result",
                go="loop-go",
                empty="Choose tempo and bars. The loop is exact to the sample, and is played "
                "round and round here.",
            )

    def wish(length: Parts, music: Parts, *asked: Parts) -> Job:
        values = {"kind": "loop"} | length | music | asked_of(parts, asked)
        return studio.wish("edit", values)

    run(studio, button, wish, [length, tags, *parts.values()], result)


def vary_tab(studio: Front) -> None:
    """Make the tab that makes variations of a latent."""
    with gr.Row(elem_classes=["sides"]):
        with gr.Column():
            latent = part("latent", None, elem_id="vary-latent")
            ways = [["ddpm", "ddpm"], ["ddpm+freedom", "ddpm+freedom (follows the controls)"]]
            how = part(
                "numbers",
                {},
                elem_id="vary-how",
                title="How",
                tab="vary",
                hint="Other clips from one latent: no optimisation, only other noise. Without "
                "new tags they keep those of the latent.",
                parts=[
                    {"name": "count", "label": "clips", "min": 1, "max": 16, "value": 4},
                    {"name": "sampling", "label": "sampling", "options": ways},
                    {"name": "steps", "label": "steps T", "min": 1, "placeholder": "auto"},
                ],
            )
            tags = music(studio, "vary", ["tempo"])
            button = go("vary", "Vary")
        with gr.Column():
            result = part(
                "result",
                {},
                elem_id="vary-result",
                go="vary-go",
                brief=True,
                empty="Keep the latent of a clip (“vary this” under it, or its .latent), "
                "and make others of its kind.",
            )

    def wish(latent: Parts | None, how: Parts, music: Parts) -> Job:
        if not latent:
            raise DittoError("give a latent first: press “vary this” under a clip, or choose one")
        return studio.wish("vary", {"latent": latent["token"]} | how | music)

    run(studio, button, wish, [latent, how, tags], result)


def run(
    studio: Front,
    button: gr.Button,
    wish: Callable[..., Job],
    inputs: list[gr.HTML],
    result: gr.HTML,
) -> None:
    """Let a button carry out a wish, and its tab's result follow it.

    Args:
        studio: what does the work.
        button: of the tab.
        wish: takes the inputs' values and queues a job.
        inputs: parts of the tab.
        result: the part that shows the job.
    """

    async def carry_out(*values: Any) -> AsyncIterator[dict[str, Any]]:
        refused = Job(lambda job: None)
        refused.state, refused.line = "failed", BROKEN
        try:
            job = await asyncio.to_thread(wish, *values)
        except DittoError as error:
            refused.line = studio.store.clean(str(error))
            yield refused.page()
            return
        except Exception:  # such as values that no part of the page sends
            log.exception("a wish cannot be read")
            yield refused.page()
            return
        async for now in studio.jobs.watch(job):
            yield now

    button.click(
        carry_out,
        inputs,
        result,
        show_progress="hidden",
        api_visibility="private",
        concurrency_limit=None,
    )
