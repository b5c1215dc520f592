"""Vocabulary of captions: several ways to say each label."""

GENRES: dict[str, tuple[str, ...]] = {
    "jazz": ("jazz", "jazz", "jazzy", "swing jazz", "swinging jazz"),
    "rock": ("rock", "rock", "guitar rock", "hard rock"),
    "classical": ("classical", "classical", "chamber", "classical chamber"),
    "electronic": ("electronic", "electronic", "techno", "electronic dance", "synth"),
    "ambient": ("ambient", "ambient", "atmospheric", "ambient soundscape"),
    "funk": ("funk", "funk", "funky", "groovy funk"),
    "latin": ("latin", "latin", "latin american", "salsa"),
    "folk": ("folk", "folk", "country folk", "acoustic folk"),
}

MOODS: dict[str, tuple[str, ...]] = {
    "happy": ("happy", "happy", "cheerful", "joyful", "bright", "uplifting", "sunny", "playful"),
    "sad": (
        "sad",
        "sad",
        "melancholic",
        "sorrowful",
        "mournful",
        "melancholy",
        "wistful",
        "somber",
    ),
    "calm": ("calm", "calm", "peaceful", "relaxed", "gentle", "tranquil", "soft", "mellow"),
    "energetic": (
        "energetic",
        "energetic",
        "lively",
        "driving",
        "powerful",
        "exciting",
        "intense",
        "upbeat",
    ),
    "dark": ("dark", "dark", "gloomy", "ominous", "brooding", "menacing", "sinister", "heavy"),
    "dreamy": ("dreamy", "dreamy", "ethereal", "floating", "hazy", "airy", "spacey"),
}

PIECES = ("song", "song", "piece", "tune", "track", "music", "instrumental")
BANDS = {3: "trio", 4: "quartet", 5: "quintet", 6: "sextet"}

TEMPI: tuple[tuple[float, tuple[str, ...]], ...] = (
    (80.0, ("slow", "very slow", "slow tempo")),
    (105.0, ("moderate", "relaxed tempo", "moderate tempo", "mid tempo")),
    (135.0, ("medium fast", "brisk", "upbeat tempo")),
    (1e9, ("fast", "quick", "fast tempo", "very fast")),
)
"""Upper bound in beats per minute, and words."""

BPM = ("at {bpm} beats per minute", "at {bpm} bpm", "around {bpm} bpm", "{bpm} bpm")

ENERGY: tuple[tuple[float, tuple[str, ...]], ...] = (
    (
        0.4,
        ("sparse arrangement", "thin arrangement", "sparse", "minimal", "few instruments playing"),
    ),
    (0.75, ("moderate arrangement", "medium density")),
    (9.0, ("full arrangement", "dense arrangement", "dense", "busy", "rich and full")),
)
"""Upper bound of the sections' mean energy, and words."""

MELODY: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.2, ("no melody", "without a melody", "only accompaniment")),
    (1.4, ("a slow melody", "long notes", "a melody of few notes")),
    (3.0, ("a flowing melody", "a singing melody", "a melody")),
    (99.0, ("a busy melody", "many notes", "a fast melody", "fast notes")),
)
"""Upper bound of melody notes a second, and words."""

DYNAMICS: dict[str, tuple[str, ...]] = {
    "steady": ("steady volume", "even dynamics", "constant loudness"),
    "growing": ("crescendo", "growing louder", "building up", "getting louder"),
    "fading": ("decrescendo", "fading", "getting quieter", "growing softer", "diminuendo"),
    "swelling": ("swelling and falling", "a swell", "rising and falling"),
    "dipping": ("dipping in the middle", "quiet in the middle"),
    "moving": ("changing loudness", "moving dynamics"),
}

LEVELS: dict[str, tuple[str, ...]] = {
    "quiet": ("very quiet", "faint"),
    "loud": ("loud", "at full volume"),
}

MODES = {"major": ("in a major key", "major"), "minor": ("in a minor key", "minor")}
METRES = {"3/4": ("in three four", "a waltz", "waltz time", "in triple time")}

DRUMS: dict[int, tuple[str, ...]] = {
    0: ("drums", "drum kit", "acoustic drums"),
    8: ("drums", "room drums"),
    16: ("drums", "rock drums", "powerful drums"),
    24: ("drum machine", "electronic drums"),
    25: ("drum machine", "electronic beats"),
    32: ("drums", "jazz drums"),
    40: ("brushes", "brushed drums"),
    48: ("timpani", "orchestral percussion"),
}

