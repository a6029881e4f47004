"""Scores for SentencePiece BPE, computed from the merge list that transformers keeps.

SentencePiece merges the neighbouring pair whose merged token has the highest score; a merge list
applies the first pair in the list. The two are equivalent if every pair that forms a token is in
the list and all pairs that form the same token are adjacent in it. A token's score is then minus
the rank of its pairs. This is checked, since a tokenizer trained with its own merges may violate
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import ModelError

_NEVER_MERGED = -1e9  # score of tokens that no merge produces


def scores_of(model: Mapping[str, Any], tokens: Sequence[str], source: str) -> list[float]:
    """Return one score per token: 0 for the first one merged, then falling.

    Tokens that no merge produces get a score far below all others.

    Args:
        model: the ``model`` section of tokenizer.json.
        tokens: all tokens, by id.
        source: the model's name, for the error message.

    Raises:
        ModelError: no scores are equivalent to the merges.
    """
    pairs = [_pair(merge) for merge in model["merges"]]
    ranks: dict[str, int] = {}
    last = ""
    for left, right in pairs:
        made = left + right
        if made != last and made in ranks:
            raise _refusal(source, f"the pairs that form '{made}' are not adjacent in the list")
        last = made
        ranks.setdefault(made, len(ranks))
    _check_complete(model["vocab"], ranks, set(pairs), source)
    return [-float(ranks[token]) if token in ranks else _NEVER_MERGED for token in tokens]


def _pair(merge: Sequence[str] | str) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _check_complete(
    vocab: Mapping[str, int], made: Iterable[str], pairs: set[tuple[str, str]], source: str
) -> None:
    """Refuse a pair that forms a token but is not in the list: SentencePiece would merge it."""
    for token in made:
        for cut in range(1, len(token)):
            pair = token[:cut], token[cut:]
            if pair not in pairs and pair[0] in vocab and pair[1] in vocab:
                raise _refusal(source, f"'{pair[0]}' and '{pair[1]}' are never merged")


def _refusal(source: str, why: str) -> ModelError:
    return ModelError(
        f"the tokenizer of '{source}' has merges that SentencePiece scores cannot represent "
        f"({why}), so it cannot be written as GGUF; save the model as safetensors"
    )
