"""Read a checkpoint's config through transformers, and refuse impossible depths.

A config is untrusted input: its layer count is checked before transformers builds anything of that
length.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from ...checkpoints import Checkpoint
from ...errors import ModelError
from .transformers_errors import REFUSED, reason

# Names that architectures use for their number of layers, and a count above any real model's.
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_MOST_LAYERS = 10_000

# How transformers begins to say that it has no causal language model for a config.
_OF_ANOTHER_KIND = "Unrecognized configuration class"


def has_code(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint includes Python code, which only ``trust_remote_code`` allows."""
    return any(name.endswith(".py") for name in checkpoint.top_files)


@contextmanager
def read_config_object(checkpoint: Checkpoint, trust: bool) -> Iterator[Any]:
    """The config as an object of transformers, with the checkpoint's Python code importable."""
    _require_depth_in(checkpoint.config)
    plain = {k: v for k, v in checkpoint.config.items() if k != "quantization_config"}
    if not trust:
        kind = str(plain.get("model_type"))
        if kind not in CONFIG_MAPPING:
            raise ValueError("transformers does not know it")
        # As in config.json: infinity and NaN are written as words.
        yield CONFIG_MAPPING[kind].from_dict(PreTrainedConfig._decode_special_floats(plain))
        return
    with tempfile.TemporaryDirectory() as parent:
        # transformers caches imported code by folder name and content, so the name is fixed.
        folder = Path(parent) / "checkpoint"
        folder.mkdir()
        for name, data in checkpoint.top_files.items():
            (folder / name).write_bytes(data)
        (folder / "config.json").write_text(json.dumps(plain), encoding="utf-8")
        yield AutoConfig.from_pretrained(folder, trust_remote_code=True)


def check_depth(checkpoint: Checkpoint, count_tensors: Callable[[], int]) -> None:
    """Refuse a config with more layers than the checkpoint has tensors.

    Raises:
        ModelError: there are more layers, or transformers cannot read the config.
    """
    try:
        with read_config_object(checkpoint, has_code(checkpoint)) as config:
            require_depth(config, count_tensors())
    except REFUSED as error:
        raise unbuildable(checkpoint, error) from error


def require_depth(config: Any, num_tensors: int) -> None:
    """Check that there are at least as many tensors as layers, before modules are built.

    Raises:
        ValueError: there are fewer, so building the modules could exhaust memory.
    """
    layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", 0)
    if layers > num_tensors:
        raise ValueError(f"it asks for {layers} layers of a model of {num_tensors} tensors")


def _require_depth_in(written: Mapping[str, Any]) -> None:
    """Check that the config does not have more layers than any real model.

    Raises:
        ValueError: it does; transformers builds a list of that length for some models.
    """
    for layers in _depths(written):
        if layers > _MOST_LAYERS:
            raise ValueError(f"it asks for {layers} layers, more than any model has")


def impossible_depth(written: Mapping[str, Any], num_tensors: int) -> str | None:
    """What is wrong with a config that asks for more layers than there are tensors, or None."""
    layers = max(_depths(written), default=0)
    if layers <= num_tensors:
        return None
    return f"config.json asks for {layers} layers of a model of {num_tensors} tensors"


def _depths(written: Mapping[str, Any]) -> Iterator[int]:
    """Every number of layers in a config as it is written, and in the configs of its parts."""
    for part in (written, *(value for value in written.values() if isinstance(value, dict))):
        for name in _DEPTHS:
            if isinstance(layers := part.get(name), int):
                yield layers


def context_length(checkpoint: Checkpoint) -> int | None:
    """Context length of the model, by its config; None if the config does not state it.

    Raises:
        ModelError: transformers cannot read the config.
    """
    try:
        with read_config_object(checkpoint, has_code(checkpoint)) as config:
            limit = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    except REFUSED as error:
        raise unbuildable(checkpoint, error) from error
    return limit if isinstance(limit, int) and limit > 0 else None


def unbuildable(checkpoint: Checkpoint, error: BaseException) -> ModelError:
    """The error for a config of which transformers builds no causal language model."""
    kind = checkpoint.config.get("model_type")
    why = reason(error)
    if why.startswith(_OF_ANOTHER_KIND):  # followed by the name of every class it knows
        why = _another_kind(checkpoint)
    return ModelError(f"no model can be built from the config of type '{kind}': {why}")


def _another_kind(checkpoint: Checkpoint) -> str:
    """The advice for a model that is not a causal language model, or that contains one."""
    named = checkpoint.config.get("architectures") or ["none"]
    text = checkpoint.config.get("text_config")
    kind = text.get("model_type") if isinstance(text, Mapping) else None
    if kind is None:
        return (
            f"transformers has no causal language model of that type (architecture {named[0]}); "
            f"give a model that generates text from left to right"
        )
    return (
        f"{named[0]} is a larger model around a text model of type '{kind}', and transformers does "
        f"not load that part by itself; save its text model as a folder of its own and give that"
    )
