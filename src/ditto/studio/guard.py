"""What stands between a browser and the studio's app.

Gradio's own upload and file routes are closed: they answer with paths of this machine. Every answer
carries a policy that lets a browser fetch from this server only. Files that the page is made of are
handed out here, to browsers on this machine: they are some fifty, and go slowly through
all layers of the app, which packs them besides.
"""

import re
from mimetypes import guess_type
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import gradio
from fastapi import Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATIC = Path(__file__).parent / "static"
ASSETS = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
"""Gradio's scripts and styles; there is a hash in each one's name."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
CLOSED = re.compile(
    r"/(gradio_api/)?(upload|upload_progress|file[=/]|proxy=|stream/|process_recording|vibe|undo-vibe"
    r"|run-history|deep_link|dev/|component_server|monitoring|runs\b|custom_component)"
    r"|/(openapi\.json|docs|redoc)"
)
"""Routes of Gradio's that the studio has no use for."""
LOCAL = ("127.0.0.1", "localhost", "::1")
NOTHING = "there is nothing here"
SOON = ", ".join(
    f"<studio/static/{file.name}>; rel=preload; as={'style' if file.suffix == '.css' else 'script'}"
    for file in sorted(STATIC.iterdir())
    if file.suffix in (".css", ".js")
).encode()
"""Tells a browser to fetch at once what it would find out about last."""


class Guard:
    """Closes routes, refuses other sites' pages, adds headers, and hands out the page's own files.

    Attributes:
        app: what is guarded.
        host: that the server listens on.
        files: what is answered without asking the app, by path; to other machines the app packs it.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app, self.host = app, host
        self.files = page_files() if host in LOCAL else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page needs no WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        refused = self._refused(scope)
        if refused:
            await JSONResponse({"error": refused}, 403)(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    *([(b"link", SOON)] if scope["path"] == "/" else []),
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        file = self.files.get(scope["path"]) if scope["method"] == "GET" else None
        if file is not None:
            await answer(file)(scope, receive, guarded)
            return
        if self.host in LOCAL:  # packing takes longer than a copy within this machine
            packed = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
            scope = {**scope, "headers": packed}
        await self.app(scope, receive, guarded)

    def _refused(self, scope: Scope) -> str:
        """Return why a request is refused, or ""."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        # A page of another site may not reach a server of this machine under a name of its own.
        if self.host in LOCAL and place(f"//{host}").hostname not in LOCAL:
            return "this studio listens to this machine only"
        if origin and place(origin).netloc != host:
            return "another site's page may not use this studio"
        return NOTHING if CLOSED.match(scope["path"]) else ""


def place(address: str) -> SplitResult:
    """Return the parts of an address; none of one that makes no sense."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def page_files() -> dict[str, Path]:
    """Return the files that the page is made of, by the path that a browser asks for."""
    places = {"/assets/": ASSETS, "/studio/static/": STATIC}
    return {
        f"{place}{file.name}": file
        for place, folder in places.items()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.suffix in (".js", ".css")
    }


def answer(file: Path) -> Response:
    """Return a file of the page; Gradio's may be kept, since others would have other names."""
    kept = "no-cache" if file.parent == STATIC else "public, max-age=31536000, immutable"
    kind = "text/javascript" if file.suffix == ".js" else guess_type(file.name)[0]
    return Response(file.read_bytes(), media_type=kind, headers={"cache-control": kept})
