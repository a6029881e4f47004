"""What makes two documents the same text, and how one long text divides into documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

PARAGRAPH_GOAL = 2000
"""Characters after which gathered paragraphs make a document, in a text without headings."""

FEWEST_DOCUMENTS = 10
"""How many documents a text is divided into at least, if each can have 200 characters."""

SHORTEST_GOAL = 200
"""Characters below which no text is divided for the sake of more documents."""

LONG_LINE = 40
"""Characters from which a line is long enough to be told from boilerplate and table rules."""

_ARTICLE_HEADING = re.compile(r"[ \t]*=[ \t]+(?!=[ \t])(?:.*\S)?(?<!=)[ \t]+=[ \t]*")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")


def normalised(text: str) -> str:
    """Return the text with every run of whitespace made one space: the identity of a document."""
    return " ".join(text.split())


def divide(text: str) -> tuple[str, ...]:
    """Divide one long text into documents.

    Where at least three lines are WikiText article headings (`= Title =`, one equals sign each
    side), each opens a document. Otherwise paragraphs, parted by blank lines, are gathered in
    order until a document has 2000 characters, or less where that would make fewer than ten
    documents. A paragraph of more than twice as many is divided at its line ends, a line at its
    spaces, and what has no spaces by length.
    """
    lines = text.splitlines(keepends=True)
    if sum(is_heading(line) for line in lines) >= 3:
        return _nonblank(_articles(lines))
    return _nonblank(_pieces(text, _goal(len(text))))


def divide_further(documents: Sequence[str]) -> tuple[str, ...]:
    """Divide the longest documents where they are too few, or one is more than a quarter of all.

    Fewer than ten documents cannot be assigned to parts by size. Returned as they are where they
    are enough.
    """
    total, longest = sum(map(len, documents)), max(map(len, documents), default=0)
    if len(documents) >= FEWEST_DOCUMENTS and longest * 4 <= total:
        return tuple(documents)
    goal = _goal(total)
    return tuple(
        piece
        for document in documents
        for piece in (_nonblank(_pieces(document, goal)) if len(document) > goal else [document])
    )


def is_heading(line: str) -> bool:
    """Say whether a line is a WikiText article heading, not one of its section headings."""
    return _ARTICLE_HEADING.fullmatch(line.rstrip("\r\n")) is not None


def long_lines(document: str) -> frozenset[str]:
    """Return the whitespace-normalised lines of at least 40 characters."""
    lines = map(normalised, document.splitlines())
    return frozenset(line for line in lines if len(line) >= LONG_LINE)


def mostly_within(lines: Iterable[str], known: frozenset[str] | set[str]) -> bool:
    """Say whether more than half of these lines, counted in characters, are known."""
    total = repeated = 0
    for line in lines:
        total += len(line)
        repeated += len(line) if line in known else 0
    return repeated * 2 > total


def distinct(documents: Sequence[str]) -> tuple[str, ...]:
    """Return the documents in their order, each text once and blank ones left out.

    A document is left out when it equals another but for whitespace, or when more than half of
    its long lines stand in longer ones: a manual often prints a section alone and in its chapter.
    """
    return tuple(documents[place] for place in distinct_places(documents))


def distinct_places(documents: Sequence[str]) -> list[int]:
    """Return the places of the documents that `distinct` keeps, in their order."""
    by_length = sorted(range(len(documents)), key=lambda index: -len(documents[index]))
    seen: set[str] = set()
    known: set[str] = set()
    kept: list[int] = []
    for index in by_length:
        whole, lines = normalised(documents[index]), long_lines(documents[index])
        if not whole or whole in seen or mostly_within(lines, known):
            continue
        seen.add(whole)
        known |= lines
        kept.append(index)
    return sorted(kept)


def _nonblank(documents: Iterable[str]) -> tuple[str, ...]:
    return tuple(document for document in documents if document.strip())


def _articles(lines: Sequence[str]) -> Iterator[str]:
    article: list[str] = []
    for line in lines:
        if is_heading(line):
            yield "".join(article)
            article = []
        article.append(line)
    yield "".join(article)


# Where text is divided, in order of preference, and what joins the parts again.
_CUTS = ((_BLANK_LINES, "\n\n"), (re.compile(r"\n"), "\n"), (re.compile(" "), " "))


def _goal(length: int) -> int:
    """Half of what each of ten documents has on average: a document may reach twice its goal."""
    return min(PARAGRAPH_GOAL, max(SHORTEST_GOAL, length // (2 * FEWEST_DOCUMENTS)))


def _pieces(
    text: str, goal: int, cuts: Sequence[tuple[re.Pattern[str], str]] = _CUTS
) -> Iterator[str]:
    """Parts of the text gathered up to the goal; a part of twice that is divided more finely."""
    if not cuts:
        yield from (text[start : start + goal] for start in range(0, len(text), goal))
        return
    (cut, joint), *finer = cuts
    gathered: list[str] = []
    length = 0
    for part in cut.split(text):
        is_long = len(part) > 2 * goal
        if not is_long:
            gathered.append(part)
            length += len(part)
        if gathered and (is_long or length >= goal):
            yield joint.join(gathered)
            gathered, length = [], 0
        if is_long:
            yield from _pieces(part, goal, finer)
    if gathered:
        yield joint.join(gathered)
