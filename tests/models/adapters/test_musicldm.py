"""MusicLDM against its own pipeline."""

import pytest
import torch
from tests.models.adapters.tiny_pipelines import PROMPT, chain_of, noise_of
from torch.nn.functional import normalize

from ditto.diffusion.samplers import ddim
from ditto.models.adapters.musicldm import MusicLDMModel


def test_a_chain_makes_what_the_pipeline_makes(musicldm: MusicLDMModel) -> None:
    told, null = musicldm.cond(PROMPT).chunk(2, dim=1)
    generator = torch.Generator().manual_seed(3)
    theirs = musicldm.pipe(  # pyright: ignore[reportCallIssue]
        prompt_embeds=told,
        negative_prompt_embeds=null,
        num_inference_steps=5,
        guidance_scale=2.5,
        generator=generator,
        output_type="pt",
    ).audios
    with torch.no_grad():
        sound = musicldm.decode(ddim(chain_of(musicldm, 5, 2.5), noise_of(musicldm, 3)))
    assert theirs.abs().max() > 0.05
    assert (sound[:, 0] - theirs).abs().max() <= 1e-4


def test_prompts_are_claps_projected_text_of_unit_length(musicldm: MusicLDMModel) -> None:
    clap, tokenizer = (
        musicldm.pipe.components["text_encoder"],
        musicldm.pipe.components["tokenizer"],
    )
    tokens = tokenizer(["calm jazz", ""], padding=True, return_tensors="pt")
    pooled = clap.text_model(**tokens).pooler_output
    expected = normalize(clap.text_projection(pooled), dim=-1)
    found = torch.cat(musicldm.encode_prompts(["calm jazz"]).chunk(2, dim=1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.norm(dim=1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
