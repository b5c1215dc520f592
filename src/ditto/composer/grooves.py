"""Drum patterns as text, one character a sixteenth: ``X`` accent, ``x`` hit, ``o`` ghost note,
``.`` rest.

A groove has patterns at three densities; letters of the kit map to General MIDI percussion keys.
"""

KIT: dict[str, int] = {
    "kick": 36,
    "snare": 38,
    "rim": 37,
    "clap": 39,
    "hat": 42,
    "pedal": 44,
    "open": 46,
    "ride": 51,
    "bell": 53,
    "crash": 49,
    "low_tom": 43,
    "mid_tom": 47,
    "high_tom": 50,
    "tambourine": 54,
    "cowbell": 56,
    "bongo_high": 60,
    "bongo_low": 61,
    "conga_mute": 62,
    "conga": 63,
    "conga_low": 64,
    "timbale": 65,
    "cabasa": 69,
    "maracas": 70,
    "guiro": 73,
    "clave": 75,
    "triangle": 81,
    "shaker": 82,
}

Pattern = dict[str, str]

GROOVES: dict[str, dict[str, tuple[Pattern, ...]]] = {
    "jazz": {
        "light": (
            {"ride": "x...x...x...x...", "pedal": "....x.......x..."},
            {"snare": "o.o.o.o.o.o.o.o.", "pedal": "....x.......x..."},
        ),
        "main": (
            {
                "ride": "x...x.x.x...x.x.",
                "pedal": "....x.......x...",
                "snare": "......o.......o.",
                "kick": "o...o...o...o...",
            },
            {
                "ride": "x...X.x.x...X.x.",
                "pedal": "....x.......x...",
                "snare": "..o.......o.o...",
                "kick": "x.........x.....",
            },
        ),
        "busy": (
            {
                "ride": "X...X.x.X...X.x.",
                "pedal": "....X.......X...",
                "snare": "..o.x.o...x.o.x.",
                "kick": "x.....x...x...x.",
            },
            {
                "ride": "X.x.X.x.X.x.X.x.",
                "pedal": "....X.......X...",
                "snare": "....o.X.o...o.X.",
                "kick": "x...o.....x.o...",
            },
        ),
    },
    "rock": {
        "light": (
            {"hat": "x...x...x...x...", "kick": "x.......x.......", "rim": "....x.......x..."},
            {"hat": "x.x.x.x.x.x.x.x.", "kick": "x.......x.......", "snare": "............x..."},
        ),
        "main": (
            {"hat": "X.x.X.x.X.x.X.x.", "kick": "x.......x.x.....", "snare": "....X.......X..."},
            {"hat": "X.x.X.x.X.x.X.x.", "kick": "x.....x.x.......", "snare": "....X.......X..o"},
            {"ride": "X.x.X.x.X.x.X.x.", "kick": "x..x....x..x....", "snare": "....X.......X..."},
        ),
        "busy": (
            {
                "crash": "X.......X.......",
                "open": "X.x.X.x.X.x.X.x.",
                "kick": "X.x...x.X.x...x.",
                "snare": "....X.......X...",
            },
            {"open": "X...X...X...X...", "kick": "x.xx..x.x.xx..x.", "snare": "....X..o....X.xx"},
            {"hat": "XxxxXxxxXxxxXxxx", "kick": "X..xX.x.X..xX.x.", "snare": "....X.......X..."},
        ),
    },
    "electronic": {
        "light": (
            {"kick": "X...X...X...X...", "hat": "..o...o...o...o."},
            {"kick": "X.......X.......", "clap": "............x...", "hat": "..x...x...x...x."},
        ),
        "main": (
            {"kick": "X...X...X...X...", "open": "..x...x...x...x.", "clap": "....X.......X..."},
            {"kick": "X...X...X...X...", "hat": "x.X.x.X.x.X.x.X.", "clap": "....X.......X..x"},
            {"kick": "X.....X...X.....", "hat": "x.x.x.x.x.x.xxxx", "snare": "....X.......X..."},
            {
                "kick": "X...X...X...X...",
                "hat": "xoooxoooxoooxooo",
                "open": "..X...X...X...X.",
                "clap": "....X.......X...",
            },
            {
                "kick": "X...X...X...X...",
                "open": "..X...X...X...X.",
                "shaker": "xoxoxoxoxoxoxoxo",
                "snare": "....X.......X..o",
            },
        ),
        "busy": (
            {
                "kick": "X...X...X...X...",
                "hat": "xoXoxoXoxoXoxoXo",
                "open": "..X...X...X...X.",
                "clap": "....X.......X...",
            },
            {
                "kick": "X..X..X.X..X..X.",
                "hat": "xxXxxxXxxxXxxxXx",
                "snare": "....X.......X.xx",
                "open": "..X...X...X...X.",
            },
            {
                "kick": "X...X...X...X...",
                "open": "..X...X...X...X.",
                "ride": "X.x.X.x.X.x.X.x.",
                "clap": "....X..x....X..x",
                "hat": "xoxoxoxoxoxoxoxo",
            },
        ),
    },
    "funk": {
        "light": (
            {"hat": "x.x.x.x.x.x.x.x.", "kick": "x.........x.....", "rim": "....x.......x..."},
            {"hat": "x.o.x.o.x.o.x.o.", "kick": "x..x............", "snare": "............x..."},
        ),
        "main": (
            {"hat": "X.x.X.x.X.x.X.x.", "kick": "X..x...o..x..x..", "snare": "....X..o.o..X..o"},
            {"hat": "XoxoXoxoXoxoXoxo", "kick": "X.x....x..x.....", "snare": "....X..o.o.oX..."},
            {
                "hat": "x.x.x.x.x.x.x...",
                "open": "..............x.",
                "kick": "X..x..x...xx....",
                "snare": "....X..o.o..X.o.",
            },
        ),
        "busy": (
            {
                "hat": "XoxoXoxoXoxoXoxo",
                "kick": "X.xx..x..xx..x..",
                "snare": "....Xo.o.o.oX.oo",
                "tambourine": "....X.......X...",
            },
            {
                "hat": "XxxxXxxxXxxxX...",
                "open": "..............X.",
                "kick": "X..x..xx..x..x..",
                "snare": "o.o.X..o.oo.X..X",
            },
        ),
    },
    "latin": {
        "light": (
            {"clave": "x..x...x..x.....", "shaker": "x.o.x.o.x.o.x.o."},
            {"rim": "x..x..x...x..x..", "shaker": "xoxoxoxoxoxoxoxo", "kick": "x.....x.x.....x."},
        ),
        "main": (
            {
                "conga_mute": "x.....x.........",
                "conga": "....x.......x...",
                "conga_low": "......xx......xx",
                "clave": "x..x..x...x.x...",
                "maracas": "x.x.x.x.x.x.x.x.",
            },
            {
                "rim": "x..x..x...x..x..",
                "cabasa": "xoxoxoxoxoxoxoxo",
                "kick": "x.....x.x.....x.",
                "bongo_high": "..x...x...x...x.",
            },
            {
                "cowbell": "x...x.x.x...x.x.",
                "conga": "....x.......x...",
                "conga_low": "......xx......xx",
                "guiro": "x.......x.......",
            },
            {
                "timbale": "x.x.xx.xx.xx.x.x",
                "clave": "X..X..X...X.X...",
                "conga_mute": "x.x...x.x.x...x.",
                "conga": "....X.......X...",
                "conga_low": "......xx......xx",
            },
            {
                "guiro": "X..xx..xX..xx..x",
                "cowbell": "x...x...x...x...",
                "conga": "....X.......X...",
                "conga_low": "......xx......xx",
                "bongo_high": "x.xxx.xxx.xxx.xx",
            },
        ),
        "busy": (
            {
                "cowbell": "X.x.X.x.X.x.X.x.",
                "conga_mute": "x.x...x.x.x...x.",
                "conga": "....X.......X...",
                "conga_low": "......XX......XX",
                "timbale": "....x.......x.xx",
                "clave": "X..X..X...X.X...",
            },
            {
                "bongo_high": "X.xxX.xxX.xxX.xx",
                "bongo_low": ".......x......x.",
                "cowbell": "X...X.X.X...X.X.",
                "conga": "..x.X.x...x.X.xx",
                "kick": "X.....X.X.....X.",
                "maracas": "xxxxxxxxxxxxxxxx",
            },
            {
                "timbale": "X.x.Xx.xX.xx.x.x",
                "cowbell": "X.x.X.xxX.x.X.x.",
                "clave": "X..X..X...X.X...",
                "conga_mute": "x.x...x.x.x...x.",
                "conga": "....X..x....X..x",
                "conga_low": "......XX......XX",
                "kick": "......X.......X.",
            },
        ),
    },
    "folk": {
        "light": ({"tambourine": "....o.......o..."}, {"shaker": "x.o.x.o.x.o.x.o."}),
        "main": (
            {"low_tom": "x.......x.......", "tambourine": "....x.......x..."},
            {"kick": "x.......x.......", "clap": "....x.......x...", "shaker": "x.o.x.o.x.o.x.o."},
        ),
        "busy": (
            {
                "low_tom": "X..xx..xX..xx..x",
                "clap": "....X.......X...",
                "tambourine": "x.x.X.x.x.x.X.x.",
            },
            {
                "kick": "X...X...X...X...",
                "clap": "....X.......X...",
                "tambourine": "xoxoXoxoxoxoXoxo",
            },
        ),
    },
    "folk3": {
        "light": ({"tambourine": "....o...o..."}, {"shaker": "x.o.x.o.x.o."}),
        "main": (
            {"low_tom": "x...........", "tambourine": "....x...x..."},
            {"kick": "x...........", "clap": "....x...x..."},
        ),
        "busy": (
            {"low_tom": "X...x..xx...", "tambourine": "x.x.X.x.X.x."},
            {"kick": "X...........", "clap": "....X...X...", "tambourine": "xoxoxoxoxoxo"},
        ),
    },
}

