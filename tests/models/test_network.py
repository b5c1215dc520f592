"""Networks of our own: recorded arguments, the Hub's files, copies in low precision."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ditto.models.network import CONFIG, WEIGHTS, Network, hash_weights, in_precision


class Small(Network):
    low_precision = ("inner",)

    def __init__(self, width: int = 3, names: tuple[str, ...] = ("a",)) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, 1)


def test_arguments_are_recorded_defaults_included() -> None:
    network = Small(4)
    assert network.config == {"width": 4, "names": ("a",)}
    assert copy.deepcopy(network).config == network.config
    assert Small.from_config({**network.config, "_diffusers_version": "0.1"}).config["width"] == 4
    with pytest.raises(TypeError):
        Small.from_config({"depth": 1})


def test_what_is_saved_comes_back_frozen(tmp_path: Path) -> None:
    network = Small(4, ("b", "c"))
    network.save_pretrained(tmp_path / "new")
    assert {file.name for file in (tmp_path / "new").iterdir()} == {CONFIG, WEIGHTS}
    assert json.loads((tmp_path / "new" / CONFIG).read_text())["_class_name"] == "Small"
    before = torch.get_rng_state()
    again = Small.from_pretrained(tmp_path / "new")
    assert torch.equal(torch.get_rng_state(), before)
    assert again.config == {"width": 4, "names": ["b", "c"]}
    assert hash_weights(again) == hash_weights(network)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_files_are_those_of_diffusers(tmp_path: Path) -> None:
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.models.modeling_utils import ModelMixin

    class Theirs(ModelMixin, ConfigMixin):
        config_name = CONFIG

        @register_to_config
        def __init__(self, width: int = 3) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, 1)

    theirs, ours = Theirs(), Small()
    ours.load_state_dict(theirs.state_dict())
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    files = [(tmp_path / name / WEIGHTS).read_bytes() for name in ("ours", "theirs")]
    assert files[0] == files[1]


def test_in_low_precision_only_the_named_submodules_are_cast() -> None:
    network = Small()
    low = in_precision(network, torch.bfloat16)
    assert (low.inner.weight.dtype, low.outer.weight.dtype) == (torch.bfloat16, torch.float32)
    assert network.inner.weight.dtype == torch.float32
    assert in_precision(network, torch.float32) is network
    other = nn.Linear(1, 1)
    assert in_precision(other, torch.bfloat16) is other


class Draws(TorchDispatchMode):
    """Counts the drawing of random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in ("uniform_", "normal_")
        return func(*args, **(kwargs or {}))


def test_loading_draws_no_weights_that_a_file_replaces(tmp_path: Path) -> None:
    with Draws() as made:
        network = Small(4)
    network.save_pretrained(tmp_path / "new")
    with Draws() as loaded:
        again = Small.from_pretrained(tmp_path / "new")
    assert (made.count, loaded.count) == (4, 0)
    assert all(map(torch.equal, again.state_dict().values(), network.state_dict().values()))
