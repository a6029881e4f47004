"""Scores for SentencePiece's BPE, from the merges that transformers keeps instead.

SentencePiece joins the two neighbours whose joined piece scores highest; a list of merges joins the
pair that stands first in it. They are the same where every pair that makes a token is in the list,
and all pairs that make one token stand together: then a token's score is how early its pairs stand.
That is checked, since a tokenizer trained with merges of its own need not be so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import ModelError

_NEVER_MADE = -1e9


def scores_of(model: Mapping[str, Any], tokens: Sequence[str], source: str) -> list[float]:
    """One score a token, 0 for the first that is made and falling; far below for those never made.

    Args:
        model: the ``model`` of tokenizer.json.
        tokens: every token by id.

    Raises:
        ModelError: merges that no scores can stand for.
    """
    pairs = [_pair(merge) for merge in model["merges"]]
    ranks: dict[str, int] = {}
    last = ""
    for left, right in pairs:
        made = left + right
        if made != last and made in ranks:
            raise _refusal(source, f"'{made}' is made early by one pair and late by another")
        last = made
        ranks.setdefault(made, len(ranks))
    _check_complete(model["vocab"], ranks, set(pairs), source)
    return [-float(ranks[token]) if token in ranks else _NEVER_MADE for token in tokens]


def _pair(merge: Sequence[str] | str) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _check_complete(
    vocab: Mapping[str, int], made: Iterable[str], pairs: set[tuple[str, str]], source: str
) -> None:
    """SentencePiece would also join a pair that is in no list but makes a token."""
    for token in made:
        for cut in range(1, len(token)):
            pair = token[:cut], token[cut:]
            if pair not in pairs and pair[0] in vocab and pair[1] in vocab:
                raise _refusal(source, f"'{pair[0]}' and '{pair[1]}' are never joined")


def _refusal(source: str, why: str) -> ModelError:
    return ModelError(
        f"the tokenizer of '{source}' has merges that SentencePiece's scores cannot stand for "
        f"({why}), so it cannot be written as GGUF"
    )
