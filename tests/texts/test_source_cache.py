"""Sources are held as long as they are the same and not too much in all."""

from collections.abc import Callable

import pytest

from birdbone.texts import source_cache
from birdbone.texts.corpus import RawText
from birdbone.texts.source_cache import forget, remembered


@pytest.fixture(autouse=True)
def _nothing_held() -> None:
    forget()


def reader(text: str = "x") -> Callable[[], RawText]:
    return lambda: RawText("a", (text,))


def test_the_same_stamp_gives_the_same_text_and_another_reads_again() -> None:
    first = remembered("a", 1, reader())
    assert remembered("a", 1, reader()) is first
    assert remembered("a", 2, reader()) is not first
    assert remembered("b", 2, reader()) is not remembered("a", 2, reader())


def test_of_too_much_text_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_cache, "_MOST_CHARACTERS", 10)
    first, second = remembered("a", 1, reader("x" * 5)), remembered("b", 1, reader("x" * 5))
    assert remembered("a", 1, reader()) is first
    remembered("c", 1, reader("x" * 4))
    assert remembered("a", 1, reader()) is first
    assert remembered("b", 1, reader("x" * 5)) is not second


def test_a_reader_that_fails_leaves_nothing() -> None:
    def broken() -> RawText:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        remembered("a", 1, broken)
    assert remembered("a", 1, reader()).documents == ("x",)
