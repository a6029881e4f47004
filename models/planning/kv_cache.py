"""The memory of the KV cache at a context length, from the config of the model."""

from __future__ import annotations

from typing import Any

from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from ...checkpoints import Checkpoint
from ...errors import SettingError
from ..blocks.empty_model import text_config

# Keys of configs whose layers do not all keep heads × length of head for keys and for values.
_UNLIKE = ("kv_lora_rank", "global_head_dim", "multi_query")


def kv_cache_bytes(checkpoint: Checkpoint, context: int, value_bytes: int) -> int:
    """Bytes of the cache of one sequence of ``context`` tokens.

    The sum over layers of 2 × key/value heads × length of a head × tokens × ``value_bytes``. A
    layer with a sliding window keeps at most as many tokens as its window.

    Raises:
        SettingError: the config has layers of which this is not true, such as linear attention.
    """
    config = text_config(checkpoint)
    unlike = [name for name in _UNLIKE if getattr(config, name, None)]
    if unlike:
        raise _unknown(checkpoint, f"{unlike[0]} in its config")
    queries = getattr(config, "num_attention_heads", None)
    if not queries:
        raise _unknown(checkpoint, "no attention heads in its config")
    heads = int(getattr(config, "num_key_value_heads", None) or queries)
    length = int(getattr(config, "head_dim", None) or config.hidden_size // queries)
    layers = DynamicCache(config=config).layers
    tokens = sum(_tokens(checkpoint, layer, context) for layer in layers)
    return 2 * heads * length * tokens * value_bytes


def _tokens(checkpoint: Checkpoint, layer: Any, context: int) -> int:
    if type(layer) is DynamicLayer:
        return context
    if type(layer) is DynamicSlidingWindowLayer:
        return min(context, int(layer.sliding_window))
    raise _unknown(checkpoint, f"layers that cache as {type(layer).__name__}")


def _unknown(checkpoint: Checkpoint, why: str) -> SettingError:
    return SettingError(
        f"the KV cache of '{checkpoint.source}' is not known, because it has {why}; give a budget "
        f"of bytes for the weights alone"
    )
