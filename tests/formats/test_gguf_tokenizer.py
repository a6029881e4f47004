"""llama.cpp makes the same tokens of text as transformers, or the tokenizer is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFReader, TokenType
from llama_cpp import opened
from tiny import tiny_checkpoint, tiny_tokenizer
from tiny_gguf import checkpoint_with
from tiny_tokenizers import byte_level, sentencepiece
from tokenizers import pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from birdbone.errors import ModelError
from birdbone.formats.gguf_writer import write_gguf

TEXTS = [
    "the thing and(the qq) anything in the land",
    "The\tinning, 1234567 and 12 of 120!\n\n  indented   twice\r\n",
    "  it's the thing's 'thing' they'LL  and I'd",
    "naïve Ünïcödé — “quoted”… 漢字と仮名 русский العربية 🙂👍🏽",
    "x = [1, 2]; y=x**2 # and\n\tthe_thing(andIng)//in",
    "the</s>thing<s> and",
    " ",
    "a",
]

RULES = ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2"]

TOKENIZERS = {
    **{rule: lambda rule=rule: byte_level(rule) for rule in RULES},
    "sentencepiece": lambda: sentencepiece(prefix=False),
    "sentencepiece with a space": lambda: sentencepiece(prefix=True),
}


def written(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    return write_gguf(checkpoint_with(tokenizer), folder / "model.gguf", kind="q8_0").path


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_llama_cpp_makes_the_same_tokens(kind: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[kind]()
    with opened(written(tokenizer, tmp_path)) as llama:
        for text in TEXTS:
            wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert llama.tokenize(text) == wanted, text
        assert llama.tokenize("and", special=True) == tokenizer("and")["input_ids"]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_named_by_what_it_does(rule: str, tmp_path: Path) -> None:
    fields = GGUFReader(written(byte_level(rule), tmp_path)).fields
    assert fields["tokenizer.ggml.pre"].contents() == rule
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False


def test_ids_that_no_token_has_are_unused(tmp_path: Path) -> None:
    tokenizer = byte_level()
    fields = GGUFReader(written(tokenizer, tmp_path)).fields
    types = fields["tokenizer.ggml.token_type"].contents()
    assert types[:4] == [TokenType.CONTROL] * 4
    assert types[4] == TokenType.NORMAL
    assert types[len(tokenizer) :] == [TokenType.UNUSED] * 3
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id


def test_the_chat_template_travels(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fields = GGUFReader(written(tokenizer, tmp_path)).fields
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template


def test_a_rule_that_llama_cpp_has_not_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(False)]
    )
    with pytest.raises(ModelError, match=r"'tiny' prepares text by a rule .*Punctuation.*, then w"):
        written(tokenizer, tmp_path)


def test_other_tokens_around_a_text_are_refused(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<unk> $A", special_tokens=[("<unk>", 3)]
    )
    with pytest.raises(ModelError, match=r"adds other tokens than bos and eos"):
        written(tokenizer, tmp_path)


def test_bpe_that_is_neither_of_bytes_nor_falls_back_on_them_is_refused(tmp_path: Path) -> None:
    assert not tiny_tokenizer().backend_tokenizer.model.byte_fallback
    with pytest.raises(ModelError, match=r"by a rule that llama\.cpp has no name for.*Metaspace"):
        write_gguf(tiny_checkpoint(), tmp_path / "model.gguf")


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoint_with(byte_level())
    bare = type(checkpoint)(checkpoint.config, checkpoint.refs, {}, source="bare")
    with pytest.raises(ModelError, match=r"'bare' has no tokenizer"):
        write_gguf(bare, tmp_path / "model.gguf")
