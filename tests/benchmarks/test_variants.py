"""Variants run on the models that they need, or say what is missing."""

from dataclasses import replace

import pytest
import torch
from benchmarks.variants import (
    CM,
    CONTROLNET,
    CTM,
    DITTO,
    PUBLISHED_CTM,
    TTM,
    Models,
    Weights,
    checked_device,
    weights_digest,
)

from ditto.errors import ModelError
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import Ditto2


def test_a_variant_is_a_method_and_what_it_runs_on():
    assert PUBLISHED_CTM.method == Ditto2(surrogate_steps=1, decode_steps=2, corrections=0)
    assert CTM.method == Ditto2()
    longer = DITTO.with_(name="50", steps=50, clips=3)
    assert (longer.name, longer.clips) == ("50", 3)
    assert longer.method == Ditto(steps=50, checkpointing=False)
    with pytest.raises(TypeError):
        DITTO.with_(no_such_setting=1)


def test_models_are_found_or_named(model, whole):
    models = Models(whole)
    assert models.of(CTM) is whole
    assert models.of(CONTROLNET) is whole
    for variant, words in (
        (CM, "no weights: there is no CM student, distil one with `ditto-music distill cm`"),
        (TTM.with_(base="long"), "give its folder with --long"),
        (CTM.with_(base="unconditional"), "give its folder with --unconditional"),
    ):
        with pytest.raises(ModelError, match=words):
            models.of(variant)
    for variant in (CTM, CONTROLNET):
        with pytest.raises(ModelError, match="no weights"):
            Models(model).of(variant)


def test_weights_that_are_named_must_be_there(model, tmp_path):
    model.save(tmp_path / "model")
    folder = str(tmp_path / "model")
    for weights in (
        Weights(folder, text_clap="no-such-folder"),
        Weights(folder, long="no-such-folder"),
        Weights(folder, controlnet=tmp_path),
        Weights("no-such-folder"),
        Weights(folder, cm=tmp_path),
        Weights(folder, device="no-such-device"),
    ):
        with pytest.raises(ModelError):
            weights.load()
    models = Weights(folder).load()
    assert models.others == {}
    assert models.load_seconds > 0
    assert checked_device("auto").type in ("cpu", "cuda")


def test_the_digest_follows_weights_and_precision(model):
    digest = weights_digest(model)
    assert weights_digest(replace(model)) == digest
    assert weights_digest(replace(model, precision=torch.bfloat16)) != digest
    assert weights_digest(replace(model, sha256="ab")) == "ab float32"
    with torch.no_grad():
        model.network.head.bias[0] += 1
    changed = weights_digest(replace(model))
    with torch.no_grad():
        model.network.head.bias[0] -= 1
    assert changed != digest
