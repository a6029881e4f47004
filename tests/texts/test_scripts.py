"""Scripts are told by letters; digits, signs and spaces do not count."""

import pytest

from birdbone.texts.scripts import scripts


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Fenster 12, ß!", "Latin"),
        ("Привет", "Cyrillic"),
        ("猫雨", "Han"),
        ("हवा", "Devanagari"),
        ("ছাতা", "Bengali"),
        ("αβγ", "Greek"),
        ("ねこ", "Hiragana"),
        ("고양이", "Hangul"),
        ("قط", "Arabic"),
    ],
)
def test_each_script_is_named(text: str, script: str) -> None:
    assert dict(scripts([text])) == {script: 1.0}


def test_fractions_come_in_order_and_rare_scripts_together() -> None:
    found = scripts(["a" * 60, "ж" * 38, "猫δ"])
    assert found == {"Latin": 0.6, "Cyrillic": 0.38, "Han": 0.01, "Greek": 0.01}
    assert list(found) == ["Latin", "Cyrillic", "Han", "Greek"]
    rare = scripts(["a" * 392, "猫猫猫", "δδδ", "हह"])
    assert rare == {"Latin": 0.98, "other": pytest.approx(0.02)}


def test_a_text_without_letters_has_no_script() -> None:
    assert scripts(["12 + 3", ""]) == {}
