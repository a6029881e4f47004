"""The scaling of rotary frequencies in a GGUF header, as ``rope_parameters`` of transformers.

llama.cpp has two forms of it: keys (linear, YaRN), and tensors with one factor per frequency (the
rule of Llama 3, LongRoPE). transformers 5.23 reads neither from GGUF.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .gguf_head import read_floats
from .gguf_keys import Keys

LLAMA3_FACTORS = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = (LLAMA3_FACTORS, LONG_FACTORS, SHORT_FACTORS)
"""Tensors whose values go into the config."""

_LOW, _HIGH = 1.0, 4.0  # low_freq_factor and high_freq_factor of every Llama 3
_EXACT = 1e-5  # of a factor stored as float32
_YARN = ("yarn_beta_fast", "yarn_beta_slow")
_SCALING = "rope.scaling."
_COMMON = ("factor", "finetuned", "original_context_length", "type")


def read_rope(config: Any, keys: Keys, paths: Sequence[Path]) -> None:
    """Set the scaling, the rotated fraction of a head and the base of sliding layers.

    Args:
        config: changed in place; its length of heads is already right.
        paths: all files of the model, in order.

    Raises:
        ValueError: a scaling that transformers has no equal of.
    """
    stated = getattr(config, "rope_parameters", None)
    if not isinstance(stated, dict):
        if _names_scaling(keys):
            raise ValueError(f"type '{config.model_type}' has no rotary scaling, its header has")
        return
    full = dict(stated.get("full_attention") or stated)
    full |= _rotated(config, keys, full) | _scaling(config, keys, paths, full)
    if "full_attention" not in stated:
        config.rope_parameters = full
        return
    sliding = dict(stated.get("sliding_attention") or {})
    if (base := keys.number("rope.freq_base_swa")) is not None:
        sliding["rope_theta"] = base
    config.rope_parameters = {**stated, "full_attention": full, "sliding_attention": sliding}


def _names_scaling(keys: Keys) -> bool:
    factor = keys.number(f"{_SCALING}factor") or keys.number("rope.scale_linear")
    return factor not in (None, 0, 1) or bool(set(ROPE_TENSORS) & set(keys.tensors))


def _rotated(config: Any, keys: Keys, rope: Mapping[str, Any]) -> dict[str, float]:
    """The fraction of a head that is rotated, for the classes that have one."""
    size, count = _head_size(config), keys.integer("rope.dimension_count")
    if count is None or hasattr(config, "rotary_dim"):  # which transformers reads itself
        return {}
    if "partial_rotary_factor" in rope:
        return {"partial_rotary_factor": count / size}
    if count != size:
        raise ValueError(
            f"{count} of {size} numbers of a head are rotated, and models of type "
            f"'{config.model_type}' rotate all"
        )
    return {}


def _scaling(
    config: Any, keys: Keys, paths: Sequence[Path], rope: Mapping[str, Any]
) -> dict[str, Any]:
    if LLAMA3_FACTORS in keys.tensors:
        return _llama3(read_floats(paths, LLAMA3_FACTORS), float(rope["rope_theta"]))
    if LONG_FACTORS in keys.tensors or SHORT_FACTORS in keys.tensors:
        return _longrope(config, keys, paths)
    return _by_keys(config, keys)


def _by_keys(config: Any, keys: Keys) -> dict[str, Any]:
    """Linear scaling, which a factor without a type means, or YaRN."""
    factor = keys.number(f"{_SCALING}factor") or keys.number("rope.scale_linear")
    kind = keys.own.get(f"{_SCALING}type", "linear")
    if kind == "none" or factor in (None, 0, 1):
        return {}
    allowed = {*_COMMON, *(_YARN if kind == "yarn" else ())}
    others = [
        name
        for name in sorted(keys.own)
        if name.startswith(_SCALING)
        and name.removeprefix(_SCALING) not in allowed
        and keys.own[name] != 1
    ]
    if kind not in ("linear", "yarn") or others:
        more = f" with {', '.join(others)}" if others else ""
        raise ValueError(f"its rotary scaling '{kind}'{more} is not read")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    betas = {
        name.removeprefix("yarn_"): value
        for name in _YARN
        if (value := keys.number(f"{_SCALING}{name}")) is not None
    }
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": _original_length(config, keys),
        **betas,
    }


def _original_length(config: Any, keys: Keys) -> int:
    stated = keys.integer(f"{_SCALING}original_context_length")
    return stated or int(config.max_position_embeddings)


def _longrope(config: Any, keys: Keys, paths: Sequence[Path]) -> dict[str, Any]:
    original = _original_length(config, keys)
    if hasattr(config, "original_max_position_embeddings"):
        config.original_max_position_embeddings = original
    return {
        "rope_type": "longrope",
        "short_factor": read_floats(paths, SHORT_FACTORS),
        "long_factor": read_floats(paths, LONG_FACTORS),
        "original_max_position_embeddings": original,
        "attention_factor": keys.number(f"{_SCALING}attn_factor") or 1.0,
    }


def _llama3(factors: Sequence[float], base: float) -> dict[str, Any]:
    """The settings that give these factors; the file has only the factors.

    A frequency that turns c times within the original context is divided by ``factor`` for c below
    1, by 1 for c above 4, and by a blend of both between, which tells the original context.
    """
    largest = max(factors)
    if largest == min(factors) == 1:
        return {}
    turns = [base ** (-place / len(factors)) / (2 * math.pi) for place in range(len(factors))]
    original = _original_context(factors, turns, largest)
    expected = [1 / (blend + (1 - blend) / largest) for blend in _blends(turns, original)]
    if any(abs(one - other) > _EXACT * other for one, other in zip(factors, expected, strict=True)):
        raise ValueError(f"the factors in {LLAMA3_FACTORS} do not follow the rule of Llama 3")
    return {
        "rope_type": "llama3",
        "factor": largest,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": original,
    }


def _original_context(factors: Sequence[float], turns: Sequence[float], largest: float) -> int:
    blended = [place for place, factor in enumerate(factors) if 1 < factor < largest]
    if blended:
        place = blended[0]
        blend = (1 / factors[place] - 1 / largest) / (1 - 1 / largest)
        return round((_LOW + blend * (_HIGH - _LOW)) / turns[place])
    kept = [each for each, factor in zip(turns, factors, strict=True) if factor == 1]
    scaled = [each for each, factor in zip(turns, factors, strict=True) if factor == largest]
    least = _HIGH / min(kept) if kept else 1.0
    most = _LOW / max(scaled)
    return round(math.sqrt(least * most))


def _blends(turns: Sequence[float], original: int) -> list[float]:
    found = [(original * each - _LOW) / (_HIGH - _LOW) for each in turns]
    return [min(1.0, max(0.0, blend)) for blend in found]


def _head_size(config: Any) -> int:
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)
