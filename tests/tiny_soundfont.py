"""A SoundFont of a few kilobytes, made in memory: a sine for every General MIDI program, a noise
burst for every drum.

Format: SoundFont 2.01 (RIFF ``sfbk``), with the least set of generators. Pitches are exact, so that
    tests can read the
notes of a piece from its audio.
"""

import struct
from pathlib import Path

import numpy as np

RATE = 44_100
SINE_KEY = 69  # the looped sine is an A4: 100 samples of 441 Hz, tuned down 4 cents to 440 Hz
KITS = (0, 8, 16, 24, 25, 32, 40, 48)

# generator operators
RELEASE_VOLUME, INSTRUMENT, KEY_RANGE, FINE_TUNE, SAMPLE_ID, SAMPLE_MODES, ROOT_KEY = (
    38,
    41,
    43,
    52,
    53,
    54,
    58,
)


def make_tiny_soundfont(path: Path) -> Path:
    """Write the SoundFont to `path`."""
    sine = np.sin(2 * np.pi * 441 * np.arange(1000) / RATE)
    burst = np.random.default_rng(0).standard_normal(3000) * np.exp(-np.arange(3000) / 600) * 0.3
    info = _list("INFO", _chunk("ifil", struct.pack("<HH", 2, 1)) + _chunk("INAM", b"tiny\0\0"))
    pcm, spans = _samples([sine, burst])
    body = info + _list("sdta", _chunk("smpl", pcm)) + _list("pdta", _hydra(spans))
    path.write_bytes(_chunk("RIFF", b"sfbk" + body))
    return path


def _chunk(name: str, data: bytes) -> bytes:
    return name.encode() + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _list(name: str, data: bytes) -> bytes:
    return _chunk("LIST", name.encode() + data)


def _samples(waves: list[np.ndarray]) -> tuple[bytes, list[tuple[int, int]]]:
    """16-bit data with the 46 zeros that must follow each sample, and where each lies."""
    data, spans, at = b"", [], 0
    for wave in waves:
        spans.append((at, at + len(wave)))
        data += (np.clip(wave * 0.8, -1, 1) * 32767).astype("<i2").tobytes() + bytes(92)
        at += len(wave) + 46
    return data, spans


def _hydra(spans: list[tuple[int, int]]) -> bytes:
    """Presets → instruments → samples, each list closed by a terminal record."""
    presets = [(0, program, 0) for program in range(128)] + [(128, kit, 1) for kit in KITS]
    phdr = b"".join(_preset(bank, number, i) for i, (bank, number, _) in enumerate(presets))
    pbag = b"".join(struct.pack("<HH", i, 0) for i in range(len(presets) + 1))
    pgen = b"".join(struct.pack("<HH", INSTRUMENT, instrument) for _, _, instrument in presets)
    tone = [
        (RELEASE_VOLUME, -4000),
        (FINE_TUNE, -4),
        (SAMPLE_MODES, 1),
        (ROOT_KEY, SINE_KEY),
        (SAMPLE_ID, 0),
    ]
    drum = [(RELEASE_VOLUME, -4000), (ROOT_KEY, 60), (SAMPLE_ID, 1)]
    igen = b"".join(struct.pack("<Hh", *generator) for generator in tone + drum)
    bags = (0, len(tone), len(tone) + len(drum))
    ibag = b"".join(struct.pack("<HH", bag, 0) for bag in bags)
    inst = b"".join(
        struct.pack("<20sH", name, i) for i, name in enumerate((b"sine", b"burst", b"EOI"))
    )
    shdr = b"".join(_sample_header(i, span) for i, span in enumerate(spans)) + struct.pack(
        "<20s26x", b"EOS"
    )
    return (
        _chunk("phdr", phdr + _preset(0, 0, len(presets)))
        + _chunk("pbag", pbag)
        + _chunk("pmod", bytes(10))
        + _chunk("pgen", pgen + bytes(4))
        + _chunk("inst", inst)
        + _chunk("ibag", ibag)
        + _chunk("imod", bytes(10))
        + _chunk("igen", igen + bytes(4))
        + _chunk("shdr", shdr)
    )


def _preset(bank: int, number: int, bag: int) -> bytes:
    return struct.pack("<20sHHHIII", f"p{bank}-{number}".encode(), number, bank, bag, 0, 0, 0)


def _sample_header(index: int, span: tuple[int, int]) -> bytes:
    start, end = span
    return struct.pack(
        "<20sIIIIIBbHH", f"s{index}".encode(), start, end, start, end, RATE, SINE_KEY, 0, 0, 1
    )
