"""The prose of a Markdown or reStructuredText page: its paragraphs of sentences.

Code, tables, lists of links and badges are repetitive and easily predicted, also by a damaged
model, so that perplexity on whole pages understates what compression cost.
"""

from __future__ import annotations

import re

_FENCED = re.compile(r"^\s*(```|~~~).*?^\s*\1\s*$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_TAG = re.compile(r"<[^>]+>")
_WORD = re.compile(r"[^\W\d_]+")

_FEWEST_WORDS = 20
_FEWEST_LETTERS = 0.85  # and spaces, of all characters


def prose(page: str) -> str:
    """Return the paragraphs of at least 20 words that end like a sentence, each on one line."""
    page = _COMMENT.sub("", _FENCED.sub("\n\n", page))
    paragraphs = (_plain(each) for each in re.split(r"\n\s*\n", page) if not _is_code(each))
    return "\n\n".join(each for each in paragraphs if _is_prose(each))


def _is_code(paragraph: str) -> bool:
    return paragraph.startswith(("    ", "\t"))


def _plain(paragraph: str) -> str:
    """The paragraph on one line, with the text of links and without images and tags."""
    line = " ".join(paragraph.split())
    return _TAG.sub("", _LINK.sub(r"\1", _IMAGE.sub("", line))).strip()


def _is_prose(line: str) -> bool:
    letters = sum(each.isalpha() or each == " " for each in line)
    return (
        len(_WORD.findall(line)) >= _FEWEST_WORDS
        and letters >= _FEWEST_LETTERS * len(line)
        and line.endswith((".", "!", "?", ":"))
    )
