"""Detect the scripts of a text: Latin, Cyrillic, Han, Devanagari and so on."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

_MOST_CHARACTERS = 2_000_000
_LEAST = 0.01

# The first word of a letter's Unicode name is its script, with these exceptions.
_NAMES = {"CJK": "Han", "IDEOGRAPHIC": "Han", "FULLWIDTH": "Latin", "MODIFIER": "other"}


def scripts(texts: Iterable[str]) -> Mapping[str, float]:
    """Return the fraction of letters per script, the most frequent first.

    Scripts below 1 % are combined as `other`, which is omitted if it is below 1 % too. Only the
    first two million characters are counted. Empty if there are no letters.
    """
    letters: Counter[str] = Counter()
    seen = 0
    for text in texts:
        letters.update(text[: _MOST_CHARACTERS - seen])
        seen += len(text)
        if seen >= _MOST_CHARACTERS:
            break
    found: Counter[str] = Counter()
    for letter, count in letters.items():
        if unicodedata.category(letter)[0] == "L":
            found[_script(letter)] += count
    total = found.total()
    named = {name: n / total for name, n in found.most_common() if n >= _LEAST * total}
    rest = 1.0 - sum(named.values())
    if total and rest >= _LEAST:
        named["other"] = named.get("other", 0.0) + rest
    return named


def _script(letter: str) -> str:
    word = unicodedata.name(letter, "OTHER").split()[0].split("-")[0]
    return _NAMES.get(word, word.capitalize() if word != "OTHER" else "other")