FAMILIES = (
    "piano",
    "mallets",
    "organ",
    "guitar",
    "bass",
    "strings",
    "strings",
    "brass",
    "woodwind",
    "flute",
    "synth lead",
    "synth pad",
    "synth effects",
    "plucked strings",
    "percussion",
    "effects",
)
"""Names of General MIDI's families of eight programs, for programs missing in `INSTRUMENTS`."""

INSTRUMENTS: dict[int, tuple[str, ...]] = {
    0: ("piano", "grand piano"),
    1: ("bright piano", "piano"),
    4: ("electric piano", "rhodes"),
    5: ("electric piano",),
    6: ("harpsichord",),
    7: ("clavinet", "clav"),
    8: ("celesta", "bells"),
    10: ("music box", "bells"),
    11: ("vibraphone", "vibes"),
    12: ("marimba",),
    14: ("tubular bells", "bells"),
    15: ("dulcimer",),
    17: ("organ", "percussive organ"),
    18: ("rock organ", "organ"),
    21: ("accordion",),
    22: ("harmonica",),
    24: ("nylon guitar", "classical guitar", "acoustic guitar"),
    25: ("acoustic guitar", "steel guitar", "steel string guitar"),
    26: ("jazz guitar", "electric guitar"),
    27: ("clean guitar", "electric guitar"),
    28: ("muted guitar", "electric guitar"),
    29: ("overdriven guitar", "electric guitar"),
    30: ("distorted guitar", "electric guitar"),
    32: ("double bass", "upright bass", "acoustic bass", "bass"),
    34: ("picked bass", "electric bass", "bass", "bass guitar"),
    35: ("fretless bass", "electric bass", "bass"),
    36: ("slap bass", "bass"),
    37: ("slap bass", "bass"),
    38: ("synth bass", "bass synth"),
    39: ("synth bass", "bass synth"),
    40: ("violin",),
    41: ("viola",),
    42: ("cello",),
    43: ("double bass", "low strings"),
    44: ("tremolo strings", "strings"),
    45: ("pizzicato strings", "plucked strings"),
    46: ("harp",),
    48: ("strings", "string ensemble", "string orchestra"),
    49: ("slow strings", "strings", "string ensemble"),
    50: ("synth strings", "strings"),
    52: ("choir", "voices"),
    53: ("voices", "humming voices"),
    54: ("synth voice", "synth choir"),
    56: ("trumpet",),
    57: ("trombone",),
    59: ("muted trumpet",),
    60: ("french horn", "horn"),
    61: ("brass section", "brass", "horn section"),
    62: ("synth brass",),
    63: ("synth brass",),
    64: ("soprano saxophone", "soprano sax", "saxophone"),
    65: ("alto saxophone", "alto sax", "saxophone"),
    66: ("tenor saxophone", "tenor sax", "saxophone"),
    67: ("baritone saxophone", "baritone sax", "saxophone"),
    68: ("oboe",),
    70: ("bassoon",),
    71: ("clarinet",),
    73: ("flute",),
    74: ("recorder",),
    75: ("pan flute", "panpipes"),
    78: ("whistle", "tin whistle"),
    80: ("square synth", "synth lead", "synthesizer"),
    81: ("saw synth", "synth lead", "synthesizer"),
    84: ("synth guitar", "synth lead"),
    85: ("voice synth", "synth lead"),
    87: ("synth lead", "fat synth lead"),
    88: ("synth pad", "pad", "new age pad"),
    89: ("warm pad", "synth pad", "pad"),
    90: ("polysynth", "synth chords"),
    91: ("choir pad", "synth pad"),
    92: ("bowed pad", "synth pad"),
    94: ("halo pad", "synth pad"),
    95: ("sweep pad", "synth pad"),
    96: ("rain synth", "synth texture"),
    97: ("soundtrack pad", "synth pad"),
    98: ("crystal bells", "glassy synth", "bells"),
    99: ("atmosphere", "synth texture"),
    102: ("echoes", "echoing synth"),
    105: ("banjo",),
    110: ("fiddle", "violin"),
    114: ("steel drums", "steel pan"),
}
"""By General MIDI program, counted from 0."""
