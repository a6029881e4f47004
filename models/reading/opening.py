"""Open a model as a `Checkpoint`, lazily if its files allow it, else through transformers.

Quantised weights are dequantised to float32 unless ``dequantize`` is off. Other tensors keep their
dtype.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ...checkpoints import (
    Checkpoint,
    LeftOut,
    TensorRef,
    open_folder,
)
from ...checkpoints.shards import INDEX, SINGLE, chosen_weights, shard_paths
from ...errors import ModelError, SettingError, first_names
from ..blocks.config import context_length
from ..blocks.empty_model import empty_model
from ..blocks.transformers_errors import REFUSED, reason
from ..codecs.compressed_tensors import has_kept_codes, rounds_inputs
from ..codecs.gguf_config import gguf_config, unread_keys
from ..codecs.gguf_head import read_head
from ..codecs.gguf_parts import join_parts
from ..codecs.peft_adapter import ADAPTER_FILES
from .changed_on_load import as_loaded
from .converted import converted
from .folder_files import CARRIED_CARD, code_files, folder_files, licence_files
from .gguf_card import card_of_header
from .gguf_header import read_headers
from .gguf_unread import require_computed, unread_tensors
from .in_memory import as_checkpoint
from .kept_codes import with_codes
from .quantized import COMPRESSED_TENSORS, activation_scales, multiplied_out
from .sources import ADAPTER_CONFIG, WEIGHTS_KEY, Source, read_config
from .stored_dtypes import as_dtype, in_stored_dtypes
from .through_transformers import (
    forget_quantization,
    from_pretrained,
    load_dequantised,
    load_renamed,
    load_written_dense,
)
from .tied_weights import tied_names, with_ties_settled
from .tokenizer import gguf_tokenizer
from .unused import (
    in_words,
    require_dense,
    require_merged,
    require_own_names,
    unused_tensors,
)

__all__ = [
    "as_checkpoint",
    "keeps_codes",
    "open_checkpoint",
    "positions_of",
    "quantized_by",
    "rounds_inputs_of",
]


def open_checkpoint(
    source: Source,
    *,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    dequantize: bool = True,
) -> Checkpoint:
    """Open the model at ``source``; weights in safetensors are read when they are used.

    Args:
        dtype: dtype of the floating-point tensors. None keeps the stored dtypes, and float32 for
            dequantised weights.
        trust_remote_code: allow Python code in the model's folder to run.
        dequantize: dequantise the weights of a quantised model. If off, they are kept as
            `Quantized`, so that saving them is lossless.

    Raises:
        ModelError: transformers cannot build it as a causal language model, it needs Python code
            that was not allowed to run, or its quantisation method is not supported.
        CheckpointError: pickled, damaged or missing weights.
        SettingError: ``dequantize`` is off and the quantised weights cannot be kept.
    """
    if source.gguf and not dequantize:
        raise SettingError(
            f"'{source.label}' is a GGUF file, whose quantised weights cannot be kept; leave "
            f"dequantize on"
        )
    if source.gguf:
        opened = _open_gguf(source, dtype)
    else:
        opened = _open_folder(source, trust_remote_code, dequantize)
    return opened if dtype is None else as_dtype(opened, dtype)


def quantized_by(source: Source) -> str | None:
    """The quantisation method of a folder, by its config; None for a dense folder or a GGUF file.

    Raises:
        ModelError: its config cannot be read.
    """
    if source.gguf is not None:
        return None
    found = read_config(source).get("quantization_config")
    return str(found.get("quant_method")) if isinstance(found, dict) and found else None


def keeps_codes(source: Source) -> bool:
    """Whether `open_checkpoint` can keep the quantised weights of a folder.

    Raises:
        ModelError: its config cannot be read.
        CheckpointError: its quantization_config cannot be read.
    """
    settings = _compression(source)
    return settings is not None and has_kept_codes(settings)


def rounds_inputs_of(source: Source) -> bool:
    """Whether a folder of compressed-tensors has the inputs of any linear rounded.

    Raises:
        ModelError: its config cannot be read.
        CheckpointError: its quantization_config cannot be read.
    """
    settings = _compression(source)
    return settings is not None and rounds_inputs(settings)


def _compression(source: Source) -> Mapping[str, Any] | None:
    """The quantization_config of a folder of compressed-tensors; None for any other model."""
    if quantized_by(source) != COMPRESSED_TENSORS:
        return None
    found: Mapping[str, Any] = read_config(source)["quantization_config"]
    return found


def positions_of(source: Source, *, trust_remote_code: bool = False) -> int | None:
    """Context length of a model on disk, by its config; None if the config does not state it.

    Raises:
        ModelError: its config cannot be read.
    """
    if source.gguf is not None:
        config = json.loads(_gguf_config(source).to_json_string(use_diff=False))
        return context_length(Checkpoint(config, {}, source=source.label))
    files = code_files(source.folder) if trust_remote_code else {}
    return context_length(Checkpoint(read_config(source), {}, files, source=source.label))


def _open_folder(source: Source, trust_remote_code: bool, dequantize: bool) -> Checkpoint:
    config = read_config(source)
    if not trust_remote_code:
        _refuse_code(config, source)
        config.pop("auto_map", None)
    _check_weights_key(config, source)
    if "torch_dtype" in config:  # as versions 4 of transformers wrote it
        config.setdefault("dtype", config.pop("torch_dtype"))
    refs = open_folder(source.folder)
    _tell_files(source)
    read = {path.name for path in shard_paths(source.folder)}
    beside = folder_files(source.folder, code=trust_remote_code, read=read)
    adapter = _adapter(source, keep=not dequantize)
    quantization = config.pop("quantization_config", None)
    scales = activation_scales(refs) if quantization else []
    opened = Checkpoint(
        config,
        refs,
        {**beside.carried, **adapter},
        source=source.label,
        left_out=(*_without(beside.left_out, adapter), *scales),
    )
    values = multiplied_out(refs, quantization, source.label) if quantization else refs
    model = empty_model(replace(opened, refs=refs if values is None else values))
    if not quantization:
        require_dense(model, refs, source.label)
    unused = unused_tensors(model, refs)
    require_merged(unused, source.label)
    if values is None:
        found = load_dequantised(source, opened, trust_remote_code)
    else:
        extra = unused_tensors(model, values)
        used = replace(opened, refs={n: ref for n, ref in values.items() if n not in extra})
        through = load_written_dense if quantization else load_renamed
        direct = _as_named(used, model) or _as_converted(used, model)
        if direct is None:
            require_own_names(extra, model, source.label)
        found = direct or through(source, used, trust_remote_code)
    if unused:
        _tell_unused(unused, model, source)
    if dequantize and rounds_inputs_of(source):
        warnings.warn(
            f"the linears of '{source.label}' round their inputs, which dequantised weights do "
            f"not; load(dequantize=False) keeps it",
            stacklevel=2,
        )
    found = as_loaded(in_stored_dtypes(found, model, opened))
    if quantization and not dequantize:
        found = with_codes(found, source.label)
    return replace(found, unused=unused)


def _tell_unused(unused: Mapping[str, TensorRef], model: PreTrainedModel, source: Source) -> None:
    warnings.warn(
        f"'{source.label}' holds {in_words(unused, model.state_dict())}, for which "
        f"{type(model).__name__} has no parameters: they do not affect its output, and are saved "
        f"unchanged unless keep_unused is off",
        stacklevel=2,
    )


def _as_named(opened: Checkpoint, model: PreTrainedModel) -> Checkpoint | None:
    """The model's tensors in its order, tied ones once; None if the names differ."""
    ties = tied_names(model)
    names = list(model.state_dict())
    if not opened.refs.keys() >= {name for name in names if name not in ties}:
        return None
    found = {name: opened.refs[name] for name in names if name in opened.refs}
    return with_ties_settled(replace(opened, refs=found), ties)


