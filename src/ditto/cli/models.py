"""``ditto-music models``, and where the benchmarks are."""

from typing import Annotated

import typer

from ditto.errors import RequestError

app = typer.Typer()


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
) -> None:
    """Show what a model is: size, tags, hash; and what a run on it costs."""
    from ditto.models.hub import load
    from ditto.models.profile import describe_model, estimate_cost

    loaded = load(source or model)
    typer.echo("\n".join(describe_model(loaded)))
    if estimate:
        cost = estimate_cost(
            loaded, seconds=seconds, count=count, steps=steps, iterations=iterations
        )
        typer.echo("\n".join(cost.lines()))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def bench(name: Annotated[str, typer.Argument()] = "") -> None:
    """Say where the benchmarks are."""
    raise RequestError(
        "benchmarks belong to a checkout of the source, not to the package: run `python -m "
        f"benchmarks {name}`".rstrip(" `")
        + "` there"
    )
