"""The benchmark of graphics cards, on the CPU with tiny settings."""

import json
import time
from functools import partial

import pytest
import torch

from benchmarks import gpu
from ditto.models.model import MusicModel

CPU = torch.device("cpu")
FLOW = {
    "transformer": {
        "io_channels": 4,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "cond_token_dim": 16,
        "global_cond_dim": 16,
        "local_add_cond_dim": 5,
        "timestep_features_dim": 8,
        "ff_mult": 2.0,
        "num_memory_tokens": 2,
        "use_differential_attention": False,
    }
}
ACE = {
    "dit": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 4,
        "num_hidden_layers": 2,
        "in_channels": 12,
        "audio_acoustic_hidden_dim": 4,
        "patch_size": 2,
    },
    "vae": {
        "encoder_hidden_size": 8,
        "downsampling_ratios": [4, 8, 8],
        "channel_multiples": [1, 2, 4],
        "decoder_channels": 4,
        "decoder_input_channels": 4,
        "audio_channels": 2,
        "sampling_rate": 8000,
    },
}


def flow(device: torch.device) -> MusicModel:
    from tests.models.adapters.tiny_flows import same

    vae = {k: v for k, v in dict(same().config).items() if not k.startswith("_")}
    return gpu.flow_of_medium_size(device, **FLOW, vae=vae)


@pytest.fixture
def settings(student_model: MusicModel) -> gpu.Settings:
    subjects = (
        gpu.Subject("ours", lambda device: student_model),
        gpu.Subject("flow", flow, seconds=0.4),
        gpu.Subject("ace", partial(gpu.ace_step_sized, **ACE), seconds=0.4),
    )
    return gpu.Settings(subjects, batches=(2,), steps=2, timed=1, matrix=64)


def test_all_figures_are_there_and_memory_is_as_estimated(settings: gpu.Settings) -> None:
    report = gpu.measured("cpu", settings, command="a command")
    assert [row for row in report.rows if row.error] == []
    assert len(report.rows) == 3 * (1 + 2 * 4)
    for name in ("ours", "flow", "ace"):
        for method in ("DITTO-2", "DITTO"):
            row = f"{name}, {method}, 2 at once"
            estimate = report.value(row, "estimated_memory_gb")
            peak = report.value(row, "peak_memory_gb")
            assert peak == pytest.approx(estimate, rel=0.2), row
            assert (report.value(row, "share_of_matmul_rate") or 0.0) > 0
    assert report.settings["device"] == "cpu"


def test_what_does_not_fit_or_comes_too_late_says_so(
    settings: gpu.Settings, student_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (subject, *_), now = settings.subjects, time.perf_counter()
    late = gpu.measured_model(subject, student_model, settings, now - 2 * gpu.BUDGET)
    assert {row.error for row in late[1:]} == {"no time was left"}
    monkeypatch.setattr(gpu, "memory_of", lambda device: gpu.SLACK)
    large = gpu.measured_model(subject, student_model, settings, now)
    assert {row.error for row in large if row.column == "seconds_per_clip"} == {
        "would need 0.0 GiB"
    }


def test_the_command_takes_the_tiny_config_and_no_other(monkeypatch, capsys, tmp_path) -> None:
    from benchmarks import __main__ as command

    monkeypatch.setitem(gpu.CONFIGS, "tiny", gpu.Settings((), ()))
    words = ["benchmarks", "gpu", "--config", "tiny", "--device", "cpu", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert not stop.value.code
    assert json.loads((tmp_path / "gpu.json").read_text())["name"] == "gpu"
    monkeypatch.setattr("sys.argv", [*words[:3], "huge"])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2
    assert "gpu has no config 'huge': leave it out, or give tiny" in capsys.readouterr().err