def _as_converted(opened: Checkpoint, model: PreTrainedModel) -> Checkpoint | None:
    """The same of tensors that transformers renames or merges; None where it makes too few."""
    return _as_named(replace(opened, refs=converted(model, opened.refs)), model)


def _gguf_config(source: Source) -> PreTrainedConfig:
    try:
        return gguf_config(*source.gguf_paths)
    except REFUSED as error:
        raise ModelError(f"'{source.label}' cannot be opened: {reason(error)}") from error


def _open_gguf(source: Source, dtype: torch.dtype | None) -> Checkpoint:
    """Read a GGUF model through transformers, which dequantises its tensors to float32."""
    config = _gguf_config(source)
    with ExitStack() as stack:
        file = _joined(source, stack) if source.parts else source
        model = from_pretrained(
            file,
            file.folder,
            # A relative name is looked for in the working directory before the folder.
            gguf_file=str(file.gguf_paths[0].absolute()),
            config=config,
            dtype=dtype or torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    tokenizer = gguf_tokenizer(source)
    forget_quantization(model)
    found = as_checkpoint(model, tokenizer, source=source.label)
    readers = read_headers(source)
    unread = unread_tensors(readers, model)
    require_computed(unread, model, source.label)
    _tell_unread(unread, source)
    card = card_of_header(readers[0].fields, source.label)
    files = {
        **found.files,
        **licence_files(source.folder),
        **({CARRIED_CARD: card} if card else {}),
    }
    return replace(found, files=files, left_out=tuple(unread))


def _tell_unread(unread: Sequence[LeftOut], source: Source) -> None:
    """Warn of tensors that are left out, and of keys that may change what is computed."""
    if unread:
        size = sum(each.num_bytes for each in unread)
        warnings.warn(
            f"'{source.label}' holds {len(unread)} tensors ({size:,} bytes) that transformers does "
            f"not read ({first_names([each.name for each in unread])}); they are left out",
            stacklevel=2,
        )
    if keys := unread_keys(read_head(*source.gguf_paths)):
        warnings.warn(
            f"'{source.label}' has keys in its header that are not read ({first_names(keys)}); if "
            f"they change what the model computes, give the folder that the file was made from",
            stacklevel=2,
        )


def _joined(source: Source, stack: ExitStack) -> Source:
    """A GGUF model as a single file, as transformers requires, until the stack is closed."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    try:
        join_parts(source.gguf_paths, folder / "model.gguf")
    except REFUSED as error:
        raise ModelError(
            f"the {len(source.parts)} files of '{source.label}' cannot be joined in "
            f"{tempfile.gettempdir()}: {reason(error)}"
        ) from error
    return Source(source.label, folder, "model.gguf")


def _check_weights_key(config: dict[str, Any], source: Source) -> None:
    """Remove the name of the weight file from the config; refuse an unusual name."""
    named = config.pop(WEIGHTS_KEY, None)
    if named not in (None, SINGLE, INDEX):
        raise ModelError(
            f"config.json of '{source.label}' names {named!r} under {WEIGHTS_KEY} as its weights; "
            f"rename that file to {SINGLE} and remove the key"
        )


def _tell_files(source: Source) -> None:
    """Warn which weight file was chosen of several, and of an adapter that is not read."""
    if chosen := chosen_weights(source.folder):
        warnings.warn(f"'{source.label}' {chosen}", stacklevel=2)
    if (source.folder / ADAPTER_CONFIG).is_file():
        warnings.warn(
            f"'{source.label}' has an adapter beside its weights that is not merged "
            f"({ADAPTER_CONFIG}). It is not read, although transformers would apply it; merge it "
            f"with PEFT first to include it",
            stacklevel=2,
        )


def _refuse_code(config: Mapping[str, Any], source: Source) -> None:
    """Refuse a model that needs its own Python code, unless that is allowed."""
    if "auto_map" in config and config["model_type"] not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"'{source.label}' needs its own Python code (auto_map in config.json), which is not "
            f"run by default; pass trust_remote_code=True if you trust it"
        )


def _adapter(source: Source, *, keep: bool) -> dict[str, bytes]:
    """The low-rank correction of quantised weights; warns if it is left out."""
    found = {name: source.folder / name for name in ADAPTER_FILES}
    if not all(path.is_file() for path in found.values()):
        return {}
    if not keep:
        warnings.warn(
            f"'{source.label}' has an adapter beside its weights, which is not read; "
            f"load(dequantize=False) keeps it with the quantised weights it corrects",
            stacklevel=2,
        )
        return {}
    return {name: path.read_bytes() for name, path in found.items()}


def _without(left_out: Iterable[LeftOut], kept: Collection[str]) -> tuple[LeftOut, ...]:
    """The files left out, without those of folders that are copied."""
    folders = {f"{name.partition('/')[0]}/" for name in kept}
    return tuple(each for each in left_out if each.name not in folders)
