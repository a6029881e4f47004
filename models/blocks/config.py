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
    """Whether the checkpoint carries Python of its own, which it does only if the user said so."""
    return any(name.endswith(".py") for name in checkpoint.top_files)


@contextmanager
def read_config_object(checkpoint: Checkpoint, trust: bool) -> Iterator[Any]:
    """The config as transformers' object; code the checkpoint carries lies at hand meanwhile."""
    _require_depth_in(checkpoint.config)
    plain = {k: v for k, v in checkpoint.config.items() if k != "quantization_config"}
    if not trust:
        kind = str(plain.get("model_type"))
        if kind not in CONFIG_MAPPING:
            raise ValueError("transformers does not know it")
        # As config.json is read: infinity and NaN are written as words.
        yield CONFIG_MAPPING[kind].from_dict(PreTrainedConfig._decode_special_floats(plain))
        return
    with tempfile.TemporaryDirectory() as parent:
        # transformers keeps imported code by the folder's name and content: one name, one copy.
        folder = Path(parent) / "checkpoint"
        folder.mkdir()
        for name, data in checkpoint.top_files.items():
            (folder / name).write_bytes(data)
        (folder / "config.json").write_text(json.dumps(plain), encoding="utf-8")
        yield AutoConfig.from_pretrained(folder, trust_remote_code=True)


def check_depth(checkpoint: Checkpoint, count_tensors: Callable[[], int]) -> None:
    """Refuse a config that asks for more layers than its files hold tensors.

    Raises:
        ModelError: it does, or transformers refuses it.
    """
    try:
        with read_config_object(checkpoint, has_code(checkpoint)) as config:
            require_depth(config, count_tensors())
    except REFUSED as error:
        raise unbuildable(checkpoint, error) from error


def require_depth(config: Any, num_tensors: int) -> None:
    """See that there are as many tensors as layers, before a module is made for each layer.

    Raises:
        ValueError: there are not, and the modules could take all memory.
    """
    layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", 0)
    if layers > num_tensors:
        raise ValueError(f"it asks for {layers} layers of a model of {num_tensors} tensors")


def _require_depth_in(written: Mapping[str, Any]) -> None:
    """See that a config, as it is written, asks for no more layers than a model may have.

    Raises:
        ValueError: it does; transformers makes a list as long when it reads some of them.
    """
    for part in (written, *(value for value in written.values() if isinstance(value, dict))):
        for name in _DEPTHS:
            if isinstance(layers := part.get(name), int) and layers > _MOST_LAYERS:
                raise ValueError(f"it asks for {layers} layers, more than any model has")


def context_length(checkpoint: Checkpoint) -> int | None:
    """How many tokens the model's config says it takes; None where it does not say.

    Raises:
        ModelError: transformers refuses the config.
    """
    try:
        with read_config_object(checkpoint, has_code(checkpoint)) as config:
            said = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    except REFUSED as error:
        raise unbuildable(checkpoint, error) from error
    return said if isinstance(said, int) and said > 0 else None


def unbuildable(checkpoint: Checkpoint, error: BaseException) -> ModelError:
    """What is raised where transformers makes no causal language model of a config."""
    kind = checkpoint.config.get("model_type")
    why = reason(error)
    if why.startswith(_OF_ANOTHER_KIND):  # followed by the name of every class it knows
        why = _another_kind(checkpoint)
    return ModelError(f"no model can be built from the config of type '{kind}': {why}")


def _another_kind(checkpoint: Checkpoint) -> str:
    """What to do with a model that is not a causal language model, or wraps one."""
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
