"""Config keys of the sizes that structured removal can shrink.

This file holds everything that depends on the names of config keys. Which tensors a size affects is
found by building the empty model at both sizes (see `narrowing`). A key that is absent, or that the
model ignores, changes no tensor, and the model is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from transformers import CONFIG_MAPPING

from ...checkpoints import Checkpoint

UnitKind = Literal["neurons", "groups", "experts"]

# In the order they are tried; the first that shrinks a tensor of every block is used.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_NEURONS = ("moe_intermediate_size", "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")


def counts(kind: UnitKind, config: Any) -> Iterator[tuple[str, int]]:
    """Keys of the text config that may set the number of units of a kind, with their values."""
    hidden = int(config.hidden_size)
    if kind == "neurons":
        for key in _NEURONS:
            if hasattr(config, key):
                value = getattr(config, key)
                count = 4 * hidden if value is None else value
                if isinstance(count, int):
                    yield key, count
    elif kind == "experts":
        for key in _EXPERTS:
            if isinstance(getattr(config, key, None), int):
                yield key, int(getattr(config, key))
    else:
        heads = int(config.num_attention_heads)
        yield "num_key_value_heads", int(getattr(config, "num_key_value_heads", None) or heads)


def settings(kind: UnitKind, key: str, config: Any, count: int) -> dict[str, int]:
    """The keys of the text config, with values, that set the number of units to ``count``.

    A key/value group keeps its number of query heads and their width. Many configs derive the width
    from ``hidden_size / num_attention_heads``, so ``head_dim`` is set too.
    """
    if kind != "groups":
        return {_own(config, key): count}
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, key, None) or heads)
    width = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    return {
        _own(config, key): count,
        _own(config, "num_attention_heads"): count * heads // groups,
        "head_dim": int(width),
    }


def fewest(kind: UnitKind, config: Any) -> int:
    """Smallest number of units of a block; for experts, the number each token is routed to."""
    return int(getattr(config, "num_experts_per_tok", None) or 1) if kind == "experts" else 1


def layer_settings(config: Any, kept: Sequence[int]) -> dict[str, Any]:
    """The keys of the text config, with values, for a model of the blocks ``kept``.

    A list with one entry per layer keeps the entries of these layers. It is written explicitly even
    if the original file left it to be derived from the layer indices.
    """
    count = int(config.num_hidden_layers)
    changes: dict[str, Any] = {_own(config, "num_hidden_layers"): len(kept)}
    for key, value in config.to_dict().items():
        if "layer" in key and isinstance(value, list) and len(value) == count:
            changes[key] = [value[index] for index in kept]
    return changes


def with_settings(checkpoint: Checkpoint, whole: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Top-level config keys that apply ``changes`` to the text config.

    ``whole`` is the config of the checkpoint's model as transformers reads it.
    """
    text = whole.get_text_config(decoder=True)
    kind = str(checkpoint.config.get("model_type"))
    parts = dict(getattr(whole, "sub_configs", {}))
    if kind in CONFIG_MAPPING:  # of a larger model, where the class is of its text part alone
        parts = {**CONFIG_MAPPING[kind].sub_configs, **parts}
    for name, part in parts.items():
        is_text = getattr(whole, name, None) is text or (whole is text and type(text) is part)
        if is_text and name in checkpoint.config:
            return {name: {**checkpoint.config[name], **changes}}
    return dict(changes)


def _own(config: Any, key: str) -> str:
    """The name of a key in this config's file."""
    return str(getattr(config, "attribute_map", {}).get(key, key))
