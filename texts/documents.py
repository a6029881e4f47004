"""Split a long text into documents, and remove duplicate documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

PARAGRAPH_GOAL = 2000
"""Characters per document when paragraphs are joined, in a text without headings."""

FEWEST_DOCUMENTS = 10
"""Minimum number of documents of one text, if each can have 200 characters."""

SHORTEST_GOAL = 200
"""Minimum characters per document when a text is split for more documents."""

LONG_LINE = 40
"""Minimum characters of a line that identifies a text; shorter ones may be boilerplate."""

_ARTICLE_HEADING = re.compile(r"[ \t]*=[ \t]+(?!=[ \t])(?:.*\S)?(?<!=)[ \t]+=[ \t]*")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")


def normalised(text: str) -> str:
    """Return the text with each run of whitespace replaced by one space."""
    return " ".join(text.split())


def divide(text: str) -> tuple[str, ...]:
    """Split one long text into documents.

    If at least three lines are WikiText article headings (`= Title =`, one equals sign on each
    side), each starts a document. Otherwise paragraphs, separated by blank lines, are joined until
    a document has 2000 characters, or fewer if that would give fewer than ten documents. A
    paragraph of more than twice that length is split at line ends, a line at spaces, and a run
    without spaces by length.
    """
    lines = text.splitlines(keepends=True)
    if sum(is_heading(line) for line in lines) >= 3:
        return _nonblank(_articles(lines))
    return _nonblank(_pieces(text, _goal(len(text))))


def divide_further(documents: Sequence[str]) -> tuple[str, ...]:
    """Split long documents if there are fewer than ten, or one has over a quarter of the text.

    Such documents cannot be assigned to parts by size. Otherwise returned unchanged.
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
    """Return whether a line is a WikiText article heading, not a section heading."""
    return _ARTICLE_HEADING.fullmatch(line.rstrip("\r\n")) is not None


def long_lines(document: str) -> frozenset[str]:
    """Return the whitespace-normalised lines of at least 40 characters."""
    lines = map(normalised, document.splitlines())
    return frozenset(line for line in lines if len(line) >= LONG_LINE)


def mostly_within(lines: Iterable[str], known: frozenset[str] | set[str]) -> bool:
    """Return whether more than half of these lines, counted in characters, are known."""
    total = repeated = 0
    for line in lines:
        total += len(line)
        repeated += len(line) if line in known else 0
    return repeated * 2 > total


def distinct(documents: Sequence[str]) -> tuple[str, ...]:
    """Return the documents in their order without duplicates and blank ones.

    A document is a duplicate if it equals another up to whitespace, or if more than half of its
    long lines are in longer documents: a manual often has a section both alone and in a chapter.
    """
    return tuple(documents[place] for place in distinct_places(documents))


def distinct_places(documents: Sequence[str]) -> list[int]:
    """Return the indices of the documents that `distinct` keeps."""
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


# Where text is split, in order of preference, and what joins the parts again.
_CUTS = ((_BLANK_LINES, "\n\n"), (re.compile(r"\n"), "\n"), (re.compile(" "), " "))


def _goal(length: int) -> int:
    """Half the mean length of ten documents: a document may be twice as long as the goal."""
    return min(PARAGRAPH_GOAL, max(SHORTEST_GOAL, length // (2 * FEWEST_DOCUMENTS)))


def _pieces(
    text: str, goal: int, cuts: Sequence[tuple[re.Pattern[str], str]] = _CUTS
) -> Iterator[str]:
    """Parts of the text joined up to the goal; a part of twice that is split at finer places."""
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
