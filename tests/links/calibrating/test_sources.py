"""Which source each part is from."""

import pytest

from birdbone.errors import DataError, SettingError
from birdbone.links.calibrating.sources import PartSources
from birdbone.texts import TextAddress


def test_a_built_in_text_that_is_not_used_is_chosen_for_elsewhere() -> None:
    found = PartSources.parse(("pydoc:2", "stdlib?rows=5"), None, None)
    assert (found.elsewhere, found.chosen) == ((TextAddress("readmes"),), True)
    found = PartSources.parse("own.txt", "stdlib", None)
    assert found.elsewhere == (TextAddress("pydoc"),)


def test_what_the_user_names_for_elsewhere_is_taken() -> None:
    found = PartSources.parse("own.txt", None, ("other.txt", "stdlib"))
    assert [each.place for each in found.elsewhere] == ["other.txt", "stdlib"]
    assert not found.chosen


def test_every_source_is_listed_once() -> None:
    found = PartSources.parse(("a", "b"), "c", "a")
    assert [each.place for each in found.all] == ["a", "b", "c"]


def test_where_no_built_in_text_is_left_one_must_be_named() -> None:
    with pytest.raises(DataError, match="name one with elsewhere="):
        PartSources.parse(("pydoc", "stdlib", "readmes"), None, None)


def test_a_wrong_spelling_is_refused() -> None:
    with pytest.raises(SettingError, match="is named twice"):
        PartSources.parse(("a", "a:2"), None, None)
