"""Training the embedded CLAP: a small `ClapModel` on composed music and its captions, by contrast.

Run it with ``ditto-music train clap --config clap --data datasets/train --out
runs/clap``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import ClapConfig, ClapModel, PreTrainedTokenizerBase

from ditto.audio.spec import AudioSpec
from ditto.data.captioned import FLOOR_DB, CaptionedClips
from ditto.data.captions import words_of
from ditto.data.shards import folder_of
from ditto.eval.clap_scores import Pairs, held_out_pairs, scores
from ditto.models.clap import Clap, save
from ditto.models.clap_frontend import ClapFrontEnd
from ditto.models.clap_text import ClapTextConfig
from ditto.models.clap_tokenizer import word_tokenizer
from ditto.paths import StrPath
from ditto.training.learner import Count, Decay, Every, NotNegative, Recipe, Share
from ditto.training.loop import Ema, built, seeded, step_seed
from ditto.training.run import Run, alone

MAX_SCALE = 100.0
"""Upper bound of the inverse temperature, as in CLIP: beyond it training becomes unstable."""


class Captioned(Protocol):
    """Where clips and captions come from: a pure function of the step."""

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, list[str]]:
        """Return log-mels (B, 1, frames, n_mels) in dB, and captions."""
        ...


@dataclass(frozen=True)
class ClapTraining(Recipe):
    """Everything that determines the weights, given the data.

    A pair is told apart from the others of its batch.

    Attributes:
        audio, text: fields of `ClapAudioConfig` and `ClapTextConfig`; the vocabulary's size is the
            tokenizer's.
        projection: width of the common space.
        front_end: fields of `ClapFeatureExtractor`.
        ema: decay of the averaged weights, which are the ones that ship.
        detail: lowest share of the facts that a caption tells.
        gain_db: clips are turned up or down by up to this.
        masked: most mel bands to be silenced, in half of the clips.
        unknown: share of a caption's words that are replaced by ``<unk>``.
        evaluate_every: in steps.
    """

    audio: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    projection: Every = 128
    front_end: dict[str, Any] = field(default_factory=dict)
    steps: Count = 1250
    batch_size: Every = 64
    lr: NotNegative = 1e-3
    decay: Share = 0.7
    lr_decay: Literal["linear", "cosine"] = "cosine"
    weight_decay: NotNegative = 0.05
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    ema: Decay = 0.995
    detail: Share = 0.5
    gain_db: NotNegative = 6.0
    masked: Count = 8
    unknown: Share = 0.03
    log_every: Every = 10
    checkpoint_every: Every = 50
    evaluate_every: Every = 250


def train_clap_on(
    config: ClapTraining,
    clips: Captioned,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    held_out: Pairs | None = None,
    show: bool = True,
) -> ClapModel:
    """Train until `config.steps`, resuming bit for bit from the newest checkpoint in `out`.

    Returns the averaged weights.

    Writes ``config.json``, ``log.jsonl``, ``tensorboard/`` and ``step-*/`` under `out`.

    Raises:
        DataError: the training diverged.
        OutputError: see `start_run`.
    """
    accelerator = Accelerator()
    alone(accelerator, "CLAP, whose loss compares all of a batch,")
    network = clap_network(config, tokenizer).train()
    spread(network, prepared(config, tokenizer, *clips.batch(0, config.batch_size), 0))
    run = Run(config, out, accelerator, network, averages={"ema": config.ema})
    for step in run.steps("clap", show):
        batch = prepared(config, tokenizer, *clips.batch(step, config.batch_size), step)
        run.update(
            _loss(
                run.model,
                [part.to(accelerator.device) for part in batch],
                step_seed(config.seed, step),
            )
        )
        if held_out is not None and run.due(config.evaluate_every):
            clap = _clap(config, averaged(network, run.averages["ema"]), tokenizer)
            run.log.write(run.done, **scores(clap, held_out))
    return averaged(network, run.averages["ema"])


def train_clap(
    config: ClapTraining,
    data: StrPath,
    out: Path,
    *,
    held_out: StrPath | None = None,
    show: bool = True,
) -> Path:
    """Run `train_clap_on` on a data folder; save what `Clap.load` takes, with its held-out scores.

    Returns:
        ``out/clap``.

    Raises:
        DataError: a folder is not a data folder, or a piece is shorter than CLAP's window.
    """
    what, seconds = "the training of a CLAP", AudioSpec().clip_seconds
    front_end = built("front_end", lambda: ClapFrontEnd.of(config.front_end))
    positions = built("text", lambda: ClapTextConfig.of({"text_config": config.text}).positions)
    clips = CaptionedClips(
        folder_of(data, what), front_end, seconds=seconds, detail=config.detail, seed=config.seed
    )
    tokenizer = word_tokenizer(words_of(clips.labels), positions)
    pairs = held_out_pairs(folder_of(held_out, what), seconds=seconds) if held_out else None
    network = train_clap_on(config, clips, tokenizer, out, held_out=pairs, show=show)
    card: dict[str, Any] = {
        "trained_on": f"{len(clips)} pieces",
        "steps": config.steps,
        "seed": config.seed,
    }
    save(out / "clap", network, tokenizer, config.front_end, card)
    if pairs:
        card["scores"] = {
            name: round(value, 4) for name, value in scores(Clap.load(out / "clap"), pairs).items()
        }
        save(out / "clap", network, tokenizer, config.front_end, card)
    return out / "clap"


def clap_network(config: ClapTraining, tokenizer: PreTrainedTokenizerBase) -> ClapModel:
    """Build a `ClapModel` whose initial weights are a function of the seed.

    Positions start faint, or they would drown the words.
    """
    text = config.text | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    shape = ClapConfig(
        text_config=text, audio_config=dict(config.audio), projection_dim=config.projection
    )
    with seeded(config.seed):
        network = built("audio or text", lambda: ClapModel(shape))
    with torch.no_grad():
        network.text_model.embeddings.position_embeddings.weight.mul_(0.1)
    return network


@torch.no_grad()
def spread(network: Any, batch: Sequence[Tensor]) -> None:
    """Set the projections so that a batch's first embeddings have mean 0 and variance 1.

    At first all texts are alike up to the third decimal, and so are all sounds, though a linear map
    of what little differs tells their genres; training would have to find the way out of that cone
    first. A data-dependent initialisation (Salimans & Kingma 2016; Krähenbühl et al. 2016).

    Args:
        network: a fresh `ClapModel`, in training mode.
        batch: features, token ids and attention mask.
    """
    features, tokens, mask = batch
    # Without dropout, whose noise is larger than what differs; but the batch norm has no statistics
    # of its own yet.
    network.eval().audio_model.audio_encoder.batch_norm.train()
    sounds = network.audio_model(features).pooler_output
    texts = network.text_model(tokens, attention_mask=mask).pooler_output
    network.train()
    for pooled, projection in (
        (sounds, network.audio_projection),
        (texts, network.text_projection),
    ):
        _standardise(projection.linear1, pooled)
        _standardise(projection.linear2, projection.activation(projection.linear1(pooled)))


def _standardise(linear: torch.nn.Linear, x: Tensor) -> None:
    """Scale and shift `linear` so that its outputs for x (B, D) have mean 0 and variance 1."""
    y = torch.nn.functional.linear(x, linear.weight)
    scale = 1 / (y.std(dim=0) + 1e-6)
    linear.weight.mul_(scale[:, None])
    linear.bias.copy_(-y.mean(dim=0) * scale)


def contrastive_loss(
    audio: Tensor, text: Tensor, audio_scale: Tensor, text_scale: Tensor
) -> Tensor:
    """Average both directions' cross-entropies over a batch's pairs.

    As in CLIP (Radford et al. 2021) and CLAP (Wu et al. 2023).

    `ClapModel` has a loss too, but both halves of it ask for the audio of a text, none for the text
    of an audio.

    Args:
        audio: unit vectors (B, D).
        text: unit vectors (B, D) of what belongs to them.
        audio_scale: inverse temperature of finding the text of an audio.
        text_scale: inverse temperature of finding the audio of a text.
    """
    cosines, pairs = audio @ text.mT, torch.arange(len(audio), device=audio.device)
    return (
        cross_entropy(audio_scale * cosines, pairs) + cross_entropy(text_scale * cosines.mT, pairs)
    ) / 2


def prepared(
    config: ClapTraining,
    tokenizer: PreTrainedTokenizerBase,
    features: Tensor,
    captions: list[str],
    step: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw augmented features, token ids and attention mask of a step, from (seed, step) alone."""
    rng = np.random.default_rng([config.seed, step, 1])
    clips = torch.stack([_augmented(config, clip, rng) for clip in features])
    tokens = tokenizer(captions, padding=True, return_tensors="pt")
    ids, mask = torch.as_tensor(tokens["input_ids"]), torch.as_tensor(tokens["attention_mask"])
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    lost = torch.from_numpy(rng.random(ids.shape) < config.unknown) & ~special
    return clips, ids.masked_fill(lost, int(tokenizer.unk_token_id)), mask  # pyright: ignore[reportArgumentType]


