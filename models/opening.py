"""Opening a model as a `Checkpoint`: lazily where its files allow, else through transformers.

What is quantised already is multiplied out to float32 unless its codes are asked for.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, ReaderField
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    modeling_gguf_pytorch_utils,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from ..checkpoints import Checkpoint, Converted, InMemory, TensorRef, open_folder, write_folder
from ..checkpoints.shards import shard_paths
from ..errors import CheckpointError, ModelError, SettingError
from .adapter import ADAPTER_FILES
from .gguf_head import count_tensors, gguf_config, read_head
from .gguf_splitting import split_as
from .quantized_folders import multiplied_out, with_codes
from .refusals import REFUSED, reason, tokenizer_refused
from .skeleton import context_length, empty_model, require_depth
from .sources import Source, read_config
from .unpacking import has_integer_codes

_SMALL_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
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
            and makes a quantised model float32, in which its codes are multiplied out.
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


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """The tokenizer out of a checkpoint's files.

    Raises:
        ModelError: the checkpoint carries none that transformers can read.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, data in checkpoint.top_files.items():
            (Path(folder) / name).write_bytes(data)
        (Path(folder) / "config.json").write_text(json.dumps(dict(checkpoint.config)))
        trust = any(name.endswith(".py") for name in checkpoint.files)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        except BaseException as error:
            if not tokenizer_refused(error):
                raise
            raise ModelError(
                f"'{checkpoint.source}' has no tokenizer that can be read ({reason(error)}); "
                f"put tokenizer.json beside its weights"
            ) from error
    return tokenizer


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


