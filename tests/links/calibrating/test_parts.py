"""Four parts that share no text, from several sources."""

from pathlib import Path

import pytest
from tiny import tiny_tokenizer

from birdbone.errors import DataError
from birdbone.links.calibrating.parts import PARTS, Parts, read_parts
from birdbone.links.calibrating.sources import PartSources
from birdbone.texts import shared_documents


def write(path: Path, first: int, last: int) -> str:
    """Paragraphs of numbered words, no word in two of them."""
    paragraphs = (" ".join(f"word{n}x{k}" for k in range(40)) for n in range(first, last))
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return str(path)


def parts(*settings: object, windows: int = 4) -> Parts:
    sources = PartSources.parse(*settings)  # type: ignore[arg-type]
    return read_parts(sources, tiny_tokenizer(), length=32, elsewhere_windows=windows, seed=0)


def documents(found: Parts, part: str) -> list[str]:
    return [text for each in found[part] for text in each.corpus.documents]


@pytest.mark.parametrize("heldout", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_no_part_holds_text_of_another(tmp_path: Path, heldout: bool, elsewhere: bool) -> None:
    data = (write(tmp_path / "a.txt", 0, 50), f"{write(tmp_path / 'b.txt', 40, 90)}:2")
    other = write(tmp_path / "h.txt", 100, 150) if heldout else None
    far = write(tmp_path / "e.txt", 200, 250) if elsewhere else None
    found = parts(data, other, far)
    assert tuple(found) == PARTS
    for first in PARTS:
        assert documents(found, first)
        for second in PARTS:
            if first != second:
                assert shared_documents(documents(found, first), documents(found, second)) == ()
    names = [each.corpus.name for each in found["calibration"]]
    assert names == ["a.txt", "b.txt"]
    assert [each.weight for each in found["healing"]] == [1.0, 2.0]
    assert [each.corpus.name for each in found["heldout"]] == (["h.txt"] if heldout else names)


def test_documents_of_a_built_in_text_that_the_data_holds_are_left_out_of_elsewhere(
    tmp_path: Path,
) -> None:
    import argparse
    from inspect import getsource

    (tmp_path / "mine.txt").write_text(getsource(argparse), encoding="utf-8")
    for number, text in enumerate(("one", "two")):
        write(tmp_path / f"{text}.txt", 50 * number, 50 * number + 50)
    found = parts(str(tmp_path), None, None, windows=10_000)
    everything = documents(found, "elsewhere")
    assert len(everything) > 300
    assert not any("class ArgumentParser(" in text for text in everything)


def test_shared_text_is_refused_whichever_part_holds_it(tmp_path: Path) -> None:
    data = write(tmp_path / "a.txt", 0, 50)
    copy = write(tmp_path / "copy.txt", 45, 95)
    other = write(tmp_path / "other.txt", 100, 150)
    with pytest.raises(DataError, match=r"held-out text 'copy\.txt' shares .* with 'a\.txt'"):
        parts(data, copy, None)
    with pytest.raises(DataError, match=r"elsewhere 'copy\.txt' shares .* with 'a\.txt'"):
        parts(data, None, copy)
    with pytest.raises(DataError, match=r"with 'a\.txt or other\.txt'"):
        parts(data, other, other)


def test_the_seed_decides_the_parts(tmp_path: Path) -> None:
    data = write(tmp_path / "a.txt", 0, 50)
    sources = PartSources.parse(data, None, None)
    first, again, another = (
        read_parts(sources, tiny_tokenizer(), length=32, elsewhere_windows=4, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert all(first[part] != another[part] for part in PARTS)
