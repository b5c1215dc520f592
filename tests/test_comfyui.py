"""The nodes for ComfyUI by its contract, without ComfyUI: loading, fields, what comes out.

`execute` does what ComfyUI's executor does for a node: it checks each value against its field,
and calls the function with all of them by name, in inference mode.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import ditto
from ditto.controls import CONTROLS
from ditto.errors import DittoError
from ditto.methods import METHODS

PACK = Path(__file__).parents[1] / "integrations" / "comfyui"
TYPES = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
OPTIONS = {"default", "min", "max", "step", "tooltip", "multiline", "control_after_generate"}


@pytest.fixture(scope="module")
def pack() -> ModuleType:
    """The package, under such a name as ComfyUI gives it: its path."""
    name = str(PACK).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def fields_of(node: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    groups = node.INPUT_TYPES()
    return {**groups["required"], **groups.get("optional", {})}


def execute(pack: ModuleType, name: str, **values: Any) -> tuple[Any, ...]:
    """Run a node with its defaults but for some values."""
    node = pack.NODE_CLASS_MAPPINGS[name]
    groups = node.INPUT_TYPES()
    given = {
        key: options["default"]
        for key, (_, options) in groups["required"].items()
        if "default" in options
    }
    given |= values
    assert given.keys() >= groups["required"].keys()
    assert given.keys() <= fields_of(node).keys()
    for key, value in given.items():
        kind, options = fields_of(node)[key]
        if isinstance(kind, list):
            assert value in kind
        elif kind in TYPES:
            assert type(value) is TYPES[kind], key
            assert options.get("min", value) <= value <= options.get("max", value), key
    with torch.inference_mode():
        made = getattr(node(), node.FUNCTION)(**given)
    assert isinstance(made, tuple)
    assert len(made) == len(node.RETURN_TYPES)
    for kind, value in zip(node.RETURN_TYPES, made, strict=True):
        if kind == "AUDIO":
            assert value.keys() == {"waveform", "sample_rate"}
            assert value["waveform"].dtype == torch.float32
            assert value["waveform"].ndim == 3
            assert value["waveform"].device.type == "cpu"
            assert isinstance(value["sample_rate"], int)
    return made


@pytest.fixture(scope="module")
def model(pack: ModuleType, model_folder: Path) -> Any:
    given = {"source": str(model_folder), "device": "cpu", "precision": "float32"}
    (loaded,) = execute(pack, "DittoLoadModel", **given)
    return loaded


def test_the_nodes_are_what_comfyui_wants(pack: ModuleType) -> None:
    assert pack.NODE_CLASS_MAPPINGS.keys() == pack.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for name, node in pack.NODE_CLASS_MAPPINGS.items():
        assert name.startswith("Ditto"), "names are everybody's"
        assert callable(getattr(node, node.FUNCTION))
        assert isinstance(node.CATEGORY, str)
        assert node.__doc__ == node.DESCRIPTION
        assert isinstance(node.RETURN_TYPES, tuple)
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
        for field, (kind, options) in fields_of(node).items():
            assert field.isidentifier()
            assert options.keys() <= OPTIONS
            assert isinstance(kind, str | list)
            if isinstance(kind, list):
                assert options["default"] in kind
            elif kind in TYPES:
                assert type(options["default"]) is TYPES[kind]
            else:
                assert "default" not in options
        json.dumps(node.INPUT_TYPES())  # the browser gets it so
    assert len((PACK / "__init__.py").read_text().splitlines()) < 300


def test_every_control_and_method_has_a_field(pack: ModuleType) -> None:
    fields = fields_of(pack.NODE_CLASS_MAPPINGS["DittoGenerate"])
    assert {"loudness", *CONTROLS} - {"intensity"} <= fields.keys()
    assert fields["method"][0] == ["auto", *METHODS]


def test_what_is_generated_is_dittos_own_clip(pack: ModuleType, model: Any) -> None:
    asked = {"tags": "genre=jazz tempo=120", "loudness": "swell", "seed": 5, "iterations": 2}
    audio, report = execute(pack, "DittoGenerate", model=model, count=2, method="ditto", **asked)
    method, control = ditto.Ditto(), ditto.Intensity("swell")
    settings = {"tags": asked["tags"], "seed": 5, "iterations": 2, "count": 2, "method": method}
    clip = ditto.generate(model, control, **settings)
    expected = np.stack([clip.samples(i) for i in range(2)])[:, None]
    assert np.array_equal(audio["waveform"].numpy(), expected)
    assert audio["sample_rate"] == model.spec.sample_rate
    assert [one["request"]["seed"] for one in json.loads(report)] == [5, 6]


@pytest.fixture(scope="module")
def audio() -> dict[str, Any]:
    """Two stereo sounds, made in inference mode as ComfyUI's loaders make them."""
    with torch.inference_mode():
        draws = torch.Generator().manual_seed(0)
        return {"waveform": 0.1 * torch.randn(2, 2, 9600, generator=draws), "sample_rate": 8000}


QUICK = {"method": "ditto", "iterations": 1, "tags": "genre=jazz"}


def test_edits_keep_the_rest_and_every_item(
    pack: ModuleType, model: Any, audio: dict[str, Any]
) -> None:
    before = audio["waveform"].clone()
    region = {"begin": 0.4, "end": 0.6, "overlap": 0.1}
    made, report = execute(pack, "DittoInpaint", model=model, audio=audio, **region, **QUICK)
    after, fade = made["waveform"], 800 + 1
    assert after.shape == (2, 2, 9600)
    assert torch.equal(audio["waveform"], before), "the input is another node's too"
    assert torch.equal(after[..., : 3200 - fade], before[..., : 3200 - fade])
    assert torch.equal(after[..., 4800 + fade :], before[..., 4800 + fade :])
    assert not torch.equal(after[..., 3200:4800], before[..., 3200:4800])
    assert [one["edit"] for one in json.loads(report)] == ["inpaint"] * 2
    made, _ = execute(
        pack, "DittoOutpaint", model=model, audio=audio, seconds=1.4, overlap=0.1, **QUICK
    )
    assert made["waveform"].shape == (2, 2, 11_200)
    assert torch.equal(made["waveform"][..., : 9600 - fade], before[..., : 9600 - fade])


