"""A checkpoint as one GGUF file, the format of llama.cpp.

Tensors are read, brought into llama.cpp's order and encoded one at a time, so the file may be
larger than memory. It is written aside, synced and renamed: under the final name there is a whole
file or what was there before.
"""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath

import gguf
import numpy as np
from gguf import GGUFWriter
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..checkpoints import Checkpoint, InMemory, Quantized, TensorRef
from ..checkpoints.user_paths import user_path
from ..errors import ModelError, SettingError
from ..models.blocks.empty_model import empty_model
from ..models.writing.publishing import check_disk
from .ggml_blocks import held_blocks, held_kind
from .ggml_encoding import encode
from .ggml_types import (
    FILE_TYPES,
    UNBLOCKED,
    GgmlKind,
    chosen_kind,
    fitting_kind,
    ggml_type,
    smallest_kind,
    tensor_bytes,
)
from .gguf_architectures import Architecture, architecture_of
from .gguf_rope import rope_tensors
from .gguf_tokenizer import describe_tokenizer

TensorProgress = Callable[[int, int], None]

MARK = "birdbone.version"
"""The key that makes a file ours; the second, so that it is found without reading the rest."""

_HEAD_BYTES = 256
_SPARE_BYTES = 64 << 20  # tokenizer and names


@dataclass(frozen=True)
class WrittenGguf:
    """What a GGUF file holds.

    Attributes:
        path: of the file.
        num_bytes: its size on disk.
        kinds: how many tensors are of each type.
        stand_ins: GGUF names of tensors whose width the type asked for does not divide, and the
            type each has instead.
    """

    path: Path
    num_bytes: int
    kinds: Mapping[GgmlKind, int]
    stand_ins: Mapping[str, GgmlKind]


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
    """Write the model, its tokenizer and chat template as a file llama.cpp runs.

    Args:
        kind: ggml's type for the linears; which other tensors get it is said in `ggml_types`.
            None for the smallest type among the weights that ggml's blocks hold as they are, or f16
            where none is. Those are written as they are, whatever the kind; but codes of no
            type of ggml's are values where f32, f16 or bf16 is asked for.
        force: replace a file that birdbone did not write.
        announce: told how many of how many tensors are written; may raise to stop.

    Raises:
        ModelError: an architecture, a setting of one or a tokenizer that GGUF or llama.cpp has not.
        SettingError: the file may not be replaced, or the kind is unknown.
        ResourceError: the disk is too small.
        CheckpointError: a value that the type does not hold.
    """
    target = check_file(path, force)
    asked, kind = kind, file_kind(checkpoint, kind)
    if kind not in FILE_TYPES:
        raise SettingError(f"kind '{kind}' is not known; take one of {', '.join(FILE_TYPES)}")
    model = empty_model(checkpoint)
    architecture, cautions = architecture_of(model.config)
    entries = _entries(checkpoint, model, architecture, kind)
    for caution in (*cautions, *_stand_ins(entries, kind), *_recoded(checkpoint, entries, asked)):
        warnings.warn(caution, stacklevel=2)
    total = sum(entry.num_bytes for entry in entries)
    check_disk(target, total + _SPARE_BYTES)
    aside = target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(aside, gguf.MODEL_ARCH_NAMES[architecture.arch])
    try:
        _describe(writer, checkpoint, model, architecture, kind)
        _write(writer, entries, announce)
        writer.close()
        _publish(aside, target)
    finally:
        writer.close()
        aside.unlink(missing_ok=True)
    kinds = [entry.kind for entry in entries]
    return WrittenGguf(
        target,
        target.stat().st_size,
        {each: kinds.count(each) for each in sorted(set(kinds))},
        {entry.name: entry.kind for entry in entries if entry.stands_in},
    )


