"""Small tokenizers of the kinds GGUF files hold, over the same few merges."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_WORDS = ["the", "and", "ing", "thing", "12", "an", "in"]
_SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(rule: str = "gpt-2") -> PreTrainedTokenizerFast:
    """Byte-level BPE that splits text as llama.cpp's ``rule`` of that name does."""
    tokenizer = Tokenizer(models.BPE(*_byte_level_pieces(), ignore_merges=rule == "llama-bpe"))
    whole, parts = (pre_tokenizers.ByteLevel(False, use_regex=words) for words in (True, False))
    tokenizer.pre_tokenizer = {
        "gpt-2": whole,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), whole]),
        "llama-bpe": pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), parts]
        ),
        "dbrx": pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(LLAMA_3), "removed", invert=True), parts]
        ),
        "qwen2": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN_2), "isolated"), parts]),
    }[rule]
    if rule == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return _finished(tokenizer)


def _byte_level_pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [*_merges([*_WORDS, *(f"Ġ{word}" for word in _WORDS)]), ("(", "the")]
    made = ["".join(pair) for pair in merges]
    # No merges lead to the last: it is made only where words that are tokens are taken whole.
    tokens = dict.fromkeys([*_SPECIAL.values(), *alphabet, *made, "Ġqq"])
    return {token: place for place, token in enumerate(tokens)}, merges


def sentencepiece(prefix: bool = True) -> PreTrainedTokenizerFast:
    """SentencePiece's BPE as transformers holds it, with bytes to fall back on; a begin token."""
    merges = _complete(_merges([*_WORDS, *(f"▁{word}" for word in _WORDS)]))
    made = dict.fromkeys("".join(pair) for pair in merges)
    single = {letter for word in made for letter in word} | set("etaoinshrdlu.,")
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    special = [*_SPECIAL.values()]
    vocab = dict.fromkeys([*special, *byte_tokens, *made, *sorted(single)])
    places = {token: place for place, token in enumerate(vocab)}
    tokenizer = Tokenizer(
        models.BPE(places, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", places["<s>"])]
    )
    return _finished(tokenizer)


def _finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Each word grown letter by letter from its left."""
    pairs = [(word[:cut], word[cut]) for word in words for cut in range(1, len(word))]
    return list(dict.fromkeys(pairs))


def _complete(merges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """With every pair that makes the same tokens, as where the list came from SentencePiece."""
    made = list(dict.fromkeys("".join(pair) for pair in merges))
    pieces = {letter for word in made for letter in word} | set(made)
    return [
        (word[:cut], word[cut:])
        for word in made
        for cut in range(1, len(word))
        if word[:cut] in pieces and word[cut:] in pieces
    ]
