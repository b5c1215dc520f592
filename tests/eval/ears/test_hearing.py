"""`hear` on a batch."""

import numpy as np
import torch
from tests.eval.ears.made_music import played

from ditto.eval.ears import hear, load_ears


def test_a_batch_is_heard_as_its_clips_are() -> None:
    rng = np.random.default_rng(0)
    clips = torch.from_numpy(np.stack([played(), 0.1 * rng.standard_normal(131_072)]).astype("f"))
    ears = load_ears()
    both = hear(clips, 22_050, ears)
    assert {key: value.shape for key, value in both.items()} == {
        "msd": (2, 3, 200),
        "mtt": (2, 3, 200),
        "msd_tags": (2, 50),
        "mtt_tags": (2, 50),
        "notes_per_second": (2,),
        "onset_peak": (2,),
        "contrast_db": (2,),
        "peaks_db": (2,),
        "pitch_classes": (2, 512, 12),
        "tempo": (2,),
    }
    alone = hear(clips[1:], 22_050, ears)
    for key, value in both.items():
        np.testing.assert_allclose(value[1:], alone[key], rtol=1e-3, atol=1e-4, err_msg=key)
    assert both["notes_per_second"][0] > both["notes_per_second"][1]
    assert both["peaks_db"][0] > both["peaks_db"][1]


def test_the_sample_rate_hardly_matters() -> None:
    ears = load_ears()
    low = hear(torch.from_numpy(played())[None], 22_050, ears)
    high = hear(torch.from_numpy(played(rate=44_100))[None], 44_100, ears)
    np.testing.assert_allclose(low["msd_tags"], high["msd_tags"], atol=0.05)
    np.testing.assert_allclose(low["notes_per_second"], high["notes_per_second"], atol=0.4)