def test_loops_are_exact_to_the_sample(pack: ModuleType, model: Any, audio: dict[str, Any]) -> None:
    beat = {"bpm": 200.0, "bars": 1, "repeats": 2, "overlap": 0.2}
    made, report = execute(pack, "DittoLoop", model=model, **beat, **QUICK)
    length = round(1.2 * 8000)
    assert made["waveform"].shape == (1, 1, 2 * length)
    assert torch.equal(made["waveform"][..., :length], made["waveform"][..., length:])
    assert json.loads(report)["request"]["tags"]["tempo"] == 100, "the model knows 60 to 180"
    one = {"waveform": audio["waveform"][:1], "sample_rate": 8000}
    slower = beat | {"bpm": 160.0}
    made, _ = execute(pack, "DittoLoop", model=model, audio=one, **slower, **QUICK)
    assert made["waveform"].shape == (1, 2, 2 * round(1.5 * 8000))


def test_a_loops_notes_and_chords_are_in_its_own_beats(pack: ModuleType, model: Any) -> None:
    asked = {"bpm": 200.0, "bars": 1, "overlap": 0.2, "melody": "C4:1 E4:2", "chords": "Am:2 F:2"}
    _, report = execute(pack, "DittoLoop", model=model, **asked, **QUICK)
    told = json.loads(report)["request"]
    controls = {control["control"]: control for control in told["controls"]}
    notes = controls["melody"]["notes"]
    assert [note[:2] for note in notes] == [pytest.approx(two) for two in ([0, 0.3], [0.3, 0.6])]
    # As of the command: by the tempo that the model is told.
    assert told["tags"]["tempo"] == 100
    assert [seconds for _, seconds in controls["chords"]["chords"]] == pytest.approx([1.2, 1.2])


def test_a_tune_is_heard_as_long_as_what_is_edited(
    pack: ModuleType, model: Any, tmp_path: Path
) -> None:
    times = np.arange(3 * 16_000) / 16_000
    pitches = np.where(times < 1.5, 523.25, 659.26)  # C5, then E5, beyond the model's window
    soundfile.write(tmp_path / "tune.wav", 0.3 * np.sin(2 * np.pi * pitches * times), 16_000)
    values = dict.fromkeys(pack.NAMES, "") | {"melody": str(tmp_path / "tune.wav")}
    values |= {"tags": "", "method": "auto", "seed": 0, "guidance": -1.0, "iterations": 0}
    (control,) = pack.Inpaint().request(model, values).controls
    assert {note.pitch % 12 for note in control.bare().tune.notes} == {0, 4}


def test_the_last_seed_is_followed_by_the_first(
    pack: ModuleType, model: Any, audio: dict[str, Any]
) -> None:
    region = {"begin": 0.4, "end": 0.6, "overlap": 0.1, "seed": 2**31 - 1}
    _, report = execute(pack, "DittoInpaint", model=model, audio=audio, **region, **QUICK)
    assert [one["request"]["seed"] for one in json.loads(report)] == [2**31 - 1, 0]


def test_the_ends_of_fields_are_taken(pack: ModuleType, model: Any) -> None:
    for name in ("guidance", "seed", "iterations"):
        _, options = pack.MUSIC[name]
        values = dict.fromkeys((*pack.NAMES, "tags"), "")
        values |= {"method": "auto", "seed": 0, "guidance": -1.0, "iterations": 0}
        for end in ("min", "max"):
            pack.Generate().request(model, values | {name: options[end]})


def test_the_bar_moves_and_cancelling_ends_it(
    pack: ModuleType, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CancelledError(Exception):
        pass

    seen: list[tuple[int, int]] = []

    class Bar:
        def __init__(self, total: int) -> None:
            self.total = total

        def update_absolute(self, value: int, total: int) -> None:
            seen.append((value, total))
            assert total == self.total

    def check() -> None:
        if len(seen) >= 2:
            raise CancelledError

    comfy, management, utils = (
        ModuleType(name) for name in ("comfy", "comfy.model_management", "comfy.utils")
    )
    management.throw_exception_if_processing_interrupted = check  # pyright: ignore
    utils.ProgressBar = Bar  # pyright: ignore
    for module in (comfy, management, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    asked = {"loudness": "swell", "method": "ditto"}
    execute(pack, "DittoGenerate", model=model, iterations=2, **asked)
    assert seen == [(1, 2), (2, 2)]
    with pytest.raises(CancelledError):
        execute(pack, "DittoGenerate", model=model, iterations=2, **asked)


def test_what_is_wrong_is_one_line(pack: ModuleType, model: Any) -> None:
    for name, values, words in (
        ("DittoLoadModel", {"source": "no/folder here", "device": "cpu"}, "no model folder"),
        ("DittoLoadModel", {"device": "cuda:9"}, "no cuda"),
        ("DittoGenerate", {"model": model, "loudness": "sideways"}, "sideways"),
        ("DittoGenerate", {"model": model, "tags": "genre=polka"}, "polka"),
    ):
        with pytest.raises(DittoError, match=words) as wrong:
            execute(pack, name, **values)
        assert "\n" not in str(wrong.value)
