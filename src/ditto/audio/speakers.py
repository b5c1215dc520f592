"""Which loudspeaker each channel of a sound file is for: the formats differ, and in their order.

libsndfile gives channels as the file has them, and tells what they are for of wav, aiff and caf
alone; of the others it is the format's own standard that says it. A loudspeaker is named by
libsndfile's number of it.
"""

from typing import Any

import soundfile

from ditto.paths import StrPath, found_path

Speakers = tuple[int, ...]

FL, FR, FC, BC, BL, BR, LFE, SL, SR = 2, 3, 4, 8, 9, 10, 11, 14, 15
_BITS = (FL, FR, FC, LFE, BL, BR, 12, 13, BC, SL, SR, 16, 17, 19, 18, 20, 22, 21)
"""Loudspeakers by their bit in the mask of a wav (WAVEFORMATEXTENSIBLE), which is their order."""
_NAMES = (
    *("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR"),
    *("TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR"),
)
"""FFmpeg's names of them, in the same order."""
_ALIASES = {1: FC, 5: FL, 6: FR, 7: FC}
"""Numbers of libsndfile's that stand for another one's loudspeaker."""

_FLAC: dict[int, Speakers] = {
    3: (FL, FR, FC),
    4: (FL, FR, BL, BR),
    5: (FL, FR, FC, SL, SR),
    6: (FL, FR, FC, LFE, SL, SR),
    7: (FL, FR, FC, LFE, BC, SL, SR),
    8: (FL, FR, FC, LFE, BL, BR, SL, SR),
}
"""RFC 9639, 9.1.3. Of 5 and 6 channels it says "back/surround": the reference decoder's masks have
the side ones."""
_VORBIS: dict[int, Speakers] = {
    3: (FL, FC, FR),
    4: (FL, FR, BL, BR),
    5: (FL, FC, FR, BL, BR),
    6: (FL, FC, FR, BL, BR, LFE),
    7: (FL, FC, FR, SL, SR, BC, LFE),
    8: (FL, FC, FR, SL, SR, BL, BR, LFE),
}
"""Vorbis I, 4.3.9; Opus has the same (RFC 7845, 5.1.1.2)."""
_MASK_TAG = b"WAVEFORMATEXTENSIBLE_CHANNEL_MASK"
_COMMENTS, _LAST = 4, 0x80
"""Of the blocks that a flac begins with: the one of tags, and the bit of the last."""
_MOST_BLOCKS, _MOST_TAGS = 128, 2**20
"""Blocks that are looked through, and bytes of tags."""
_GET_CHANNEL_MAP, _SET_CHANNEL_MAP = 0x1100, 0x1101  # of libsndfile's sf_command


def speakers_of(path: StrPath, file: soundfile.SoundFile) -> Speakers:
    """Return the loudspeakers of a file's channels, in their order; () if they are unknown.

    Args:
        path: the file.
        file: it, open.
    """
    told = _command(file, _GET_CHANNEL_MAP, [0] * file.channels)
    if any(told):
        return tuple(told)
    if file.format == "FLAC":
        return _of_mask(_flac_mask(path), file.channels) or _FLAC.get(file.channels, ())
    if file.format == "OGG" and not (file.subtype == "OPUS" and _is_unordered(path)):
        return _VORBIS.get(file.channels, ())
    return ()


def tell(file: soundfile.SoundFile, speakers: Speakers) -> None:
    """Tell a file that is being written which loudspeakers its channels are for."""
    if len(speakers) == file.channels:
        _command(file, _SET_CHANNEL_MAP, list(speakers))


def order_in(container: str, speakers: Speakers) -> list[int]:
    """Return the channels in the order in which a container has them.

    Where that is unknown, or nothing of the container's standard, they stay as they are.

    Args:
        container: libsndfile's name of it.
        speakers: of the channels, in their order.
    """
    plain = [_ALIASES.get(speaker, speaker) for speaker in speakers]
    same = list(range(len(speakers)))
    if not set(plain) <= set(_BITS) or len(set(plain)) < len(plain):
        return same
    if container != "OGG":
        return sorted(same, key=lambda i: _BITS.index(plain[i]))
    wanted = _VORBIS.get(len(plain), ())
    names = plain
    if set(names) != set(wanted):  # "surround": at the sides in some formats, behind in others
        names = [{SL: BL, SR: BR, BL: SL, BR: SR}.get(speaker, speaker) for speaker in plain]
    return [names.index(speaker) for speaker in wanted] if set(names) == set(wanted) else same


def by_names(names: list[str]) -> Speakers:
    """Return the loudspeakers that FFmpeg names so; () where one has no number."""
    if not set(names) <= set(_NAMES):
        return ()
    return tuple(_BITS[_NAMES.index(name)] for name in names)


def _of_mask(mask: int, channels: int) -> Speakers:
    found = tuple(speaker for bit, speaker in enumerate(_BITS) if mask >> bit & 1)
    return found if len(found) == channels else ()


def _flac_mask(path: StrPath) -> int:
    """Return the mask that a flac's tags hold in place of the standard's (RFC 9639, 8.6.2); or 0.

    libsndfile does not give that tag.
    """
    with open(found_path(path), "rb") as raw:
        if raw.read(4) != b"fLaC":
            return 0
        for _ in range(_MOST_BLOCKS):
            head = raw.read(4)
            size = int.from_bytes(head[1:], "big")
            if len(head) == 4 and head[0] & ~_LAST == _COMMENTS:
                return _mask_in(raw.read(min(size, _MOST_TAGS)))
            if len(head) < 4 or head[0] & _LAST:
                return 0
            raw.seek(size, 1)
    return 0


def _mask_in(block: bytes) -> int:
    """Return the mask among a block's tags, or 0.

    They are lengths and texts, after who wrote it and how many they are.
    """
    at = 8 + int.from_bytes(block[:4], "little")
    while at + 4 <= len(block):
        end = at + 4 + int.from_bytes(block[at : at + 4], "little")
        name, _, value = block[at + 4 : end].partition(b"=")
        if name.upper() == _MASK_TAG:
            try:
                return int(value[:20], 16)
            except ValueError:
                return 0
        at = end
    return 0


def _is_unordered(path: StrPath) -> bool:
    """Tell whether an opus file's channels have no order of Vorbis' (mapping families above 1)."""
    with open(found_path(path), "rb") as raw:
        head = raw.read(4096)
    at = head.find(b"OpusHead")
    return at >= 0 and head[at + 18 : at + 19] > b"\1"


def _command(file: soundfile.SoundFile, command: int, values: list[int]) -> list[int]:
    """Call libsndfile's ``sf_command`` with an array of int, which soundfile has no name for."""
    library: Any = soundfile
    data, handle = library._ffi.new("int[]", values), vars(file)["_file"]
    library._snd.sf_command(handle, command, data, library._ffi.sizeof(data))
    return list(data)
