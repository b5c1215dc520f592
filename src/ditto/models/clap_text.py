"""The half of CLAP that reads, as plain modules, and what cuts texts into tokens.

It computes what `transformers.ClapTextModelWithProjection` does, from the same names of weights: a
RoBERTa encoder (Liu et al. 2019), whose first token's state, projected, is the embedding. Importing
transformers takes longer than making a clip.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ditto.models.clap_audio import ACTIVATIONS, Projection, said_of
from ditto.models.network import check_types

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"


@dataclass(frozen=True)
class ClapTextConfig:
    """What a ``config.json`` says of the text half; names and defaults are transformers'."""

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 1
    projection_dim: int = 512
    projection_hidden_act: str = "relu"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "ClapTextConfig":
        """Make one from a CLAP's ``config.json``, whose outer level says how both halves project.

        Raises:
            TypeError: a setting is of another type.
            ValueError: it names an activation that is none of `ACTIVATIONS`, the heads do not
                share the width evenly, or padding is no token or leaves no position.
        """
        read = said_of(config, "text_config", {field.name for field in fields(cls)})
        check_types(cls, read)
        made = cls(**read)
        for name in (made.hidden_act, made.projection_hidden_act):
            if name not in ACTIVATIONS:
                raise ValueError(f"no activation {name!r}: {', '.join(ACTIVATIONS)} are known")
        heads = made.num_attention_heads
        if heads < 1 or made.hidden_size % heads:
            raise ValueError(f"{heads} heads cannot share a width of {made.hidden_size}")
        if not 0 <= made.pad_token_id < min(made.vocab_size, made.max_position_embeddings - 1):
            raise ValueError(f"its padding, {made.pad_token_id}, is no token or leaves no position")
        return made

    @property
    def positions(self) -> int:
        """Most tokens of a text: positions count from the padding's index on."""
        return self.max_position_embeddings - self.pad_token_id - 1


class ClapText(nn.Module):
    """Tokens to embeddings."""

    def __init__(self, config: ClapTextConfig) -> None:
        """Make one of random weights."""
        super().__init__()
        self.config = config
        self.text_model = nn.ModuleDict(
            {
                "embeddings": _Embeddings(config),
                "encoder": nn.ModuleDict(
                    {
                        "layer": nn.ModuleList(
                            _Layer(config) for _ in range(config.num_hidden_layers)
                        )
                    }
                ),
                "pooler": nn.ModuleDict(
                    {"dense": nn.Linear(config.hidden_size, config.hidden_size)}
                ),
            }
        )
        self.text_projection = Projection(
            config.hidden_size, config.projection_dim, config.projection_hidden_act
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed texts (B, tokens) int64, shorter ones padded at their end, as (B, D)."""
        model: Any = self.text_model
        known = tokens != self.config.pad_token_id
        x = model["embeddings"](tokens, known)
        for layer in model["encoder"]["layer"]:
            x = layer(x, known[:, None, None])
        return self.text_projection(model["pooler"]["dense"](x[:, 0]).tanh())


class _Embeddings(nn.Module):
    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        width, self.padding = config.hidden_size, config.pad_token_id
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, tokens: Tensor, known: Tensor) -> Tensor:
        """Return each token's state (B, tokens, width): word, position, and the only type."""
        positions = known.cumsum(dim=1) * known + self.padding
        kind = self.token_type_embeddings.weight[0]
        return self.LayerNorm(
            self.word_embeddings(tokens) + kind + self.position_embeddings(positions)
        )


class _Layer(nn.Module):
    """Attention and two dense layers, each normalised after it is added (as in BERT)."""

    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.heads, self.act = config.num_attention_heads, ACTIVATIONS[config.hidden_act]()
        parts = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict(
            {"self": nn.ModuleDict(parts), "output": _added(width, width, config)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = _added(inner, width, config)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """Return the tokens' next states."""
        parts: Any = self.attention["self"]
        q, k, v = (
            parts[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        heard = scaled_dot_product_attention(q, k, v, attn_mask=known)
        x = self._add(self.attention["output"], heard.transpose(1, 2).flatten(2), x)
        return self._add(self.output, self.act(self.intermediate["dense"](x)), x)

    @staticmethod
    def _add(part: Any, change: Tensor, x: Tensor) -> Tensor:
        return part["LayerNorm"](part["dense"](change) + x)


def _added(inner: int, width: int, config: ClapTextConfig) -> nn.ModuleDict:
    norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
    return nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": norm})


@dataclass(frozen=True, eq=False)
class Tokens:
    """What cuts texts into tokens.

    Attributes:
        tokenizer: of the `tokenizers` library.
        unknown: the token of what it does not know; None if it spells words out.
        longest: most tokens of a text, the first and the last included.
    """

    tokenizer: "Tokenizer"
    unknown: int | None
    longest: int

    @classmethod
    def load(cls, folder: Path) -> "Tokens":
        """Load a folder's ``tokenizer.json``; of an older one, which has none, transformers does.

        Raises:
            OSError: there is neither, or one cannot be read.
            ValueError: one is damaged.
        """
        if not (folder / TOKENIZER).is_file():
            from transformers import AutoTokenizer

            return cls.of(AutoTokenizer.from_pretrained(folder, local_files_only=True))
        from tokenizers import Tokenizer

        text = (folder / TOKENIZER).read_text(encoding="utf-8")
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{TOKENIZER}: {error}") from None
        unknown = settings.get("unk_token")
        word = unknown.get("content") if isinstance(unknown, Mapping) else unknown
        longest = settings.get("model_max_length")
        return cls._plain(tokenizer, word, longest)

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "Tokens":
        """Take what transformers has made."""
        from tokenizers import Tokenizer

        inner: Any = tokenizer
        copy = Tokenizer.from_str(inner.backend_tokenizer.to_str())
        return cls._plain(copy, inner.unk_token, inner.model_max_length)

    @classmethod
    def _plain(cls, tokenizer: "Tokenizer", unknown: Any, longest: Any) -> "Tokens":
        tokenizer.no_padding()
        tokenizer.no_truncation()
        token = tokenizer.token_to_id(unknown) if isinstance(unknown, str) else None
        most = longest if isinstance(longest, int) and longest > 0 else 1 << 30
        return cls(tokenizer, token, most)

    def content(self, text: str) -> list[int]:
        """Return a text's tokens without the first and the last."""
        return self.tokenizer.encode(text.strip(), add_special_tokens=False).ids

    def batch(self, texts: Sequence[str], padding: int) -> Tensor:
        """Return texts as tokens (B, of the longest) int64, padded at their ends."""
        found = [torch.tensor(self.tokenizer.encode(text).ids) for text in texts]
        return nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=padding)
