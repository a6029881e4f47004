"""A tokenizer splits text as the GGUF file it was read from says."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFWriter
from tiny_gguf import checkpoint_with
from tiny_tokenizers import byte_level

from birdbone.formats.gguf_writer import write_gguf
from birdbone.models.codecs.pretokenizers import split_as
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model
from birdbone.models.reading.tokenizer import load_tokenizer

TEXT = "  it's(the THING's 1234567 qq of  12\n\n\tin the land, they'LL anding"
RULES = ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2"]


@pytest.mark.parametrize("rule", RULES)
def test_a_tokenizer_survives_the_way_there_and_back(rule: str, tmp_path: Path) -> None:
    tokenizer = byte_level(rule)
    path = write_gguf(checkpoint_with(tokenizer), tmp_path / "model.gguf", kind="q8_0").path
    opened = open_checkpoint(find_model(str(path)))
    assert load_tokenizer(opened).tokenize(TEXT) == tokenizer.tokenize(TEXT)
    again = write_gguf(opened, tmp_path / "again.gguf", kind="q8_0").path
    assert GGUFReader(again).fields["tokenizer.ggml.pre"].contents() == rule


def test_the_rules_differ_on_that_text() -> None:
    made = {tuple(byte_level(rule).tokenize(TEXT)) for rule in RULES}
    assert len(made) == len(RULES)


def test_a_rule_has_other_names() -> None:
    tokenizer = byte_level("gpt-2")
    assert split_as(tokenizer.backend_tokenizer, "starcoder")
    assert tokenizer.tokenize(TEXT) == byte_level("smollm").tokenize(TEXT)


def test_a_rule_nobody_knows_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = GGUFWriter.add_tokenizer_pre
    monkeypatch.setattr(GGUFWriter, "add_tokenizer_pre", lambda self, pre: written(self, "newest"))
    path = write_gguf(checkpoint_with(byte_level()), tmp_path / "model.gguf").path
    with pytest.warns(UserWarning, match=r"'model.gguf' uses the pre-tokenizer 'newest'"):
        open_checkpoint(find_model(str(path)))
