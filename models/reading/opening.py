"""Opening a model as a `Checkpoint`: lazily where its files allow, else through transformers.

Codes of a quantised model are multiplied out to float32 unless they are asked for; its other
tensors keep the dtype they are stored in.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ...checkpoints import (
    Checkpoint,
    Converted,
    InMemory,
    LeftOut,
    TensorRef,
    open_folder,
    write_folder,
)
from ...checkpoints.shards import shard_paths
from ...errors import CheckpointError, ModelError, SettingError
from ..blocks.config import context_length
from ..blocks.empty_model import empty_model
from ..blocks.parameter_names import parameter_finder
from ..blocks.transformers_errors import REFUSED, reason
from ..codecs.compressed_tensors import has_integer_codes
from ..codecs.gguf_head import gguf_config
from ..codecs.gguf_parts import join_parts
from ..codecs.peft_adapter import ADAPTER_FILES
from .folder_files import code_files, folder_files, licence_files
from .progress_bars import quietly
from .quantized import multiplied_out, with_codes
from .sources import Source, read_config
from .tied_weights import TIES, tied_names, untied_config, with_ties_settled
from .tokenizer import gguf_tokenizer
from .unused import in_words, quantised_parameters, require_dense, unused_tensors

_ASIDE_SHARD_BYTES = 2 << 30


def open_checkpoint(
    source: Source,
    *,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    dequantize: bool = True,
) -> Checkpoint:
    """The model at ``source``; weights in safetensors stay on disk until they are asked for.

    Args:
        dtype: what floating-point tensors are stored as from here on; None keeps what is there,
            with codes of a quantised model multiplied out in float32.
        trust_remote_code: allow Python that the model's folder brings to run.
        dequantize: give a quantised model as the values its codes stand for. If not, they come as
            `Quantized`, so that saving loses nothing.

    Raises:
        ModelError: not a causal language model transformers can build, or it needs code of its
            own and that was not allowed; quantised by a method that is not read.
        CheckpointError: pickled, damaged or missing weights.
        SettingError: a quantised model whose codes cannot be kept as they are.
    """
    if source.gguf and not dequantize:
        raise SettingError(
            f"the codes of '{source.label}', a GGUF file, are multiplied out when it is read; "
            f"leave dequantize on"
        )
    if source.gguf:
        opened = _open_gguf(source, dtype)
    else:
        opened = _open_folder(source, trust_remote_code, dequantize)
    return opened if dtype is None else _as_dtype(opened, dtype)


def quantized_by(source: Source) -> str | None:
    """Whose codes a folder holds, by its config; None for a dense folder or a GGUF file.

    Raises:
        ModelError: its config cannot be read.
    """
    if source.gguf is not None:
        return None
    found = read_config(source).get("quantization_config")
    return str(found.get("quant_method")) if isinstance(found, dict) and found else None


def keeps_codes(source: Source) -> bool:
    """Whether `open_checkpoint` can give what a folder holds as codes.

    Raises:
        ModelError: its config cannot be read.
        CheckpointError: what it says of quantisation cannot.
    """
    if quantized_by(source) != "compressed-tensors":
        return False
    return has_integer_codes(read_config(source)["quantization_config"])


def positions_of(source: Source, *, trust_remote_code: bool = False) -> int | None:
    """How many tokens a model on disk takes, by its config; None where that does not say.

    Raises:
        ModelError: its config cannot be read.
    """
    if source.gguf is not None:
        config = json.loads(_gguf_config(source).to_json_string(use_diff=False))
        return context_length(Checkpoint(config, {}, source=source.label))
    files = code_files(source.folder) if trust_remote_code else {}
    return context_length(Checkpoint(read_config(source), {}, files, source=source.label))


def as_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, *, source: str = ""
) -> Checkpoint:
    """A transformers model in memory as a checkpoint; the tensors are shared, not copied.

    Tied parameters are kept once, under the name transformers saves them by. Parameters that the
    config says are tied but that have values of their own are both kept, and the config is
    corrected.
    """
    refs: dict[str, TensorRef] = {n: InMemory(t) for n, t in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        if model.generation_config is not None:
            # Not save_pretrained, which refuses settings that many published models have.
            model.generation_config.to_json_file(Path(folder) / "generation_config.json")
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        files = folder_files(Path(folder), code=False).carried
    config["architectures"] = [type(model).__name__]
    config["dtype"] = str(model.dtype).removeprefix("torch.")
    return with_ties_settled(Checkpoint(config, refs, files, source=source), tied_names(model))


def _open_folder(source: Source, trust_remote_code: bool, dequantize: bool) -> Checkpoint:
    config = read_config(source)
    if not trust_remote_code:
        _refuse_code(config, source)
        config.pop("auto_map", None)
    if "torch_dtype" in config:  # as versions 4 of transformers wrote it
        config.setdefault("dtype", config.pop("torch_dtype"))
    refs = open_folder(source.folder)
    read = {path.name for path in shard_paths(source.folder)}
    beside = folder_files(source.folder, code=trust_remote_code, read=read)
    adapter = _adapter(source, keep=not dequantize)
    quantization = config.pop("quantization_config", None)
    opened = Checkpoint(
        config,
        refs,
        {**beside.carried, **adapter},
        source=source.label,
        left_out=_without(beside.left_out, adapter),
    )
    values = multiplied_out(refs, quantization, source.label) if quantization else refs
    model = empty_model(replace(opened, refs=refs if values is None else values))
    if not quantization:
        require_dense(model, refs, source.label)
    unused = unused_tensors(model, refs)
    if unused:
        _tell_unused(unused, model, source)
    if values is None:
        found = _dequantized_by_transformers(source, opened, trust_remote_code)
    else:
        extra = unused_tensors(model, values)
        used = replace(opened, refs={n: ref for n, ref in values.items() if n not in extra})
        through = _written_dense if quantization else _through_transformers
        found = _as_named(used, model) or through(source, used, trust_remote_code)
    if quantization:
        found = _in_stored_dtypes(found, model, opened)
        found = found if dequantize else with_codes(found, source.label)
    return replace(found, unused=unused)


def _in_stored_dtypes(found: Checkpoint, model: PreTrainedModel, opened: Checkpoint) -> Checkpoint:
    """Codes multiplied out in float32, everything else in the dtype the folder holds it in.

    Args:
        found: the model, in which all may have become float32.
        opened: the folder's tensors as they are stored.
    """
    find, coded = parameter_finder(model), quantised_parameters(model, opened.refs)
    stored = {find(name)[0]: ref.dtype for name, ref in opened.refs.items()}
    refs = {
        name: _converted(ref, torch.float32 if name in coded else stored.get(name, ref.dtype))
        for name, ref in found.refs.items()
    }
    kept = getattr(torch, str(opened.config.get("dtype")), None) or _most_common(refs, coded)
    dtype = str(kept).removeprefix("torch.")
    return replace(found, refs=refs, config={**found.config, "dtype": dtype})


def _most_common(refs: Mapping[str, TensorRef], coded: Collection[str]) -> torch.dtype:
    """The dtype that most values outside of the quantised weights have."""
    counts: dict[torch.dtype, int] = {torch.float32: 0}
    for name, ref in refs.items():
        if name not in coded and ref.dtype.is_floating_point:
            counts[ref.dtype] = counts.get(ref.dtype, 0) + ref.num_values
    return max(counts, key=lambda dtype: counts[dtype])


def _tell_unused(unused: Mapping[str, TensorRef], model: PreTrainedModel, source: Source) -> None:
    warnings.warn(
        f"'{source.label}' holds {in_words(unused, model.state_dict())}, for which "
        f"{type(model).__name__} has no parameters: they take no part in what it computes, and "
        f"are saved unchanged unless keep_unused is off",
        stacklevel=2,
    )


def _as_named(opened: Checkpoint, model: PreTrainedModel) -> Checkpoint | None:
    """The tensors the model has, in its order, tied ones once; None where names differ."""
    ties = tied_names(model)
    names = list(model.state_dict())
    if not opened.refs.keys() >= {name for name in names if name not in ties}:
        return None
    found = {name: opened.refs[name] for name in names if name in opened.refs}
    return with_ties_settled(replace(opened, refs=found), ties)


def _dequantized_by_transformers(source: Source, opened: Checkpoint, trust: bool) -> Checkpoint:
    """Formats of compressed-tensors that are not integer codes, such as float8."""
    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=trust)
    except REFUSED as error:
        raise ModelError(f"'{source.label}' cannot be opened: {reason(error)}") from error
    config.quantization_config = {**config.quantization_config, "dequantize": True}
    return _through_transformers(source, opened, trust, config=config, dtype=torch.float32)


def _written_dense(source: Source, dense: Checkpoint, trust: bool) -> Checkpoint:
    """Let transformers translate names and shapes, by way of a dense folder written aside."""
    sizes = {name: ref.num_bytes for name, ref in dense.refs.items()}
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        write_folder(folder, dense.tensors, sizes, max_bytes=_ASIDE_SHARD_BYTES)
        for name, data in dense.top_files.items():
            (folder / name).write_bytes(data)
        config = {**dense.config, "dtype": "float32"}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return _through_transformers(replace(source, folder=folder), dense, trust)


def _through_transformers(
    source: Source, opened: Checkpoint, trust: bool, **options: Any
) -> Checkpoint:
    """Load weights whose names transformers translates, such as experts stored one by one."""
    model = _from_pretrained(source, trust_remote_code=trust, **options)
    _forget_quantization(model)
    found = as_checkpoint(model, source=source.label)
    return replace(
        found,
        config=_whole_config(found, opened),
        files={**found.files, **opened.files},
        left_out=opened.left_out,
    )


def _whole_config(found: Checkpoint, opened: Checkpoint) -> Mapping[str, Any]:
    """The config of the model as it was loaded, or of the larger one whose text part that is."""
    if found.config["model_type"] == opened.config["model_type"]:
        return found.config
    whole = {**opened.config, "dtype": found.config["dtype"]}
    return untied_config(whole) if found.config.get(TIES) is False else whole


def _gguf_config(source: Source) -> PreTrainedConfig:
    try:
        return gguf_config(*source.gguf_paths)
    except REFUSED as error:
        raise ModelError(f"'{source.label}' cannot be opened: {reason(error)}") from error


def _open_gguf(source: Source, dtype: torch.dtype | None) -> Checkpoint:
    """Read a GGUF model through transformers, which multiplies codes out in float32, one by one."""
    config = _gguf_config(source)
    with ExitStack() as stack:
        file = _joined(source, stack) if source.parts else source
        model = _from_pretrained(
            file,
            gguf_file=file.gguf,
            config=config,
            dtype=dtype or torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    tokenizer = gguf_tokenizer(source)
    _forget_quantization(model)
    found = as_checkpoint(model, tokenizer, source=source.label)
    return replace(found, files={**found.files, **licence_files(source.folder)})


def _joined(source: Source, stack: ExitStack) -> Source:
    """A GGUF model as one file, which is all that transformers reads, for as long as the stack."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    try:
        join_parts(source.gguf_paths, folder / "model.gguf")
    except REFUSED as error:
        raise ModelError(
            f"the {len(source.parts)} files of '{source.label}' cannot be joined in "
            f"{tempfile.gettempdir()}: {reason(error)}"
        ) from error
    return Source(source.label, folder, "model.gguf")


