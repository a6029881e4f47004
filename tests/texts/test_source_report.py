"""The figures of a source, counted where it is short and extrapolated where it is long."""

from pathlib import Path

import pytest
from tiny import tiny_tokenizer

from birdbone.texts.addresses import TextAddress
from birdbone.texts.source_report import report_source
from birdbone.texts.windows import count_tokens

LINE = "line {} of a text that is long enough to be told from boilerplate\n"


def test_a_short_source_is_counted(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(LINE.format(name) * 20)
    (tmp_path / "copy.txt").write_text(LINE.format("a") * 20)
    tokenizer = tiny_tokenizer()
    found = report_source(TextAddress(str(tmp_path), weight=2.0), "data", tokenizer)
    assert (found.use, found.weight, found.documents, found.duplicates) == ("data", 2.0, 4, 1)
    texts = [path.read_text() for path in sorted(tmp_path.iterdir())]
    assert found.characters == sum(map(len, texts))
    assert found.tokens == count_tokens(texts, tokenizer)
    assert not found.is_estimate
    assert dict(found.scripts) == {"Latin": 1.0}


def test_tokens_of_a_long_source_are_an_estimate() -> None:
    found = report_source(TextAddress("pydoc"), "data", tiny_tokenizer(), duplicates=False)
    assert found.is_estimate
    assert found.duplicates is None
    assert found.characters / 3 < found.tokens < found.characters


def test_without_a_tokenizer_four_characters_are_a_token() -> None:
    found = report_source(TextAddress("pydoc"), "data", None)
    assert (found.tokens, found.is_estimate) == (found.characters // 4, True)
    assert found.duplicates == pytest.approx(22, abs=15)
