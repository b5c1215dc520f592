"""The measure of seams: high where two sounds are put end to end, and low within one."""

import numpy as np
import torch

from ditto.audio.features import log_mel, mel_db
from ditto.audio.spec import AudioSpec
from ditto.eval.seams import jumps, seam_jump, share_below, typical_jumps

SPEC = AudioSpec()


def tone(hertz: float, seconds: float = 1.5) -> torch.Tensor:
    time = torch.arange(int(seconds * SPEC.sample_rate)) / SPEC.sample_rate
    return 0.2 * torch.sin(2 * torch.pi * hertz * time) + 0.01 * torch.randn(
        len(time), generator=torch.Generator().manual_seed(0)
    )


def test_a_cut_between_two_sounds_stands_out() -> None:
    audio = torch.cat([tone(300), tone(1000)])
    assert seam_jump(audio, 1.5, SPEC) > 2 * seam_jump(audio, 0.7, SPEC)
    assert share_below(seam_jump(audio, 1.5, SPEC), typical_jumps(tone(300), SPEC)) == 100
    at = jumps(audio, SPEC).argmax().item() / SPEC.frame_rate
    assert abs(at - 1.5) < 0.05


def test_a_seam_is_measured_by_what_is_near_it() -> None:
    audio = torch.cat([tone(300), tone(500), tone(1000)])
    for seconds in (0.05, 1.5, 3.0, 4.4):
        first, last = (round((seconds + side) * SPEC.frame_rate) for side in (-0.1, 0.1))
        whole = jumps(audio, SPEC)[max(first, 0) : last + 1].max().item()
        np.testing.assert_allclose(seam_jump(audio, seconds, SPEC), whole, rtol=1e-3)


def test_jumps_are_numpys_difference_of_means() -> None:
    level = np.maximum(mel_db(log_mel(tone(300)[None], SPEC), SPEC)[0].numpy(), -90)
    i = 40
    difference = level[:, i : i + 4].mean(axis=1) - level[:, i - 4 : i].mean(axis=1)
    np.testing.assert_allclose(
        jumps(tone(300), SPEC)[i], np.sqrt((difference**2).mean()), rtol=1e-3
    )


def test_shares() -> None:
    assert share_below(2.0, [1, 2, 3, 4]) == 50
    assert np.isnan(share_below(2.0, []))
