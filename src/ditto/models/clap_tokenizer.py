"""A tokenizer of whole words for the embedded CLAP: small, and honest about words that it does not
know.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
"""In RoBERTa's order, which `ClapTextConfig` expects: 0, 1, 2, 3."""


def word_tokenizer(words: Iterable[str], max_tokens: int = 64) -> PreTrainedTokenizerFast:
    """A tokenizer that knows `words` (lower case, without accents) and maps every other word to
    ``<unk>``.

    Case, accents and punctuation are ignored. `max_tokens` counts the first and the last token too.
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