def _forget_quantization(model: Any) -> None:
    """Let a model that was multiplied out as it was read pass for what it is, a dense one."""
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _from_pretrained(source: Source, **options: Any) -> Any:
    try:
        with quietly():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source.folder,
                use_safetensors=None if "gguf_file" in options else True,
                output_loading_info=True,
                **options,
            )
    except REFUSED as error:
        raise ModelError(f"'{source.label}' cannot be opened: {reason(error)}") from error
    model, info = loaded
    # What transformers does not find, it makes up at random.
    for name in sorted(info["missing_keys"]):
        held = source.gguf or ", ".join(path.name for path in shard_paths(source.folder))
        raise CheckpointError(f"'{source.label}' lacks tensor '{name}' in {held}; fetch it again")
    return model


def _refuse_code(config: Mapping[str, Any], source: Source) -> None:
    """Refuse a model that only its own code can build; transformers' own class needs no trust."""
    if "auto_map" in config and config["model_type"] not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"'{source.label}' brings Python of its own (auto_map in config.json), which is not "
            f"run unless you say so: pass trust_remote_code=True if you trust it"
        )


def _adapter(source: Source, *, keep: bool) -> dict[str, bytes]:
    """A correction of codes, which goes with the codes alone; a warning where it stays behind."""
    found = {name: source.folder / name for name in ADAPTER_FILES}
    if not all(path.is_file() for path in found.values()):
        return {}
    if not keep:
        warnings.warn(
            f"'{source.label}' has an adapter beside its weights, which is not read; "
            f"load(dequantize=False) keeps it with the codes it corrects",
            stacklevel=2,
        )
        return {}
    return {name: path.read_bytes() for name, path in found.items()}


def _without(left_out: Iterable[LeftOut], kept: Collection[str]) -> tuple[LeftOut, ...]:
    """What is left out but for folders of which files are kept after all."""
    folders = {f"{name.partition('/')[0]}/" for name in kept}
    return tuple(each for each in left_out if each.name not in folders)


def _as_dtype(checkpoint: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    refs = {name: _converted(ref, dtype) for name, ref in checkpoint.refs.items()}
    config = {**checkpoint.config, "dtype": str(dtype).removeprefix("torch.")}
    return replace(checkpoint, refs=refs, config=config)


def _converted(ref: TensorRef, dtype: torch.dtype) -> TensorRef:
    """A floating-point tensor in another dtype, converted when it loads unless it is in memory."""
    if not (ref.dtype.is_floating_point and dtype.is_floating_point) or ref.dtype == dtype:
        return ref
    return InMemory(ref.load().to(dtype)) if isinstance(ref, InMemory) else Converted(ref, dtype)
