"""Load weights that transformers renames or converts, such as experts stored one by one.

transformers loads from a temporary folder that links only the chosen files. In the original folder
it would apply an adapter found there, or prefer another weight file.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ...checkpoints import Checkpoint, write_folder
from ...checkpoints.safetensors_layout import StoredTensor
from ...checkpoints.shards import INDEX, SINGLE, shard_paths
from ...errors import CheckpointError, ModelError
from ..blocks.progress_bars import quietly
from ..blocks.transformers_errors import REFUSED, reason
from .in_memory import as_checkpoint
from .sources import WEIGHTS_KEY, Source
from .stored_dtypes import widest_dtype
from .tied_weights import TIES, untied_config

_SHARD_BYTES = 2 << 30


def load_renamed(source: Source, opened: Checkpoint, trust: bool) -> Checkpoint:
    """The model of a dense folder, in the widest of its stored dtypes.

    Args:
        opened: the tensors by their names in the folder, and the other files.
        trust: allow Python code in the folder to run.

    Raises:
        ModelError: transformers cannot load the folder.
        CheckpointError: tensors are missing.
    """
    with _view(source, opened) as folder:
        return _loaded(source, folder, opened, trust, dtype=widest_dtype(opened.refs))


def load_dequantised(source: Source, opened: Checkpoint, trust: bool) -> Checkpoint:
    """The model of a quantised folder that only transformers reads, in float32.

    Raises:
        ModelError, CheckpointError: as `load_renamed`.
    """
    with _view(source, opened) as folder:
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        except REFUSED as error:
            raise ModelError(f"'{source.label}' cannot be opened: {reason(error)}") from error
        config.quantization_config = {**config.quantization_config, "dequantize": True}
        return _loaded(source, folder, opened, trust, config=config, dtype=torch.float32)


def load_written_dense(source: Source, dense: Checkpoint, trust: bool) -> Checkpoint:
    """The model of dequantised weights, loaded from a temporary dense folder.

    Raises:
        ModelError, CheckpointError: as `load_renamed`.
    """
    outline = {name: StoredTensor.of(ref) for name, ref in dense.refs.items()}
    with tempfile.TemporaryDirectory() as aside:
        folder = _with_description(Path(aside), {**dense.config, "dtype": "float32"}, dense)
        write_folder(folder, dense.tensors, outline, max_bytes=_SHARD_BYTES)
        return _loaded(source, folder, dense, trust, dtype=torch.float32)


@contextmanager
def _view(source: Source, opened: Checkpoint) -> Iterator[Path]:
    """Make a folder with links to the weight files, the config and the code."""
    config = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    for key in ("auto_map", WEIGHTS_KEY):
        if key not in opened.config:
            config.pop(key, None)
    with tempfile.TemporaryDirectory() as aside:
        folder = _with_description(Path(aside), config, opened)
        shards = shard_paths(source.folder)
        for path in shards:
            (folder / path.name).symlink_to(path)
        if shards[0].name != SINGLE:
            (folder / INDEX).symlink_to(source.folder / INDEX)
        yield folder


def _with_description(aside: Path, config: Mapping[str, Any], opened: Checkpoint) -> Path:
    """Make a folder without weights; transformers caches code by folder name, so it is fixed."""
    folder = aside / "checkpoint"
    folder.mkdir()
    for name, data in opened.top_files.items():
        (folder / name).write_bytes(data)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _loaded(
    source: Source, folder: Path, opened: Checkpoint, trust: bool, **options: Any
) -> Checkpoint:
    model = from_pretrained(source, folder, trust_remote_code=trust, **options)
    forget_quantization(model)
    found = as_checkpoint(model, source=source.label)
    return replace(
        found,
        config=_whole_config(found, opened),
        files={**found.files, **opened.files},
        left_out=opened.left_out,
    )


def _whole_config(found: Checkpoint, opened: Checkpoint) -> Mapping[str, Any]:
    """The config of the folder, corrected if it ties a head that differs from the embedding.

    transformers would write the config of the class, which may cover only the text part.
    """
    config = {**opened.config, "dtype": found.config["dtype"]}
    return untied_config(config) if found.config.get(TIES) is False else config


def from_pretrained(source: Source, folder: Path, **options: Any) -> Any:
    """The transformers model in a folder.

    Args:
        source: the label and the location of its files.

    Raises:
        ModelError: transformers cannot load it.
        CheckpointError: tensors are missing, which transformers would initialise at random.
    """
    try:
        with quietly():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                use_safetensors=None if "gguf_file" in options else True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below
                **options,
            )
    except REFUSED as error:
        raise ModelError(f"'{source.label}' cannot be opened: {reason(error)}") from error
    model, info = loaded
    for name, found, asked in sorted(info["mismatched_keys"]):
        raise CheckpointError(
            f"'{source.label}' holds '{name}' in shape {tuple(found)}, but its config asks for "
            f"{tuple(asked)}; transformers cannot read this model"
        )
    for name in sorted(info["missing_keys"]):
        held = source.gguf or ", ".join(path.name for path in shard_paths(source.folder))
        raise CheckpointError(f"'{source.label}' lacks tensor '{name}' in {held}; {_fix(model)}")
    return model


def _fix(model: Any) -> str:
    """What to do about missing tensors: the folder may be that of a class without a head."""
    named, built = (model.config.architectures or [None])[0], type(model).__name__
    if named in (None, built):
        return "fetch it again"
    return f"it was saved as {named}, and {built} has more parameters: give a model with a head"


def forget_quantization(model: Any) -> None:
    """Remove the marks of quantisation from a model that was dequantised while loading."""
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
