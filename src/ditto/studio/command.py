"""``ditto-music studio``."""

import os
import socket
import sys
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ditto.errors import RequestError
from ditto.imports import importing
from ditto.paths import printable
from ditto.studio.stubs import without_stubs

if TYPE_CHECKING:
    from ditto.studio.files import Store
    from ditto.studio.front import Make
    from ditto.studio.jobs import Jobs
    from ditto.studio.work import Studio

app = typer.Typer()


@app.command(epilog="Example: ditto-music studio --open")
def studio(
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is for this machine only.")
    ] = "127.0.0.1",
    model: Annotated[
        str | None,
        typer.Option(help="A model's folder, or its name on the Hub; the embedded one by default."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, xpu.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="Of the networks: auto, float32, bfloat16 or float16.")
    ] = "auto",
    queue: Annotated[int, typer.Option(help="Jobs that may wait.", min=1, max=1000)] = 16,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Open the studio: the commands that make music, as a page in the browser."""
    # Before gradio is imported: it would ask other machines for news and fonts.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    check_port(host, port)
    if find_spec("gradio") is None:  # said before the model is loaded
        raise ModuleNotFoundError("there is no gradio", name="gradio")
    where = {"device": device, "precision": precision}
    options = {name: value for name, value in where.items() if value != "auto"}
    if model is not None:
        # Of a folder only the name: the page shows no path of this machine.
        options = {"model": Path(model).resolve().name if Path(model).exists() else model} | options
    from ditto.studio.facts import Facts
    from ditto.studio.front import Front

    make = maker(model, device, precision, options)
    front = Front(make, queue, None if options else Facts.embedded())

    def ready(address: str) -> None:
        typer.echo(f"The studio is open at {address} (Ctrl-C ends it)")
        sys.setswitchinterval(0.0002)
        front.begin()
        if open_page:
            webbrowser.open(address)

    try:
        if not front.early:  # beside what the page needs; a mistake is said before there is a page
            front.begin()
        with importing(), without_stubs():
            from ditto.studio.server import serve
    except BaseException:  # such as Ctrl-C; later `serve` removes the files
        front.close()
        raise
    serve(front, host, port, ready)


def maker(model: str | None, device: str, precision: str, options: dict[str, str]) -> "Make":
    """Return a function that loads the model and makes the studio."""

    def make(store: "Store", jobs: "Jobs") -> "Studio":
        from ditto.models.hub import load
        from ditto.studio.work import Studio

        how: Any = precision
        return Studio(load(model, device=device, precision=how), options, store, jobs)

    return make


def check_port(host: str, port: int) -> None:
    """Refuse a port that is taken.

    Raises:
        RequestError: nothing can listen there.
    """
    if not host:  # an empty one would be all addresses
        raise RequestError(
            "give --host an address: 127.0.0.1 is for this machine only, 0.0.0.0 for all"
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise RequestError(
            f"cannot listen on {printable(host)}:{port}: {error.strerror or error}; choose another "
            "--port"
        ) from None
    except (TypeError, ValueError):  # of what no name of a machine can be
        raise RequestError(f"cannot listen on {printable(host)}: it is no address") from None