FILLS: dict[str, tuple[Pattern, ...]] = {
    "jazz": (
        {"snare": "o.x.o.x.x.X.x.X.", "ride": "x..............."},
        {
            "high_tom": "....x.x.........",
            "low_tom": "........x.x.X...",
            "pedal": "....x.......x...",
        },
    ),
    "rock": (
        {"kick": "x...x...x...x...", "snare": "....X...xxxx....", "low_tom": "............XXXX"},
        {
            "snare": "X.xxX.xx........",
            "high_tom": "........XXX.....",
            "low_tom": "...........XXXXX",
            "kick": "x.......x.......",
        },
    ),
    "electronic": (
        {"snare": "x...x...x.x.xxxx"},
        {"clap": "X..X..X.X.X.XXXX", "kick": "X..............."},
        {"snare": "x.x.x.x.xxxxXXXX", "kick": "X...X..."},
    ),
    "funk": (
        {"snare": "X..XX..XX.X.XXXX", "kick": "X..............."},
        {
            "snare": "....X..o........",
            "high_tom": "........x.xx....",
            "low_tom": "............XX.X",
            "kick": "X..x....",
        },
    ),
    "latin": (
        {"timbale": "X..X..X.XXXXX.X."},
        {"bongo_high": "xxxxXxxx........", "bongo_low": "........xxX.X.X."},
    ),
    "folk": ({"clap": "X...X...X.X.X..."}, {"low_tom": "X...X..XX.X.XXXX"}),
    "folk3": ({"clap": "X...X.X.X..."}, {"low_tom": "X..XX.X.XXXX"}),
}
