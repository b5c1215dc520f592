"""Tables of genres: instruments, harmony, textures and tendencies.

Programs are General MIDI numbers counted from 0. The palettes of the genres hardly overlap, so that
a genre can be heard within seconds.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """An accompanying part: its texture (`ditto.composer.textures`), instruments, range, level."""

    role: str
    texture: str
    programs: tuple[int, ...]
    low: int
    high: int
    gain_db: float = 0.0


@dataclass(frozen=True)
class Style:
    """A genre.

    `tempo_bias` in [-1, 1] tilts the uniform tempo law; `swing` is where the off-beat eighth falls
    in its beat (0.5 is straight); `lineups` are alternative sets of accompanying parts, the bass
    first; `groove` names the drum patterns ("" = no drums); `cells` names the melody's rhythm;
    `level_db` and `reverb` shift the mix. `busy` is added to the density of a bar; drums play from
    a section's energy `drums_from` on, and in a build they roll if it `rolls`; `extend` makes
    ninths and thirteenths of sevenths; `pump_db` is the range of `Mix.pump_db`.
    """

    name: str
    tempo_bias: float
    swing: float
    metres: tuple[str, ...]
    major: tuple[str, ...]
    minor: tuple[str, ...]
    lineups: tuple[tuple[Part, ...], ...]
    leads: tuple[int, ...]
    cells: str
    groove: str
    kits: tuple[int, ...]
    level_db: float
    reverb: float
    articulation: float
    busy: float = 0.0
    drums_from: float = 0.22
    rolls: bool = False
    extend: bool = False
    pump_db: tuple[float, float] = (0.0, 0.0)


def _bass(texture: str, *programs: int) -> Part:
    return Part("bass", texture, programs, 28, 52)


JAZZ = Style(
    name="jazz",
    tempo_bias=0.0,
    swing=0.64,
    metres=("4/4",),
    major=(
        "IIm7 | V7 | Imaj7 | VI7",
        "Imaj7 VIm7 | IIm7 V7 | IIIm7 VI7 | IIm7 V7",
        "Imaj7 | IVmaj7 | IIIm7 VI7 | IIm7 V7",
        "I7 | IV7 | I7 | V7",
        "Imaj9 | IIm9 | IIIm7 bIIImaj7 | IIm9 V13",
    ),
    minor=(
        "Im7 | IIm7b5 V7b9 | Im6 | IIm7b5 V7b9",
        "Im7 | IVm7 | bVImaj7 | V7b9",
        "IVm7 | bVII7 | bIIImaj7 | bVImaj7 V7b9",
        "Im6 | Im6 | IVm7 | Im6 V7#9",
    ),
    lineups=(
        (_bass("walking", 32), Part("comp", "comping", (0,), 52, 72)),
        (_bass("walking", 32), Part("comp", "comping", (26,), 50, 69)),
        (_bass("walking", 32), Part("comp", "comping", (11, 4), 53, 74)),
        (
            _bass("walking", 32),
            Part("comp", "comping", (0,), 52, 72),
            Part("colour", "shout", (61, 65), 57, 76, 3.0),
        ),
        (
            _bass("walking", 32),
            Part("comp", "comping", (0,), 50, 70),
            Part("colour", "four", (26,), 48, 66, -1.0),
        ),
        (
            _bass("walking", 32),
            Part("comp", "comping", (26,), 50, 69),
            Part("colour", "shout", (66, 57), 55, 74, 2.0),
        ),
    ),
    leads=(66, 65, 59, 71, 64, 56, 0, 11, 26),
    cells="jazz",
    groove="jazz",
    kits=(32, 40),
    level_db=-1.0,
    reverb=0.9,
    articulation=0.85,
    busy=0.15,
    drums_from=0.12,
    extend=True,
)

ROCK = Style(
    name="rock",
    tempo_bias=0.3,
    swing=0.5,
    metres=("4/4",),
    major=(
        "I | bVII | IV | I",
        "I | V | VIm | IV",
        "I | IV | V | IV",
        "VIm | IV | I | V",
        "I IV | V | I IV | bVII V",
    ),
    minor=(
        "Im | bVI | bVII | Im",
        "Im | bVII | bVI | bVII",
        "Im | bIII | IV | bVI",
        "Im | Im | bVI | V",
        "Im bIII | IV | Im bIII | bVII",
    ),
    lineups=(
        (
            _bass("eighths", 34),
            Part("comp", "power", (30,), 40, 57, 2.0),
            Part("colour", "pad", (18,), 55, 74),
        ),
        (_bass("eighths", 34), Part("comp", "power", (29,), 40, 57, 2.0)),
        (
            _bass("eighths", 34),
            Part("comp", "power", (30, 29), 40, 57, 2.0),
            Part("colour", "power_high", (29,), 52, 69),
        ),
    ),
    leads=(30, 29, 84),
    cells="rock",
    groove="rock",
    kits=(16, 0),
    level_db=2.0,
    reverb=0.6,
    articulation=0.95,
    rolls=True,
)

CLASSICAL = Style(
    name="classical",
    tempo_bias=-0.1,
    swing=0.5,
    metres=("4/4", "3/4"),
    major=(
        "I | V7 | I | V7",
        "I | VIm | IIm | V7",
        "I | IV | V7 | I",
        "I | IIIm | IV | V7",
        "I VIm | IIm V7 | IIIm VIm | IIm V7",
    ),
    minor=(
        "Im | IVm | V7 | Im",
        "Im | bVI | IIdim | V7",
        "Im | bVII | bVI | V",
        "Im V7 | Im | IVm Im | V7",
        "Im | IVm | bVII | bIII",
    ),
    lineups=(
        (_bass("arco", 42, 43), Part("comp", "alberti", (6,), 48, 67, 1.0)),
        (_bass("arco", 42), Part("comp", "chorale", (48,), 52, 74)),
        (
            _bass("arco", 45, 70),
            Part("comp", "alberti", (45, 46), 50, 70, 1.0),
            Part("colour", "chorale", (60,), 52, 69),
        ),
        (
            _bass("arco", 43),
            Part("comp", "alberti", (46,), 50, 72, 1.0),
            Part("colour", "chorale", (49, 48), 55, 76),
        ),
    ),
    leads=(40, 68, 73, 71, 41, 60),
    cells="classical",
    groove="",
    kits=(48,),
    level_db=-1.0,
    reverb=1.4,
    articulation=0.95,
)

ELECTRONIC = Style(
    name="electronic",
    tempo_bias=0.3,
    swing=0.5,
    metres=("4/4",),
    major=(
        "I | V | VIm | IV",
        "IV | I | V | VIm",
        "Iadd9 | Iadd9 | IVadd9 | IVadd9",
        "VIm | IV | I | V",
    ),
    minor=(
        "Im | bVI | bIII | bVII",
        "Im | Im | bVI | bVII",
        "Im7 | bVImaj7 | IVm7 | Vm7",
        "Im | bVII | IVm | bVI",
    ),
    lineups=(
        (
            _bass("offbeat", 38, 39),
            Part("comp", "pump", (81, 62), 52, 74, 1.0),
            Part("colour", "sequence", (80,), 60, 84, 2.0),
        ),
        (
            _bass("pulse", 38, 39),
            Part("comp", "sequence", (81, 80), 57, 81, 2.0),
            Part("colour", "pad", (90, 50), 52, 74),
        ),
        (
            _bass("pulse", 39),
            Part("comp", "pump", (90, 63), 52, 74, 1.0),
            Part("colour", "sequence", (87,), 55, 79, 2.0),
        ),
        (
            _bass("rolling", 38, 39),
            Part("comp", "gate", (81, 90), 52, 74, 1.0),
            Part("colour", "arp", (80, 81), 60, 86, 2.0),
        ),
        (
            _bass("rolling", 38, 39),
            Part("comp", "arp", (81, 87), 55, 81, 2.0),
            Part("colour", "house", (62, 63), 52, 74, 2.0),
        ),
        (
            _bass("offbeat", 38),
            Part("comp", "house", (90, 62), 52, 74, 1.0),
            Part("colour", "arp", (87, 80), 60, 86, 1.0),
        ),
    ),
    leads=(81, 80, 87, 62),
    cells="electronic",
    groove="electronic",
    kits=(25, 24),
    level_db=2.0,
    reverb=0.5,
    articulation=0.7,
    busy=0.15,
    drums_from=0.12,
    rolls=True,
    pump_db=(4.0, 11.0),
)

AMBIENT = Style(
    name="ambient",
    tempo_bias=-0.6,
    swing=0.5,
    metres=("4/4",),
    major=(
        "Imaj9 | Imaj9 | IVmaj9 | IVmaj9",
        "Iadd9 | VIm9 | IVmaj7 | IVmaj7",
        "Isus2 | bVIIadd9 | IVadd9 | Isus2",
        "Imaj7#11 | IIadd9 | Imaj7#11 | VIm9",
    ),
    minor=(
        "Im9 | Im9 | bVImaj7 | bVImaj7",
        "Im9 | IVm9 | Im9 | bVImaj9",
        "Imadd9 | bVIIadd9 | bVImaj7 | bVII",
        "Isus2 | Im9 | bIImaj7 | Im9",
    ),
    lineups=(
        (
            _bass("drone", 89, 95),
            Part("comp", "swell", (89, 95), 50, 76, 3.0),
            Part("colour", "sparkle", (98,), 67, 91, 3.0),
        ),
        (
            _bass("drone", 94, 89),
            Part("comp", "swell", (91, 54), 50, 74, 3.0),
            Part("colour", "sparkle", (14, 8), 62, 88, 3.0),
        ),
        (
            _bass("drone", 89),
            Part("comp", "swell", (92, 94), 52, 77, 3.0),
            Part("colour", "sparkle", (99, 10), 64, 88, 3.0),
        ),
        (
            _bass("drone", 95, 97),
            Part("comp", "swell", (97, 88), 50, 74, 3.0),
            Part("colour", "sparkle", (96, 98), 67, 91, 3.0),
        ),
    ),
    leads=(52, 85, 54, 78),
    cells="ambient",
    groove="",
    kits=(),
    level_db=-3.0,
    reverb=3.0,
    articulation=1.1,
)

FUNK = Style(
    name="funk",
    tempo_bias=0.05,
    swing=0.54,
    metres=("4/4",),
    major=(
        "I9 | I9 | IV9 | I9",
        "I7 | I7 | I7 | bVII7",
        "I9 IV9 | I9 | I9 IV9 | bIII7 IV7",
        "I13 | bVII13 | IV9 | I13",
    ),
    minor=(
        "Im7 | Im7 | IV9 | IV9",
        "Im9 | IV9 | Im9 | IV9",
        "Im7 | Im7 | Im7 bIII7 | IV7 V7#9",
        "Im7 bVII7 | Im7 | Im7 bVII7 | IV9",
    ),
    lineups=(
        (
            _bass("slap", 36),
            Part("comp", "clav", (7,), 50, 70),
            Part("colour", "stabs", (61,), 57, 77, 5.0),
        ),
        (
            _bass("slap", 36, 37),
            Part("comp", "chicka", (28, 27), 52, 70),
            Part("colour", "stabs", (61, 63), 57, 77, 5.0),
        ),
        (
            _bass("slap", 36),
            Part("comp", "chicka", (27,), 52, 70),
            Part("colour", "clav", (7, 5), 50, 70),
        ),
    ),
    leads=(17, 67, 61, 7),
    cells="funk",
    groove="funk",
    kits=(0, 8),
    level_db=1.0,
    reverb=0.4,
    articulation=0.55,
    rolls=True,
)

LATIN = Style(
    name="latin",
    tempo_bias=0.1,
    swing=0.5,
    metres=("4/4",),
    major=(
        "I6 | IV | V7 | IV",
        "Imaj7 | VI7 | IIm7 | V7",
        "I | IV | V7 | I",
        "Imaj7 | IIm7 | IIIm7 | IIm7 V7",
        "I6 | I6 | IIm7 | V7",
    ),
    minor=(
        "Im | IVm | V7 | Im",
        "Im7 | bVII | bVI | V7",
        "Im6 | IVm7 | V7b9 | Im6",
        "Im | Im | IVm | V7",
    ),
    lineups=(
        (_bass("tumbao", 35), Part("comp", "montuno", (1,), 60, 81)),
        (_bass("tumbao", 35), Part("comp", "bossa", (24,), 50, 70)),
        (
            _bass("tumbao", 35),
            Part("comp", "bossa", (24,), 50, 70),
            Part("colour", "montuno", (12, 1), 60, 84),
        ),
        (
            _bass("tumbao", 32),
            Part("comp", "montuno", (0, 1), 60, 81),
            Part("colour", "mambo", (61, 56), 57, 77, 3.0),
        ),
        (
            _bass("tumbao", 32, 35),
            Part("comp", "montuno", (1,), 60, 81),
            Part("colour", "guajeo", (40,), 62, 84, 1.0),
        ),
        (
            _bass("tumbao", 32),
            Part("comp", "guajeo", (24, 105), 52, 74, 2.0),
            Part("colour", "mambo", (56,), 60, 79, 3.0),
        ),
    ),
    leads=(56, 114, 12, 75, 73, 56),
    cells="latin",
    groove="latin",
    kits=(0, 8),
    level_db=0.0,
    reverb=0.7,
    articulation=0.75,
    busy=0.2,
    drums_from=0.05,
)

FOLK = Style(
    name="folk",
    tempo_bias=-0.05,
    swing=0.5,
    metres=("4/4", "3/4"),
    major=(
        "I | IV | I | V",
        "I | V | VIm | IV",
        "I | I | IV | V",
        "I | bVII | IV | I",
        "I IV | I V | I IV | V",
    ),
    minor=(
        "Im | bVII | Im | bVII",
        "Im | bVI | bVII | Im",
        "Im | bIII | bVII | Im",
        "Im | IV | bVII | Im",
    ),
    lineups=(
        (_bass("root_fifth", 32), Part("comp", "strum", (25,), 48, 67, 1.0)),
        (_bass("root_fifth", 32), Part("comp", "picking", (25, 15), 48, 69, 2.0)),
        (
            _bass("root_fifth", 32),
            Part("comp", "picking", (105,), 50, 72, 2.0),
            Part("colour", "strum", (25,), 48, 67, 1.0),
        ),
        (
            _bass("root_fifth", 32),
            Part("comp", "strum", (25,), 48, 67, 1.0),
            Part("colour", "chorale", (21,), 52, 70),
        ),
    ),
    leads=(110, 22, 21, 74, 78, 105),
    cells="folk",
    groove="folk",
    kits=(0,),
    level_db=-1.0,
    reverb=0.7,
    articulation=0.85,
)

STYLES: dict[str, Style] = {
    s.name: s for s in (JAZZ, ROCK, CLASSICAL, ELECTRONIC, AMBIENT, FUNK, LATIN, FOLK)
}

GENRES = tuple(STYLES)