def file_kind(checkpoint: Checkpoint, kind: GgmlKind | None) -> GgmlKind:
    """The kind that was asked for, or what `write_gguf` takes where none was."""
    held = filter(None, map(held_kind, checkpoint.refs.values()))
    return kind or smallest_kind(held) or "f16"


def kept_kind(ref: TensorRef, kind: GgmlKind) -> GgmlKind | None:
    """The type whose blocks a weight is written as unchanged in a file of ``kind``, if any."""
    wants_values = kind in UNBLOCKED and isinstance(ref, Quantized)
    return None if wants_values else held_kind(ref)


def tensor_kinds(
    checkpoint: Checkpoint, *, kind: GgmlKind | None = None
) -> dict[str, tuple[GgmlKind, bool]]:
    """By name, the type each tensor gets in a file, and whether its rows are the model's columns.

    Raises:
        ModelError: an architecture that GGUF has not.
    """
    kind = file_kind(checkpoint, kind)
    model = empty_model(checkpoint)
    architecture, _ = architecture_of(model.config)
    entries = _entries(checkpoint, model, architecture, kind)
    # One entry a tensor, in the checkpoint's order; what follows them is the file's own.
    pairs = zip(checkpoint.refs, entries, strict=False)
    return {name: (entry.kind, architecture.is_transposed(name)) for name, entry in pairs}


def check_file(path: str | Path, force: bool = False) -> Path:
    """The absolute target, if a GGUF file may be written there.

    Raises:
        SettingError: a folder, or a file that birdbone did not write and ``force`` is off.
    """
    target = user_path(path).resolve()
    if target.is_dir():
        raise SettingError(f"output '{path}' is a folder; give a file, such as '{path}/model.gguf'")
    if target.exists() and not force and not _is_ours(target):
        raise SettingError(
            f"output file '{path}' exists and was not written by birdbone; "
            f"give another, or force=True (--force) to replace it"
        )
    return target


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return head.startswith(b"GGUF") and MARK.encode() in head


@dataclass(frozen=True)
class _Entry:
    """One tensor of the file: where it comes from and what it becomes.

    Attributes:
        shape: of its values, a row last.
        stands_in: whether its type is another than was asked for, for its width.
        is_encoded: whether the source gives its blocks rather than values.
    """

    name: str
    source: Callable[[], Tensor]
    shape: tuple[int, ...]
    kind: GgmlKind
    stands_in: bool = False
    is_encoded: bool = False

    @property
    def num_bytes(self) -> int:
        return tensor_bytes(self.kind, self.shape)

    def data(self) -> np.ndarray:
        """Its bytes, uint8."""
        found = self.source()
        return found.numpy() if self.is_encoded else encode(self.kind, found, self.name)


def _entries(
    checkpoint: Checkpoint, model: PreTrainedModel, architecture: Architecture, kind: GgmlKind
) -> list[_Entry]:
    config = model.config
    names = gguf.get_tensor_name_map(architecture.arch, config.num_hidden_layers)
    tied = "lm_head.weight" not in checkpoint.refs
    entries = []
    for name, ref in checkpoint.refs.items():
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise ModelError(
                f"tensor '{name}' of {config.model_type} has no name in GGUF; "
                f"save the model as safetensors"
            )
        shape = ref.shape[::-1] if architecture.is_transposed(name) else ref.shape
        is_head = gguf_name == ("token_embd.weight" if tied else "output.weight")
        held = kept_kind(ref, kind)
        found = held or chosen_kind(kind, gguf_name, shape, is_head=is_head)
        source = _Reordered(name, gguf_name, ref, architecture, config, bool(held))
        stands_in = found == fitting_kind(kind, shape[-1]) != kind and not is_head
        entries.append(_Entry(gguf_name, source, shape, found, stands_in, bool(held)))
    for gguf_name, tensor in rope_tensors(config).items():
        ref = InMemory(tensor)
        entries.append(_Entry(gguf_name, ref.load, ref.shape, "f32"))
    return entries