def read_tokenizer(source: Source, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model on disk, without its weights.

    Raises:
        ModelError: it has none that transformers can read.
    """
    if source.gguf is not None:
        return _gguf_tokenizer(source)
    config, files = read_config(source), _small_files(source.folder, code=trust_remote_code)
    return load_tokenizer(Checkpoint(config, {}, files, source=source.label))


def positions_of(source: Source, *, trust_remote_code: bool = False) -> int | None:
    """How many tokens a model on disk takes, by its config; None where that does not say.

    Raises:
        ModelError: its config cannot be read.
    """
    if source.gguf is not None:
        config = json.loads(_gguf_config(source).to_json_string(use_diff=False))
        return context_length(Checkpoint(config, {}, source=source.label))
    files = _small_files(source.folder, code=trust_remote_code)
    return context_length(Checkpoint(read_config(source), {}, files, source=source.label))


def as_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, *, source: str = ""
) -> Checkpoint:
    """A transformers model in memory as a checkpoint; the tensors are shared, not copied.

    Tied parameters are kept once, under the name transformers saves them by.
    """
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    refs: dict[str, TensorRef] = {
        name: InMemory(tensor) for name, tensor in model.state_dict().items() if name not in tied
    }
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        if model.generation_config is not None:
            # Not save_pretrained, which refuses settings that many published models have.
            model.generation_config.to_json_file(Path(folder) / "generation_config.json")
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        files = _small_files(Path(folder), code=False)
    config["architectures"] = [type(model).__name__]
    config["dtype"] = str(model.dtype).removeprefix("torch.")
    return Checkpoint(config, refs, files, source=source)


def _open_folder(source: Source, trust_remote_code: bool, dequantize: bool) -> Checkpoint:
    config = read_config(source)
    if not trust_remote_code:
        _refuse_code(config, source)
        config.pop("auto_map", None)
    if "torch_dtype" in config:  # as versions 4 of transformers wrote it
        config.setdefault("dtype", config.pop("torch_dtype"))
    files = _small_files(source.folder, code=trust_remote_code)
    files |= _adapter(source, keep=not dequantize)
    quantization = config.pop("quantization_config", None)
    opened = Checkpoint(config, open_folder(source.folder), files, source=source.label)
    if not quantization:
        return _as_named(opened) or _through_transformers(source, files, trust_remote_code)
    return _open_quantized(opened, quantization, source, trust_remote_code, dequantize)


def _as_named(opened: Checkpoint) -> Checkpoint | None:
    """The tensors the model has, in its order, tied ones once; None where names differ."""
    skeleton = empty_model(opened)
    tied = getattr(skeleton, "all_tied_weights_keys", None) or {}
    wanted = [name for name in skeleton.state_dict() if name not in tied]
    if not opened.refs.keys() >= set(wanted):
        return None
    return replace(opened, refs={name: opened.refs[name] for name in wanted})


def _open_quantized(
    opened: Checkpoint, quantization: object, source: Source, trust: bool, dequantize: bool
) -> Checkpoint:
    """A folder somebody quantised, its weights in float32 or, if so asked, its codes."""
    values = multiplied_out(opened.refs, quantization, source.label)
    if values is None:
        found = _dequantized_by_transformers(source, opened.files, trust)
    else:
        dense = replace(opened, refs=values)
        found = _as_named(dense) or _written_dense(dense, source, trust)
    return _as_dtype(found, torch.float32) if dequantize else with_codes(found, source.label)


def _dequantized_by_transformers(
    source: Source, files: Mapping[str, bytes], trust: bool
) -> Checkpoint:
    """Formats of compressed-tensors that are not integer codes, such as float8."""
    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=trust)
    except REFUSED as error:
        raise ModelError(f"'{source.label}' cannot be opened: {reason(error)}") from error
    config.quantization_config = {**config.quantization_config, "dequantize": True}
    return _through_transformers(source, files, trust, config=config, dtype=torch.float32)


def _written_dense(dense: Checkpoint, source: Source, trust: bool) -> Checkpoint:
    """Let transformers translate names and shapes, by way of a dense folder written aside."""
    sizes = {name: ref.num_bytes for name, ref in dense.refs.items()}
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        write_folder(folder, dense.tensors, sizes, max_bytes=_ASIDE_SHARD_BYTES)
        for name, data in dense.top_files.items():
            (folder / name).write_bytes(data)
        config = {**dense.config, "dtype": "float32"}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return _through_transformers(replace(source, folder=folder), dense.files, trust)


def _through_transformers(
    source: Source, files: Mapping[str, bytes], trust: bool, **options: Any
) -> Checkpoint:
    """Load weights whose names transformers translates, such as experts stored one by one."""
    model = _from_pretrained(source, trust_remote_code=trust, **options)
    _forget_quantization(model)
    opened = as_checkpoint(model, source=source.label)
    return replace(opened, files={**opened.files, **files})


def _gguf_config(source: Source) -> PreTrainedConfig:
    try:
        config = gguf_config(source.folder / str(source.gguf))
        require_depth(config, count_tensors(source.folder / str(source.gguf)))
    except REFUSED as error:
        raise ModelError(f"'{source.label}' cannot be opened: {reason(error)}") from error
    return config


def _open_gguf(source: Source, dtype: torch.dtype | None) -> Checkpoint:
    """Read a GGUF file through transformers, which multiplies codes out in float32, one by one."""
    config = _gguf_config(source)
    model = _from_pretrained(
        source,
        gguf_file=source.gguf,
        config=config,
        dtype=dtype or torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = _gguf_tokenizer(source)
    _forget_quantization(model)
    return as_checkpoint(model, tokenizer, source=source.label)


def _forget_quantization(model: Any) -> None:
    """Let a model that was multiplied out as it was read pass for what it is, a dense one."""
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _from_pretrained(source: Source, **options: Any) -> Any:
    try:
        with _quietly():
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


def _gguf_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    try:
        with _quietly():
            tokenizer = AutoTokenizer.from_pretrained(source.folder, gguf_file=source.gguf)
        return _as_the_file_says(tokenizer, source)
    except BaseException as error:
        if not tokenizer_refused(error):
            raise
        raise ModelError(
            f"the tokenizer in '{source.label}' cannot be read: {reason(error)}; "
            f"fetch the file again"
        ) from error


def _as_the_file_says(
    tokenizer: PreTrainedTokenizerBase, source: Source
) -> PreTrainedTokenizerBase:
    """Mend what transformers makes of byte-level BPE: tokens it adds, text split as GPT-2 does."""
    fields, num_tokens = _fields(source.folder / str(source.gguf))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or fields["tokenizer.ggml.model"].contents() != "gpt2":
        return tokenizer
    if backend.get_vocab_size() > num_tokens:
        tokenizer = _without_ids_from(num_tokens, tokenizer)
    rule = fields.get("tokenizer.ggml.pre")
    if rule is not None and not split_as(tokenizer.backend_tokenizer, str(rule.contents())):
        warnings.warn(
            f"'{source.label}' splits text by a rule called '{rule.contents()}', which is not "
            f"known here: transformers may make other tokens of it than the model was made with",
            stacklevel=2,
        )
    return tokenizer


def _fields(path: Path) -> tuple[Mapping[str, ReaderField], int]:
    """What a GGUF file says of itself, long lists cut short, and how many tokens it lists."""
    head = read_head(path)
    if head is None or head.num_tokens is None:
        fields = GGUFReader(path).fields
        return fields, len(fields["tokenizer.ggml.tokens"].data)
    with head.as_file() as short:
        return GGUFReader(short).fields, head.num_tokens


def _without_ids_from(first: int, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """The same without added tokens that the model has no row for."""
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


def _refuse_code(config: Mapping[str, Any], source: Source) -> None:
    """Refuse a model that only its own code can build; transformers' own class needs no trust."""
    if "auto_map" in config and config["model_type"] not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"'{source.label}' brings Python of its own (auto_map in config.json), which is not "
            f"run unless you say so: pass trust_remote_code=True if you trust it"
        )


def _small_files(folder: Path, *, code: bool) -> dict[str, bytes]:
    names = [name for name in _SMALL_FILES if (folder / name).is_file()]
    if code:
        names += [path.name for path in folder.glob("*.py")]
    return {name: (folder / name).read_bytes() for name in sorted(names)}


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


def _as_dtype(checkpoint: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    refs: dict[str, TensorRef] = {}
    for name, ref in checkpoint.refs.items():
        if not ref.dtype.is_floating_point or ref.dtype == dtype:
            refs[name] = ref
        elif isinstance(ref, InMemory):
            refs[name] = InMemory(ref.load().to(dtype))
        else:
            refs[name] = Converted(ref, dtype)
    config = {**checkpoint.config, "dtype": str(dtype).removeprefix("torch.")}
    return replace(checkpoint, refs=refs, config=config)


@contextmanager
def _quietly() -> Iterator[None]:
    """No progress bars from transformers: ours are drawn by middleware, or not at all."""
    shown = transformers_logging.is_progress_bar_enabled()
    gguf: Any = modeling_gguf_pytorch_utils
    gguf_bar = gguf.tqdm
    transformers_logging.disable_progress_bar()
    # The bar of a GGUF file heeds no setting of its own.
    gguf.tqdm = transformers_logging.tqdm
    try:
        yield
    finally:
        gguf.tqdm = gguf_bar
        if shown:
            transformers_logging.enable_progress_bar()