def _augmented(config: ClapTraining, clip: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a clip (1, frames, n_mels) at another level, perhaps without some bands."""
    clip = (clip + rng.uniform(-1, 1) * config.gain_db).clamp(min=FLOOR_DB)
    if config.masked and rng.random() < 0.5:
        width = int(rng.integers(1, config.masked + 1))
        first = int(rng.integers(clip.shape[-1] - width + 1))
        clip[..., first : first + width] = FLOOR_DB
    return clip


def _loss(model: Any, batch: list[Tensor], seed: int) -> Tensor:
    features, tokens, mask = batch
    # Dropout draws from the process-wide generator: fixed by the step, so that a resumed run
    # repeats it.
    with seeded(seed):
        found = model(input_ids=tokens, input_features=features, attention_mask=mask)
    scales = (
        scale.exp().clamp(max=MAX_SCALE) for scale in (model.logit_scale_a, model.logit_scale_t)
    )
    audio, text = (normalize(a.float(), dim=-1) for a in (found.audio_embeds, found.text_embeds))
    return contrastive_loss(audio, text, *scales)


def averaged(network: ClapModel, ema: Ema) -> ClapModel:
    """Copy the network with averaged parameters, in evaluation mode.

    The statistics of its batch norm are the network's own.
    """
    with torch.random.fork_rng(devices=[]):
        copy = ClapModel(network.config)
    copy.load_state_dict(network.state_dict())
    ema.copy_to(copy)
    return copy.requires_grad_(False).eval()


def _clap(config: ClapTraining, model: ClapModel, tokenizer: PreTrainedTokenizerBase) -> Clap:
    return Clap.of(model, tokenizer, ClapFrontEnd.of(config.front_end))
