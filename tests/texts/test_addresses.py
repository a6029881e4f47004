"""How sources are spelled: places, options and weights, and what no spelling means."""

from pathlib import Path

import pytest

from birdbone.errors import SettingError
from birdbone.texts.addresses import TextAddress, parse_addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("wiki/", TextAddress("wiki/")),
        ("chat.jsonl:2", TextAddress("chat.jsonl", weight=2.0)),
        ("pydoc:0.5", TextAddress("pydoc", weight=0.5)),
        ("chapter?.txt", TextAddress("chapter?.txt")),
        ("a/**/*.md:3", TextAddress("a/**/*.md", weight=3.0)),
        ("w.parquet?column=body&rows=9", TextAddress("w.parquet", column="body", rows=9)),
        ("w.parquet?column=body:2", TextAddress("w.parquet", column="body:2")),
        ("w.jsonl?weight=2", TextAddress("w.jsonl", weight=2.0)),
        ("hf:org/name:raw:train[:100]", TextAddress("hf:org/name:raw:train[:100]")),
        ("hf:org/name:2", TextAddress("hf:org/name:2")),
        ("hf:org/name::train:2", TextAddress("hf:org/name::train", weight=2.0)),
        ("hf:n?stream=yes&rows=5", TextAddress("hf:n", rows=5, stream=True)),
    ],
)
def test_an_address_is_read(text: str, address: TextAddress) -> None:
    assert TextAddress.parse(text) == address


def test_what_exists_under_that_name_is_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log:2").write_text("x")
    assert TextAddress.parse("log:2") == TextAddress("log:2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jsonl?colum=x", r"no option 'colum'; did you mean 'column'\?"),
        ("a.jsonl?rows=0", "rows=0; give a whole number above 0"),
        ("a.jsonl?rows=1&rows=2", "gives option 'rows' twice"),
        ("a.jsonl?column=", "gives option 'column' without a value"),
        ("hf:a?stream=maybe", "stream=maybe; give yes or no"),
        ("a.txt:0", "weight 0; give a finite number above 0"),
        ("a.txt?weight=nan", "weight nan; give a finite number above 0"),
    ],
)
def test_a_wrong_option_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        TextAddress.parse(text)


def test_the_weight_does_not_change_what_is_read() -> None:
    assert TextAddress.parse("a.jsonl:2").spelled == TextAddress.parse("a.jsonl").spelled
    assert TextAddress.parse("a.jsonl?weight=2&rows=3").spelled == "a.jsonl?rows=3"


def test_several_sources_are_read_in_order_and_none_twice() -> None:
    found = parse_addresses(("a.txt:2", "b.txt"))
    assert [(each.place, each.weight) for each in found] == [("a.txt", 2.0), ("b.txt", 1.0)]
    with pytest.raises(SettingError, match=r"'a\.txt' is named twice; name it once, with a weight"):
        parse_addresses(("a.txt", "a.txt:2"))
    with pytest.raises(SettingError, match="data names no text"):
        parse_addresses(())
