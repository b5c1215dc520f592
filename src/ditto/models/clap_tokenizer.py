"""A small tokenizer of whole words for the embedded CLAP, with one token for unknown words."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
"""In RoBERTa's order, which `ClapTextConfig` expects: 0, 1, 2, 3."""


def word_tokenizer(words: Iterable[str], max_tokens: int = 64) -> PreTrainedTokenizerFast:
    """Build a tokenizer that maps every word besides `words` to ``<unk>``.

    Args:
        words: lower case, without accents; case, accents and punctuation of texts are ignored.
        max_tokens: of a text, the first and the last token included.
    """
    vocabulary = {word: i for i, word in enumerate((*SPECIALS, *dict.fromkeys(words)))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\w\s]|_"), " "),
        ]
    )
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_tokens,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
