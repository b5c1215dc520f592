"""Files of the studio's users: each in a folder of unguessable name, gone an hour after use."""

import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ditto.errors import DataError
from ditto.paths import printable, runs

KEEP_SECONDS = 3600.0
MAX_STORE = 4 * 10**9
"""Bytes that all users' files may take together."""
NAME_BYTES = 200
"""Of a stem: file systems take 255 for a whole name."""
ROOT = "ditto-studio-"
"""Begins the names of all users' folders, ``ditto-studio-<process>-…``; only a kill leaves them
behind, and a later studio removes them."""
OURS = "~"
"""Begins the names of files that are made beside an upload."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{20,40}")


@dataclass(frozen=True)
class Kind:
    """What may be uploaded.

    Attributes:
        endings: of the names.
        limit: bytes.
        noun: for messages.
    """

    endings: tuple[str, ...]
    limit: int
    noun: str


SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff")
KINDS = {
    "sound": Kind(SOUNDS, 64_000_000, "sound file"),
    "score": Kind((".mid", ".midi", ".musicxml", ".mxl", ".xml"), 2_000_000, "MIDI or MusicXML"),
    "latent": Kind((".latent",), 8_000_000, "latent"),
}


class UploadError(DataError):
    """An upload is refused."""


@dataclass
class Store:
    """Folders of files, by token.

    Attributes:
        keep: seconds until a folder is removed.
        root: of all folders; a new one by default.
        in_use: returns folders that are needed, however long that takes.
    """

    keep: float = KEEP_SECONDS
    root: Path = field(
        default_factory=lambda: Path(tempfile.mkdtemp(prefix=f"{ROOT}{os.getpid()}-"))
    )
    in_use: Callable[[], Iterable[Path]] = tuple

    def __post_init__(self) -> None:
        """Begin to remove what is old, and what studios that were killed left."""
        _remove_left(self.keep)
        self._closed = threading.Event()
        threading.Thread(target=self._sweep_often, daemon=True).start()

    def new(self) -> Path:
        """Return a new, empty folder; its name is the token."""
        folder = self.root / secrets.token_urlsafe(18)
        if not self._closed.is_set():  # systems remove what lies about for days
            self.root.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700)
        return folder

    def find(self, token: str, name: str | None = None) -> Path:
        """Return a file by its folder's token; without a name the folder's first file.

        Its time begins anew.

        Raises:
            UploadError: there is none (any more).
        """
        folder = self.root / token
        if _TOKEN.fullmatch(token) and folder.is_dir():
            with suppress(FileNotFoundError):  # it is being removed
                os.utime(folder)
            files = {file.name: file for file in sorted(folder.glob("*")) if file.is_file()}
            given = [file for file in files.values() if not file.name.startswith(OURS)]
            if given and name is None:
                return given[0]
            if name in files:
                return files[name]
        hour = f"{self.keep / 60:.0f} minutes"
        raise UploadError(f"this file is no longer here: files are kept for {hour}, give it again")

    def clean(self, message: str) -> str:
        """Return a message on one line that shows no path of this machine."""
        line = re.sub(re.escape(str(self.root)) + r"(/[A-Za-z0-9_-]+)?/?", "", message)
        return " ".join(line.split())

    def remove(self, folder: Path) -> None:
        """Remove a folder at once."""
        shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove folders that are too old; the time of those in use begins anew."""
        limit, used = time.time() - self.keep, set(self.in_use())
        for folder in self.root.glob("*"):
            with suppress(OSError):  # removed meanwhile: the next one's turn
                if folder in used:
                    os.utime(folder)
                elif folder.stat().st_mtime < limit:
                    self.remove(folder)

    def _sweep_often(self) -> None:
        while not self._closed.wait(min(60.0, self.keep / 4)):
            self.sweep()

    def close(self) -> None:
        """Remove everything."""
        self._closed.set()
        shutil.rmtree(self.root, ignore_errors=True)

    def size(self) -> int:
        """Return the bytes of all files."""
        total = 0
        for file in self.root.glob("*/*"):
            with suppress(OSError):  # removed meanwhile
                total += file.stat().st_size
        return total

    def check_room(self) -> None:
        """Refuse more files than the store may take.

        Raises:
            UploadError: there is no room.
        """
        if self.size() > MAX_STORE:
            raise UploadError("the studio's disk space is taken: try again later")

    async def receive(
        self, kind: str, name: str, length: int | None, chunks: AsyncIterator[bytes]
    ) -> Path:
        """Write an upload, which is not looked into.

        Args:
            kind: of `KINDS`.
            name: that the user's file has.
            length: bytes that are announced.
            chunks: of the file.

        Raises:
            UploadError: its ending or size is refused; nothing of it is kept.
        """
        allowed, name = _kind(kind), safe_name(name)
        if not name.lower().endswith(allowed.endings):
            endings = ", ".join(allowed.endings)
            raise UploadError(f"{name} is no {allowed.noun}: its name must end in {endings}")
        if length is not None and length > allowed.limit:
            raise UploadError(_too_large(name, allowed))
        self.check_room()
        folder, done = self.new(), 0
        try:
            with (folder / name).open("wb") as file:
                async for chunk in chunks:
                    done += len(chunk)
                    if done > allowed.limit:
                        raise UploadError(_too_large(name, allowed))
                    file.write(chunk)
            if not done:
                raise UploadError(f"{name} is empty (0 bytes)")
        except BaseException:
            self.remove(folder)
            raise
        return folder / name


def _remove_left(keep: float) -> None:
    """Remove the folders of studios that were killed, of which no file would be kept any more."""
    for root in Path(tempfile.gettempdir()).glob(f"{ROOT}[0-9]*-*"):
        process = root.name.removeprefix(ROOT).partition("-")[0]
        with suppress(OSError):
            old = root.stat().st_mtime < time.time() - keep
            if old and process.isdecimal() and not runs(int(process)):
                shutil.rmtree(root, ignore_errors=True)


def _kind(kind: str) -> Kind:
    if kind not in KINDS:
        raise UploadError(f"unknown kind of upload: choose one of {', '.join(KINDS)}")
    return KINDS[kind]


def _too_large(name: str, kind: Kind) -> str:
    return f"{name} is too large: a {kind.noun} may have at most {kind.limit // 10**6} MB here"


def safe_name(name: str) -> str:
    """Return a user's file name without folders and what a file system or a shell dislikes."""
    base = os.path.basename(name.replace("\\", "/"))
    kept = re.sub(r"""[<>:"/\\|?*$;`~&\n]""", "_", printable(base)).strip(" .-") or "file"
    stem, ending = os.path.splitext(kept)
    return stem.encode()[:NAME_BYTES].decode(errors="ignore") + ending[:12]
