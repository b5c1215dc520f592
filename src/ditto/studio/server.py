"""What the page is served by: Gradio's app, and beside it files, uploads and plain REST calls."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import gradio
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from ditto.audio.scales import FASTEST, SLOWEST
from ditto.errors import DittoError, RequestError
from ditto.studio import page
from ditto.studio.facts import LONGEST, first_fault
from ditto.studio.files import KINDS, UploadError
from ditto.studio.front import Front
from ditto.studio.guard import NOTHING, STATIC, Guard
from ditto.studio.jobs import BROKEN, NOT_BEGUN

MAX_BODY = 1_000_000
"""Bytes of a JSON request."""

log = logging.getLogger("ditto.studio")


def make_app(studio: Front, host: str) -> FastAPI:
    """Return the whole application.

    Args:
        studio: what does the work.
        host: that it will be served on.
    """
    app = FastAPI(title="Ditto studio", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(DittoError)
    async def refused(request: Request, error: DittoError) -> Response:
        return _fault(studio.store.clean(str(error)), 422)

    @app.exception_handler(RequestValidationError)
    async def misspelt(request: Request, error: RequestValidationError) -> Response:
        return _fault(first_fault(error.errors()), 422)

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return _fault("whoever sent this has left", 400)  # nobody reads it

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return _fault(BROKEN, 500)

    add_files(app, studio)
    add_jobs(app, studio)
    return gradio.mount_gradio_app(
        app,
        page.make_page(studio),
        path="/",
        server_name=host,
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=1,
        enable_monitoring=False,
        theme=page.theme(),
        head=page.HEAD,
    )


def add_files(app: FastAPI, studio: Front) -> None:
    """Add the routes of the page's own files, of users' files and of uploads."""

    @app.get("/studio/static/{name}")
    async def static(name: str) -> Response:
        known = {file.name: file for file in STATIC.iterdir()}
        if name not in known:
            return _fault(NOTHING, 404)
        return FileResponse(known[name], headers={"cache-control": "no-cache"})

    @app.get("/studio/files/{token}/{name}")
    async def file(token: str, name: str, download: bool = False) -> Response:
        try:
            found = studio.store.find(token, name)
        except UploadError as error:
            return _fault(str(error), 404)
        return FileResponse(found, filename=found.name if download else None)

    @app.post("/studio/upload/{kind}")
    async def upload(
        request: Request,
        kind: str,
        name: str,
        tempo: float | None = None,
        seconds: float | None = None,
    ) -> Any:
        return await receive(studio, request, kind, name, tempo, seconds)


def add_jobs(app: FastAPI, studio: Front) -> None:
    """Add the routes of running jobs, and the plain REST calls."""

    @app.get("/studio/jobs/{name}")
    async def job(name: str) -> Any:
        found = studio.jobs.find(name)
        return _fault(NOTHING, 404) if found is None else studio.jobs.look(found)

    @app.post("/studio/jobs/{name}/stop")
    async def stop(name: str) -> Any:
        found = studio.jobs.find(name)
        if found is None:
            return _fault(NOTHING, 404)
        studio.jobs.cancel(found)
        return {"stopping": True}

    @app.post("/studio/generate")
    async def generate(request: Request) -> Any:
        return await answer(request, studio, "generate", await body(request))

    @app.post("/studio/edit")
    async def edit(request: Request) -> Any:
        return await answer(request, studio, "edit", await body(request))


async def receive(
    studio: Front,
    request: Request,
    kind: str,
    name: str,
    tempo: float | None,
    seconds: float | None,
) -> Any:
    """Take an upload, the body of a request, and return what the page shows of it.

    Raises:
        DittoError: it is refused.
    """
    announced = request.headers.get("content-length", "")
    length = int(announced) if announced.isdecimal() else None
    if tempo is not None and not SLOWEST <= tempo <= FASTEST:  # NaN neither
        raise RequestError(f"tempo must be from {SLOWEST:g} to {FASTEST:g} BPM, not {tempo:g}")
    if seconds is not None and not 0 < seconds <= LONGEST:
        raise RequestError(f"seconds must be above 0 and at most {LONGEST:g}, not {seconds:g}")
    stored = "sound" if kind == "melody" else kind
    file = await studio.store.receive(stored, name, length, request.stream())
    look: dict[str, Callable[[], dict[str, Any]]] = {
        "sound": lambda: studio.studio.look_into(file),
        "latent": lambda: studio.studio.latent(file),
        "score": lambda: studio.studio.tune(file, tempo, seconds),
        "melody": lambda: studio.studio.tune(file, tempo, seconds),
    }
    assert set(KINDS) <= set(look)
    kept = False
    try:
        found = await asyncio.to_thread(look[kind])
        kept = "token" in found  # of a tune only its notes are needed
    finally:
        if not kept:
            studio.store.remove(file.parent)
    return found


async def body(request: Request) -> dict[str, Any]:
    """Return a request's JSON object.

    Raises:
        RequestError: it is none, or too large.
    """
    text = b""
    async for chunk in request.stream():
        text += chunk
        if len(text) > MAX_BODY:
            raise RequestError("the request is too large")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise RequestError('send one JSON object, such as {"loudness": {"text": "swell"}}')
    return values


async def answer(request: Request, studio: Front, what: str, values: dict[str, Any]) -> Response:
    """Carry out a wish; return its sound, or with ``Accept: application/json`` all about it.

    Raises:
        DittoError: it is refused, or failed.
    """
    job = await asyncio.to_thread(studio.wish, what, values, compare=False)
    async for _ in studio.jobs.watch(job, request.is_disconnected):
        pass
    if not job.clips:
        raise RequestError(job.line or NOT_BEGUN)
    clip = job.clips[0]
    if "application/json" in request.headers.get("accept", ""):
        shown = {key: clip[key] for key in ("title", "seconds", "sound", "downloads", "command")}
        values = {error["key"]: error["value"] for error in clip["errors"]}
        return JSONResponse(shown | {"errors": values, "note": job.line})
    token, name = clip["sound"].split("/")[-2:]
    return FileResponse(studio.store.find(token, name), filename=name)


def _fault(line: str, status: int) -> JSONResponse:
    return JSONResponse({"error": line}, status)


def serve(studio: Front, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve the studio until it is interrupted.

    Args:
        studio: what does the work.
        host: address to listen on.
        port: to listen on.
        ready: called with the page's address once it answers.

    Raises:
        ModelError: the model cannot be loaded, which may turn out while the page is served.
    """
    try:
        app = Guard(make_app(studio, host), host)
        asyncio.run(_serve(studio, app, host, port, ready))
        if studio.fault is not None:
            raise studio.fault
    finally:
        studio.close()


async def _serve(
    studio: Front, app: ASGIApp, host: str, port: int, ready: Callable[[str], None]
) -> None:
    server = uvicorn.Server(
        uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=3)
    )
    serving = asyncio.create_task(server.serve())
    while not (server.started or serving.done()):
        await asyncio.sleep(0.01)
    if server.started:
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        ready(f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/")
    while not (serving.done() or studio.over):
        await asyncio.wait([serving], timeout=0.2)
    if studio.fault is not None:
        server.should_exit = True
    await serving
