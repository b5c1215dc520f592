"""``ditto-music models``, and where the benchmarks are."""

from typing import Annotated, Any

import typer

from ditto.cli.progress import DEVICE_HELP
from ditto.errors import RequestError

app = typer.Typer()

EXAMPLES = {
    "loudness": "crescendo",
    "brightness": "brighten",
    "melody": "C4:1 E4:1 G4:2",
    "structure": "AB",
}
"""Controls that a run's cost is estimated for; the cost is that of any target of theirs."""


@app.command(epilog="Example: ditto-music models cvssp/audioldm2-music --estimate -T 20 -K 70")
def models(
    source: Annotated[
        str | None,
        typer.Argument(help="A model's folder or Hub id; the embedded model by default."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The same, as an option.")] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Also what a run would cost in memory and time.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(help="Length; the model's window by default.")
    ] = None,
    count: Annotated[int, typer.Option(help="Clips at once.")] = 1,
    steps: Annotated[int, typer.Option("--steps", "-T", help="Sampling steps.")] = 20,
    iterations: Annotated[
        int, typer.Option("--iterations", "-K", help="Optimisation iterations.")
    ] = 70,
    control: Annotated[
        str, typer.Option(help=f"What the run follows: {', '.join(EXAMPLES)}.")
    ] = "loudness",
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    precision: Annotated[str, typer.Option(help="As in `generate`.")] = "auto",
    decoder_precision: Annotated[str, typer.Option(help="As in `generate`.")] = "float32",
) -> None:
    """Show what a model is: size, tags, hash; and what a run on it costs."""
    from ditto.controls import CONTROLS
    from ditto.controls.base import ParseContext
    from ditto.methods.ditto import Ditto
    from ditto.models.device import device_name
    from ditto.models.hub import load
    from ditto.models.profile import describe_model, estimate_cost
    from ditto.request import Request

    Request(method=Ditto(steps=steps), iterations=iterations, count=count, seconds=seconds)
    if control not in EXAMPLES:
        raise RequestError(f"there is no estimate of {control!r}: choose {', '.join(EXAMPLES)}")
    if source is not None and model is not None:
        raise RequestError("give the model once: by itself, or with --model")
    settings: Any = {"precision": precision, "decoder_precision": decoder_precision}
    loaded = load(source or model, device=device, **settings)
    typer.echo("\n".join(describe_model(loaded)))
    if estimate:
        kind = next(c for c in CONTROLS.values() if control in (c.kind, *c.other_names))
        target = kind.parse(EXAMPLES[control], ParseContext(lambda: loaded.spec))
        cost = estimate_cost(
            loaded,
            seconds=seconds,
            count=count,
            steps=steps,
            iterations=iterations,
            loss=target,
            proxy=target.proxy() if loaded.has_mel or loaded.readers else target,
        )
        typer.echo(f"on         {device_name(loaded.device)}, {control}")
        typer.echo("\n".join(cost.lines()))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def bench(name: Annotated[str, typer.Argument()] = "") -> None:
    """Say where the benchmarks are."""
    raise RequestError(
        "benchmarks belong to a checkout of the source, not to the package: run `python -m "
        f"benchmarks {name}`".rstrip(" `")
        + "` there"
    )
