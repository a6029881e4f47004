"""Load the tokenizer of a model from its folder, its GGUF file or the files of a checkpoint."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ...checkpoints import Checkpoint
from ...checkpoints.gguf_package import require_gguf
from ...errors import ModelError
from ..blocks.config import has_code, read_config_object, unbuildable
from ..blocks.progress_bars import quietly
from ..blocks.transformers_errors import REFUSED, reason, tokenizer_refused
from ..codecs.gguf_head import Head, read_head
from ..codecs.pretokenizers import split_as
from .folder_files import folder_files
from .sources import Source, read_config

if TYPE_CHECKING:
    from gguf import ReaderField

_NAMED_TEMPLATE = "tokenizer.chat_template."


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """The tokenizer in the files of a checkpoint.

    Raises:
        ModelError: there is none that transformers can read, it needs Python code that the
            checkpoint does not carry, or the config, which is read first, cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, data in checkpoint.files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (Path(folder) / "config.json").write_text(json.dumps(dict(checkpoint.config)))
        trust = any(name.endswith(".py") for name in checkpoint.files)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
            tokenizer("a")  # settings of a wrong type, such as a list of lengths, fail only in use
        except BaseException as error:
            if not tokenizer_refused(error):
                raise
            if not trust and "trust_remote_code" in str(error):
                raise ModelError(
                    f"the tokenizer of '{checkpoint.source}' is Python code in its folder, which "
                    f"does not run by default; pass trust_remote_code=True if you trust it"
                ) from error
            _require_config(checkpoint)
            why = reason(error).replace(folder, "its folder")
            raise ModelError(
                f"'{checkpoint.source}' has no tokenizer that can be read ({why}); "
                f"put tokenizer.json beside its weights"
            ) from error
    return tokenizer


def _require_config(checkpoint: Checkpoint) -> None:
    """Refuse a config that transformers cannot read, which no other tokenizer would help."""
    if has_code(checkpoint):
        return  # only reading it once more would tell
    try:
        with read_config_object(checkpoint, trust=False):
            pass
    except REFUSED as error:
        raise unbuildable(checkpoint, error) from error


def read_tokenizer(source: Source, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model on disk; weights are not read.

    Raises:
        ModelError: there is none that transformers can read.
    """
    if source.gguf is not None:
        return gguf_tokenizer(source)
    config = read_config(source)
    files = folder_files(source.folder, code=trust_remote_code).carried
    return load_tokenizer(Checkpoint(config, {}, files, source=source.label))


def gguf_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file, corrected where transformers reads it wrongly.

    Raises:
        ModelError: there is none that transformers can read.
    """
    try:
        head = read_head(*source.gguf_paths)
        with quietly():
            path = source.gguf_paths[0].absolute()
            tokenizer = AutoTokenizer.from_pretrained(source.folder, gguf_file=str(path))
        return _as_the_file_says(tokenizer, head, source)
    except BaseException as error:
        if not tokenizer_refused(error):
            raise
        raise ModelError(
            f"the tokenizer in '{source.label}' cannot be read: {reason(error)}; "
            f"fetch the file again"
        ) from error


def _as_the_file_says(
    tokenizer: PreTrainedTokenizerBase, head: Head, source: Source
) -> PreTrainedTokenizerBase:
    """Correct byte-level BPE: tokens that transformers adds, and its GPT-2 pre-tokenization."""
    with head.as_file() as short:
        fields = require_gguf().GGUFReader(short).fields
    _add_named_templates(tokenizer, fields)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or fields["tokenizer.ggml.model"].contents() != "gpt2":
        return tokenizer
    num_tokens = head.num_tokens
    if num_tokens is not None and backend.get_vocab_size() > num_tokens:
        tokenizer = _without_ids_from(num_tokens, tokenizer)
    rule = fields.get("tokenizer.ggml.pre")
    if rule is not None and not split_as(tokenizer.backend_tokenizer, str(rule.contents())):
        warnings.warn(
            f"'{source.label}' uses the pre-tokenizer '{rule.contents()}', which is not known: "
            f"its tokens may differ from those the model was trained with",
            stacklevel=2,
        )
    return tokenizer


def _add_named_templates(
    tokenizer: PreTrainedTokenizerBase, fields: Mapping[str, ReaderField]
) -> None:
    """Add the chat templates other than the default, such as for tool use."""
    named = {
        key.removeprefix(_NAMED_TEMPLATE): str(field.contents())
        for key, field in fields.items()
        if key.startswith(_NAMED_TEMPLATE)
    }
    if named:
        default = {"default": tokenizer.chat_template} if tokenizer.chat_template else {}
        tokenizer.chat_template = {**default, **named}


def _without_ids_from(first: int, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """The tokenizer without added tokens that have no embedding."""
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    definition["added_tokens"] = [t for t in definition["added_tokens"] if t["id"] < first]
    vocab = tokenizer.get_vocab()
    special = {
        name: token
        for name, token in tokenizer.special_tokens_map.items()
        if vocab.get(str(token), first) < first
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(definition)),
        chat_template=tokenizer.chat_template,
        **special,
    )
