"""Rotary scaling in a header as settings of transformers: what is written comes back."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from birdbone.formats.gguf_rope import rope_tensors
from birdbone.models.codecs.gguf_keys import Keys
from birdbone.models.codecs.gguf_rope_scaling import (
    LLAMA3_FACTORS,
    LONG_FACTORS,
    SHORT_FACTORS,
    read_rope,
)

BASE = {"rope_type": "default", "rope_theta": 10000.0}


def config(**more: Any) -> Any:
    """What `read_rope` looks at: heads of 16, a context of 128."""
    values = {
        "model_type": "llama",
        "rope_parameters": dict(BASE),
        "head_dim": 16,
        "max_position_embeddings": 128,
    }
    return SimpleNamespace(**{**values, **more})


def read(own: Mapping[str, Any], made: Any = None, path: Path | None = None, *names: str) -> Any:
    """The rotary settings after reading these keys, and tensors of these names in the file."""
    made = config() if made is None else made
    read_rope(made, Keys("llama", own, names), [] if path is None else [path])
    return made.rope_parameters


def written(path: Path, tensors: Mapping[str, Any]) -> Path:
    writer = GGUFWriter(path, "llama")
    for name, values in tensors.items():
        writer.add_tensor(name, np.asarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_no_keys_change_nothing() -> None:
    assert read({}) == BASE


@pytest.mark.parametrize(
    "own",
    [
        {"rope.scaling.type": "none", "rope.scaling.factor": 4.0},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 1.0},
        {"rope.scaling.factor": 0.0},
        {"rope.scale_linear": 1.0},
        {"rope.scaling.type": "yarn"},
    ],
)
def test_a_factor_of_one_or_none_scales_nothing(own: dict[str, Any]) -> None:
    assert read(own) == BASE


@pytest.mark.parametrize(
    "own",
    [
        {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0},
        {"rope.scaling.factor": 2.0, "rope.scaling.finetuned": True},
        {"rope.scale_linear": 2.0},
    ],
)
def test_a_factor_without_a_type_is_linear(own: dict[str, Any]) -> None:
    assert read(own) == {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}


def test_yarn_has_its_context_and_betas() -> None:
    own = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
    assert read(own) == {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
    }
    more = {
        "rope.scaling.original_context_length": 32,
        "rope.scaling.yarn_beta_fast": 16.0,
        "rope.scaling.yarn_beta_slow": 2.0,
    }
    found = read({**own, **more})
    assert found["original_max_position_embeddings"] == 32
    assert (found["beta_fast"], found["beta_slow"]) == (16.0, 2.0)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"rope.scaling.type": "su"}, r"^its rotary scaling 'su' is not read$"),
        (
            {"rope.scaling.attn_factor": 1.5},
            r"^its rotary scaling 'linear' with rope\.scaling\.attn_factor is not read$",
        ),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.yarn_log_multiplier": 0.1},
            r"'yarn' with rope\.scaling\.yarn_log_multiplier is not read$",
        ),
        ({"rope.scaling.factor": "many"}, r"^llama\.rope\.scaling\.factor is no number$"),
    ],
)
def test_scaling_without_an_equal_is_refused(own: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read({"rope.scaling.factor": 2.0, **own})


def test_a_key_that_multiplies_by_one_is_no_scaling() -> None:
    own = {"rope.scaling.factor": 2.0, "rope.scaling.attn_factor": 1.0}
    assert read(own)["rope_type"] == "linear"


def test_a_part_of_each_head_is_rotated() -> None:
    partly = config(rope_parameters={**BASE, "partial_rotary_factor": 1.0})
    assert read({"rope.dimension_count": 4}, partly)["partial_rotary_factor"] == 0.25
    assert read({"rope.dimension_count": 16}) == BASE
    said = r"^4 of 16 numbers of a head are rotated, and models of type 'llama' rotate all$"
    with pytest.raises(ValueError, match=said):
        read({"rope.dimension_count": 4})
    own_way = config(rotary_dim=4)  # such as GPT-J, whose size transformers reads itself
    assert read({"rope.dimension_count": 4}, own_way) == BASE


def test_the_length_of_heads_follows_from_the_width() -> None:
    derived = config(head_dim=None, hidden_size=64, num_attention_heads=8)
    assert read({"rope.dimension_count": 8}, derived) == BASE


def test_sliding_layers_have_a_base_of_their_own() -> None:
    stated = {"full_attention": dict(BASE), "sliding_attention": dict(BASE)}
    own = {"rope.freq_base_swa": 500.0, "rope.scale_linear": 8.0}
    assert read(own, config(rope_parameters=stated)) == {
        "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    }
    assert stated["full_attention"] == BASE  # the caller's mapping is not changed


@pytest.mark.parametrize("factor", [1.0, 0.0, None])
def test_a_model_without_rotary_settings_takes_no_scaling(factor: float | None) -> None:
    own = {} if factor is None else {"rope.scaling.factor": factor}
    assert read(own, config(rope_parameters=None)) is None
    said = r"^type 'llama' has no rotary scaling, its header has$"
    with pytest.raises(ValueError, match=said):
        read({"rope.scaling.factor": 2.0}, config(rope_parameters=None))
    with pytest.raises(ValueError, match=said):
        read({}, config(rope_parameters=None), None, LONG_FACTORS)


def test_longrope_has_both_lists_of_factors(tmp_path: Path) -> None:
    long, short = [1.0, 2.0, 4.0], [1.0, 1.5, 2.0]
    path = written(tmp_path / "x.gguf", {LONG_FACTORS: long, SHORT_FACTORS: short})
    own = {"rope.scaling.original_context_length": 64, "rope.scaling.attn_factor": 1.25}
    made = config(original_max_position_embeddings=1)
    assert read(own, made, path, LONG_FACTORS, SHORT_FACTORS) == {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "long_factor": long,
        "short_factor": short,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.25,
    }
    assert made.original_max_position_embeddings == 64


def test_one_list_alone_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.gguf", {LONG_FACTORS: [1.0, 2.0]})
    with pytest.raises(ValueError, match=f"^it has no tensor {SHORT_FACTORS}$"):
        read({}, None, path, LONG_FACTORS)


def llama3(factor: float, original: int, base: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "rope_theta": base,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }


def factors_of(rope: Mapping[str, Any], size: int) -> list[float]:
    made = LlamaConfig(
        hidden_size=size,
        num_attention_heads=1,
        max_position_embeddings=1 << 20,
        rope_parameters=dict(rope),
    )
    (found,) = rope_tensors(made).values()
    return [float(value) for value in found]


@given(
    st.sampled_from([2.0, 8.0, 32.0]),
    st.sampled_from([512, 4096, 8192, 131072]),
    st.sampled_from([10000.0, 500000.0]),
    st.sampled_from([8, 64, 128]),
)
@settings(max_examples=40)
def test_llama_3_factors_tell_the_settings_they_came_from(
    tmp_path_factory: pytest.TempPathFactory, factor: float, original: int, base: float, size: int
) -> None:
    """Or others that give the same factors, where no frequency lies in the blend."""
    rope = llama3(factor, original, base)
    factors = factors_of(rope, size)
    assume(max(factors) in (1.0, factor))  # some frequency is scaled by the whole factor
    path = written(tmp_path_factory.mktemp("rope") / "x.gguf", {LLAMA3_FACTORS: factors})
    made = config(rope_parameters={**BASE, "rope_theta": base}, head_dim=size)
    found = read({}, made, path, LLAMA3_FACTORS)
    if any(1 < each < factor for each in factors):
        assert found["original_max_position_embeddings"] == pytest.approx(original, rel=1e-4)
    if max(factors) > 1:
        assert (found["rope_type"], found["factor"]) == ("llama3", pytest.approx(factor))
        np.testing.assert_allclose(factors_of(found, size), factors, rtol=1e-4)


def test_factors_of_one_scale_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "x.gguf", {LLAMA3_FACTORS: [1.0] * 8})
    assert read({}, None, path, LLAMA3_FACTORS) == BASE


@pytest.mark.parametrize("factors", [[1.0, 8.0, 2.0, 8.0], [2.0, 1.0, 1.0, 1.0], [3.0, 2.0]])
def test_factors_of_another_rule_are_refused(factors: list[float], tmp_path: Path) -> None:
    path = written(tmp_path / "x.gguf", {LLAMA3_FACTORS: factors})
    said = rf"^the factors in {LLAMA3_FACTORS} do not follow the rule of Llama 3$"
    with pytest.raises(ValueError, match=said):
        read({}, None, path, LLAMA3_FACTORS)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_factors_that_are_no_positive_numbers_are_refused(value: float, tmp_path: Path) -> None:
    path = written(tmp_path / "x.gguf", {LLAMA3_FACTORS: [1.0, value]})
    assert struct.pack("<f", value) in path.read_bytes()
    with pytest.raises(ValueError, match="holds values that are no positive numbers"):
        read({}, None, path, LLAMA3_FACTORS)