def _stand_ins(entries: list[_Entry], kind: GgmlKind) -> Iterator[str]:
    """Says what is not written as ``kind``, and as what instead."""
    others = [entry for entry in entries if entry.stands_in]
    for other in sorted({entry.kind for entry in others}):
        names = [entry.name for entry in others if entry.kind == other]
        yield (
            f"{len(names)} tensors, such as '{names[0]}', are written as {other}: blocks of "
            f"{kind} do not divide their width"
        )


def _recoded(
    checkpoint: Checkpoint, entries: list[_Entry], asked: GgmlKind | None
) -> Iterator[str]:
    """Says which codes are written as another type than asked for, or unasked as values."""
    coded = [
        entry
        for ref, entry in zip(checkpoint.refs.values(), entries, strict=False)
        if isinstance(ref, Quantized)
    ]
    others = [entry for entry in coded if entry.is_encoded and asked not in (None, entry.kind)]
    if others:
        yield (
            f"{len(others)} tensors, such as '{others[0].name}', are written as {others[0].kind}, "
            f"which holds the codes they have; '{asked}' would round them once more"
        )
    values = [entry for entry in coded if not entry.is_encoded]
    if values and asked is None:
        yield (
            f"{len(values)} tensors with codes, such as '{values[0].name}', are written as values "
            f"in {values[0].kind}: ggml's blocks hold codes of 4 and 8 bits without zero points, "
            f"in groups of whole blocks of 32, whose scales float16 holds, as those of a model "
            f"stored in bfloat16 or float16 are"
        )


@dataclass(frozen=True)
class _Reordered:
    """A tensor of the checkpoint as llama.cpp computes with it, read when it is called."""

    name: str
    gguf_name: str
    ref: TensorRef
    architecture: Architecture
    config: PreTrainedConfig
    as_blocks: bool

    def __call__(self) -> Tensor:
        tensor = self._stored()
        order = self.architecture.row_order(self.name, tensor.shape[0], self.config)
        if order is not None:
            tensor = tensor[order]
        offset = self.architecture.offset(self.gguf_name)
        return tensor.float() + offset if offset else tensor

    def _stored(self) -> Tensor:
        """A row for each output: values, or blocks where it is made of them."""
        if self.as_blocks:
            return held_blocks(self.ref)
        tensor = self.ref.load()
        return tensor.T if self.architecture.is_transposed(self.name) else tensor


def _describe(
    writer: GGUFWriter,
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    architecture: Architecture,
    kind: GgmlKind,
) -> None:
    writer.add_string(MARK, _own_version())
    writer.add_type("model")
    _describe_name(writer, checkpoint)
    architecture.describe(writer, model.config)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    describe_tokenizer(writer, checkpoint, int(model.config.vocab_size))


def _describe_name(writer: GGUFWriter, checkpoint: Checkpoint) -> None:
    """Name and size label, by gguf's own reading of what the model is called."""
    called = PurePosixPath(checkpoint.source).name or str(checkpoint.config["model_type"])
    found = gguf.Metadata.apply_metadata_heuristic(
        gguf.Metadata(), None, None, Path(called), checkpoint.num_parameters
    )
    if found.size_label is None:
        found.size_label = gguf.size_label(checkpoint.num_parameters, 0, 0, 0)
    found.set_gguf_meta_model(writer)


def _write(writer: GGUFWriter, entries: list[_Entry], announce: TensorProgress) -> None:
    for entry in entries:
        writer.add_tensor_info(
            entry.name, entry.shape, np.dtype(np.int8), entry.num_bytes, ggml_type(entry.kind)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, entry in enumerate(entries):
        announce(done, len(entries))
        writer.write_tensor_data(entry.data())
    announce(len(entries), len(entries))


def _publish(aside: Path, target: Path) -> None:
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(aside, target)
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _own_version() -> str:
    try:
        return version("birdbone")
    except PackageNotFoundError:
        return "unknown"
