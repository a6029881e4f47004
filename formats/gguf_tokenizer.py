"""Writing a tokenizer to GGUF: tokens, merges or scores, and the name of the pre-tokenizer.

The source is the fast tokenizer that transformers runs, whichever files it was loaded from.
llama.cpp has two relevant kinds: byte-level BPE, where a name selects the rule that splits text
into words (`models.codecs.pretokenizers`), and SentencePiece BPE, which merges by score. The rule
is detected from the tokenizer's definition; a rule that llama.cpp does not have is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from ..checkpoints import Checkpoint
from ..errors import ModelError
from ..models.codecs.pretokenizers import prefix_space, splitting_name
from ..models.reading.tokenizer import load_tokenizer
from .sentencepiece_scores import scores_of

_SPECIAL_IDS = {
    "bos_token_id": GGUFWriter.add_bos_token_id,
    "eos_token_id": GGUFWriter.add_eos_token_id,
    "unk_token_id": GGUFWriter.add_unk_token_id,
    "sep_token_id": GGUFWriter.add_sep_token_id,
    "pad_token_id": GGUFWriter.add_pad_token_id,
    "mask_token_id": GGUFWriter.add_mask_token_id,
}


@dataclass(frozen=True)
class Vocabulary:
    """All tokens and their types, by id."""

    tokens: Sequence[str]
    types: Sequence[TokenType]


def describe_tokenizer(writer: GGUFWriter, checkpoint: Checkpoint, vocab_size: int) -> None:
    """Write everything llama.cpp needs to tokenize text as the model expects.

    Args:
        writer: the file.
        checkpoint: the model with its tokenizer files.
        vocab_size: rows of the embedding; ids without a token are written as unused.

    Raises:
        ModelError: there is no tokenizer, llama.cpp does not support its kind, or it has more
            tokens than the embedding has rows.
    """
    tokenizer = load_tokenizer(checkpoint)
    definition = _definition(tokenizer, checkpoint.source)
    model = definition["model"]
    vocabulary = _vocabulary(definition, vocab_size, checkpoint.source)
    if model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(vocabulary.tokens)
        writer.add_token_scores(scores_of(model, vocabulary.tokens, checkpoint.source))
        writer.add_token_types(vocabulary.types)
        writer.add_add_space_prefix(prefix_space(definition, checkpoint.source))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(splitting_name(definition, checkpoint.source))
        writer.add_token_list(vocabulary.tokens)
        writer.add_token_types(vocabulary.types)
        writer.add_token_merges([_merge_text(merge) for merge in model["merges"]])
    _describe_special(writer, tokenizer, checkpoint.config)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        writer.add_chat_template([{"name": k, "template": v} for k, v in template.items()])
    elif template:
        writer.add_chat_template(template)


def _definition(tokenizer: PreTrainedTokenizerBase, source: str) -> dict[str, Any]:
    """Return the contents of tokenizer.json."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"the tokenizer of '{source}' is {type(tokenizer).__name__}, which has no fast "
            f"version; only fast tokenizers can be written as GGUF"
        )
    definition: dict[str, Any] = json.loads(backend.to_str())
    kind = definition["model"]["type"]
    if kind != "BPE":
        raise ModelError(
            f"the tokenizer of '{source}' is of kind {kind}, which cannot be written as GGUF; "
            f"supported: BPE, byte-level or with byte fallback"
        )
    return definition


def _merge_text(merge: Sequence[str] | str) -> str:
    """Return a merge as a line of merges.txt; spaces inside a part are escaped."""
    if isinstance(merge, str):
        return merge
    return " ".join(part.replace(" ", "Ġ") for part in merge)


def _vocabulary(definition: Mapping[str, Any], size: int, source: str) -> Vocabulary:
    by_id = {place: token for token, place in definition["model"]["vocab"].items()}
    added = {token["id"]: token for token in definition["added_tokens"]}
    highest = max([*by_id, *added])
    if highest >= size:
        raise ModelError(
            f"the tokenizer of '{source}' has a token of id {highest}, but the embedding has only "
            f"{size} rows; use the tokenizer the model was trained with"
        )
    falls_back = bool(definition["model"].get("byte_fallback"))
    unknown = definition["model"].get("unk_token") if falls_back else None
    tokens, types = [], []
    for place in range(size):
        if place in added:
            token = added[place]
            text = token["content"]
            kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
            kind = TokenType.UNKNOWN if text == unknown else kind
        elif place in by_id:
            text = by_id[place]
            kind = TokenType.BYTE if falls_back and _is_byte(text) else TokenType.NORMAL
        else:
            text, kind = f"[PAD{place}]", TokenType.UNUSED
        tokens.append(text)
        types.append(kind)
    return Vocabulary(tokens, types)


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _describe_special(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any]
) -> None:
    for name, add in _SPECIAL_IDS.items():
        found = getattr(tokenizer, name, None)
        if found is None:
            found = config.get(name)
        if isinstance(found, int):
            add(writer, found)
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    before, after = _around(whole, bare)
    if before not in ([], [tokenizer.bos_token_id]) or after not in ([], [tokenizer.eos_token_id]):
        raise ModelError(
            f"the tokenizer of '{tokenizer.name_or_path}' adds other tokens than bos and eos "
            f"around a text, which cannot be written as GGUF: {whole} for {bare}"
        )
    writer.add_add_bos_token(bool(before))
    if after:
        writer.add_add_eos_token(True)


def _around(whole: list[int], bare: list[int]) -> tuple[list[int], list[int]]:
    """Return what was added before and after ``bare`` to make ``whole``."""
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return whole, []
