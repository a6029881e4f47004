"""Writing a checkpoint as one GGUF file, the format of llama.cpp.

Tensors are read, reordered and encoded one at a time, so the file may be larger than memory. It is
written under a temporary name, synced and renamed: under the final name there is always a complete
file.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath

import gguf
import numpy as np
from gguf import GGUFWriter
from transformers import PreTrainedModel

from ..checkpoints import Checkpoint
from ..checkpoints.durable import rename_synced
from ..checkpoints.user_paths import user_path
from ..errors import SettingError
from ..models.blocks.empty_model import empty_model, shared_model
from ..models.reading.source_card import base_models, source_metadata
from ..models.writing.publishing import check_disk
from .ggml_types import (
    FILE_TYPES,
    GgmlKind,
    file_type,
    ggml_type,
)
from .gguf_architectures import Architecture, architecture_of
from .gguf_tensors import (
    TensorEntry,
    fallback_warnings,
    file_kind,
    recoding_warnings,
    tensor_entries,
)
from .gguf_tokenizer import describe_tokenizer

TensorProgress = Callable[[int, int], None]
"""Called with the number of tensors written and their total; may raise to stop."""

MARK = "birdbone.version"
"""The metadata key of files written by birdbone, near the start so that it is found quickly."""

_CARD_KEYS = (
    *("license", "license_name", "license_link", "tags", "language"),
    *("model_name", "model_author", "model_creator", "model_organization", "model_version"),
    *("model_url", "model_repo_url"),
)
_HEAD_BYTES = 256  # where MARK is looked for
_SPARE_BYTES = 64 << 20  # tokenizer and names


@dataclass(frozen=True)
class WrittenGguf:
    """What a written GGUF file holds.

    Attributes:
        path: path of the file.
        num_bytes: its size on disk.
        kinds: number of tensors of each type.
        fallbacks: GGUF names of tensors whose width the blocks of the requested type do not divide,
            and the type each has instead.
    """

    path: Path
    num_bytes: int
    kinds: Mapping[GgmlKind, int]
    fallbacks: Mapping[str, GgmlKind]


def _silent(done: int, total: int) -> None:
    """Report nothing."""


def write_gguf(
    checkpoint: Checkpoint,
    path: str | Path,
    *,
    kind: GgmlKind | None = None,
    force: bool = False,
    announce: TensorProgress = _silent,
) -> WrittenGguf:
    """Write the model, its tokenizer and its chat template as a file for llama.cpp.

    Args:
        checkpoint: the model.
        path: the file.
        kind: ggml type of the linear layers; see `ggml_types` for the other tensors. Default: the
            smallest type among the weights that ggml's blocks store exactly, or f16 if there are
            none. Weights that are stored exactly are written unchanged whatever ``kind`` is, except
            that integer codes are dequantised for f32, f16 and bf16.
        force: replace a file that birdbone did not write.
        announce: reports progress.

    Raises:
        ModelError: the architecture, one of its settings or the tokenizer is not supported by GGUF
            or llama.cpp.
        SettingError: the file may not be replaced, or the kind is unknown.
        ResourceError: there is too little disk space.
        CheckpointError: a value does not fit in its type.
    """
    target = check_file(path, force)
    asked, kind = kind, file_kind(checkpoint, kind)
    if kind not in FILE_TYPES:
        raise SettingError(f"kind '{kind}' is not known; choose one of {', '.join(FILE_TYPES)}")
    model = empty_model(checkpoint)
    architecture, cautions = architecture_of(model.config)
    entries = tensor_entries(checkpoint, model, architecture, kind)
    for caution in (
        *cautions,
        *fallback_warnings(entries, kind),
        *recoding_warnings(checkpoint, entries, asked),
    ):
        warnings.warn(caution, stacklevel=2)
    total = sum(entry.num_bytes for entry in entries)
    check_disk(target, total + _SPARE_BYTES)
    aside = target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(aside, gguf.MODEL_ARCH_NAMES[architecture.arch])
    try:
        describe_model(writer, checkpoint, model, architecture, kind)
        describe_tokenizer(writer, checkpoint, int(model.config.vocab_size))
        _write(writer, entries, announce)
        writer.close()
        rename_synced(aside, target)
    finally:
        writer.close()
        aside.unlink(missing_ok=True)
    kinds = [entry.kind for entry in entries]
    return WrittenGguf(
        target,
        target.stat().st_size,
        {each: kinds.count(each) for each in sorted(set(kinds))},
        {entry.name: entry.kind for entry in entries if entry.is_fallback},
    )


def try_gguf(checkpoint: Checkpoint, kind: GgmlKind = "f16") -> None:
    """Prepare the file of a checkpoint, which needs no values, and write nothing.

    Raises:
        ModelError: the architecture, one of its settings or tensors, or the tokenizer is not
            supported by GGUF or llama.cpp.
    """
    model = shared_model(checkpoint)
    architecture, _ = architecture_of(model.config)
    tensor_entries(checkpoint, model, architecture, kind)
    writer = GGUFWriter(None, gguf.MODEL_ARCH_NAMES[architecture.arch])
    architecture.describe(writer, model.config)
    if checkpoint.files:  # the outline of a GGUF file has none
        describe_tokenizer(writer, checkpoint, int(model.config.vocab_size))


def check_file(path: str | Path, force: bool = False) -> Path:
    """Return the absolute target path, if a GGUF file may be written there.

    Raises:
        SettingError: it is a folder, or a file that birdbone did not write and ``force`` is off.
    """
    target = user_path(path).resolve()
    if target.is_dir():
        raise SettingError(f"output '{path}' is a folder; give a file, such as '{path}/model.gguf'")
    if target.exists() and not force and not _is_ours(target):
        raise SettingError(
            f"output file '{path}' exists and was not written by birdbone; "
            f"give another path, or force=True (--force) to replace it"
        )
    return target


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return head.startswith(b"GGUF") and MARK.encode() in head


def describe_model(
    writer: GGUFWriter,
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    architecture: Architecture,
    kind: GgmlKind,
) -> None:
    """Add the metadata but the tokenizer: name and origin, hyperparameters, type of the file."""
    writer.add_string(MARK, _own_version())
    writer.add_type("model")
    _describe_name(writer, checkpoint)
    architecture.describe(writer, model.config)
    writer.add_file_type(file_type(kind))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _describe_name(writer: GGUFWriter, checkpoint: Checkpoint) -> None:
    """Write name, size label, licence and origin, by gguf's own rules from the source's card."""
    called = PurePosixPath(checkpoint.source).name or str(checkpoint.config["model_type"])
    known = source_metadata(checkpoint)
    card: dict[str, object] = {key: known[key] for key in _CARD_KEYS if key in known}
    if bases := base_models(checkpoint):
        card["base_model"] = bases
    found = gguf.Metadata.apply_metadata_heuristic(
        gguf.Metadata(), card, None, Path(called), checkpoint.num_parameters
    )
    if found.size_label is None:
        found.size_label = gguf.size_label(checkpoint.num_parameters, 0, 0, 0)
    found.set_gguf_meta_model(writer)


def write_header(writer: GGUFWriter, entries: list[TensorEntry]) -> None:
    """Write everything that precedes the tensors' data."""
    for entry in entries:
        writer.add_tensor_info(
            entry.name, entry.shape, np.dtype(np.int8), entry.num_bytes, ggml_type(entry.kind)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _write(writer: GGUFWriter, entries: list[TensorEntry], announce: TensorProgress) -> None:
    write_header(writer, entries)
    for done, entry in enumerate(entries):
        announce(done, len(entries))
        writer.write_tensor_data(entry.data())
    announce(len(entries), len(entries))


def _own_version() -> str:
    try:
        return version("birdbone")
    except PackageNotFoundError:
        return "unknown"
