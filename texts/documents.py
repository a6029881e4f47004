"""What makes two documents the same text, and how one long text divides into documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

PARAGRAPH_GOAL = 2000
"""Characters after which gathered paragraphs make a document, in a text without headings."""

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
    order until a document has 2000 characters.
    """
    lines = text.splitlines(keepends=True)
    if sum(is_heading(line) for line in lines) >= 3:
        return _nonblank(_articles(lines))
    return _nonblank(_gathered(_BLANK_LINES.split(text)))


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
    return tuple(documents[index] for index in sorted(kept))


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


def _gathered(paragraphs: Iterable[str]) -> Iterator[str]:
    gathered: list[str] = []
    length = 0
    for paragraph in paragraphs:
        gathered.append(paragraph)
        length += len(paragraph)
        if length >= PARAGRAPH_GOAL:
            yield "\n\n".join(gathered)
            gathered, length = [], 0
    yield "\n\n".join(gathered)
