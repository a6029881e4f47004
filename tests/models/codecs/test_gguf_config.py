"""The config of a GGUF model is that of the model it was written from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGUFWriter, RopeScalingType
from tiny_gguf import VARIANTS, gguf_checkpoint
from transformers import LlamaConfig

from birdbone.formats.gguf_writer import write_gguf
from birdbone.models.codecs.gguf_config import gguf_config, unread_keys
from birdbone.models.codecs.gguf_head import read_head
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model

FREQUENCIES = 8  # of heads of 16 numbers


def header(path: Path, *describe: Callable[[GGUFWriter], None], factors: object = None) -> Path:
    """A llama of one layer without weights, with more keys in its header."""
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_rope_dimension_count(16)
    for add in describe:
        add(writer)
    values = torch.ones(FREQUENCIES) if factors is None else torch.as_tensor(factors)
    writer.add_tensor(
        "output_norm.weight" if factors is None else "rope_freqs.weight", values.numpy()
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_model_computes_what_it_did(tmp_path: Path, variant: str) -> None:
    checkpoint = gguf_checkpoint(variant)
    write_gguf(checkpoint, tmp_path / "model.gguf", kind="f32")
    read = open_checkpoint(find_model(str(tmp_path / "model.gguf")))
    tokens = torch.arange(60).remainder(int(checkpoint.config["vocab_size"])).unsqueeze(0)
    with torch.no_grad():
        before, after = checkpoint.to_model()(tokens).logits, read.to_model()(tokens).logits
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("original", [2048, 8192])
def test_the_rule_of_llama_3_is_told_by_its_factors(tmp_path: Path, original: int) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }
    checkpoint = gguf_checkpoint("llama", head_dim=128, rope_parameters=rope)
    write_gguf(checkpoint, tmp_path / "model.gguf", kind="f32")
    assert gguf_config(tmp_path / "model.gguf").rope_parameters == rope


def test_other_factors_are_refused(tmp_path: Path) -> None:
    path = header(tmp_path / "model.gguf", factors=torch.linspace(1, 8, FREQUENCIES))
    with pytest.raises(ValueError, match="do not follow the rule of Llama 3"):
        gguf_config(path)


@pytest.mark.parametrize(
    ("factors", "says"),
    [
        (torch.full([FREQUENCIES], torch.nan), "no positive numbers"),
        (torch.zeros(FREQUENCIES), "no positive numbers"),
        (torch.ones(FREQUENCIES, dtype=torch.float16), "values of type 1"),
        (torch.ones(2000), "2000 values of type 0"),
    ],
)
def test_factors_that_are_none(tmp_path: Path, factors: torch.Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        gguf_config(header(tmp_path / "model.gguf", factors=factors))


def test_a_factor_without_a_type_is_linear(tmp_path: Path) -> None:
    path = header(tmp_path / "model.gguf", lambda w: w.add_rope_scaling_factor(4.0))
    rope = gguf_config(path).rope_parameters
    assert (rope["rope_type"], rope["factor"]) == ("linear", 4.0)


@pytest.mark.parametrize(
    ("add", "says"),
    [
        (lambda w: w.add_value_length(8), "keys of 16 and values of 8"),
        (lambda w: w.add_key_length(32), "16 of 32 numbers of a head are rotated"),
        (lambda w: w.add_key_value("llama.attention.key_length", "x", 8), "no whole number"),
        (lambda w: w.add_key_value("llama.rope.scaling.factor", "x", 8), "is no number"),
    ],
)
def test_headers_that_are_refused(
    tmp_path: Path, add: Callable[[GGUFWriter], None], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        gguf_config(header(tmp_path / "model.gguf", add))


def test_yarn_with_more_settings_is_refused(tmp_path: Path) -> None:
    path = header(
        tmp_path / "model.gguf",
        lambda w: w.add_rope_scaling_type(RopeScalingType.YARN),
        lambda w: w.add_rope_scaling_factor(4.0),
        lambda w: w.add_rope_scaling_yarn_log_mul(0.1),
    )
    with pytest.raises(ValueError, match=r"'yarn' with rope\.scaling\.yarn_log_multiplier"):
        gguf_config(path)


def test_keys_that_nobody_reads(tmp_path: Path) -> None:
    path = header(tmp_path / "model.gguf", lambda w: w.add_logit_scale(0.5))
    assert unread_keys(read_head(path)) == ["llama.logit_scale"]


def test_plain_headers_have_no_others(tmp_path: Path) -> None:
    path = header(tmp_path / "model.gguf")
    assert unread_keys(read_head(path)) == []
    assert isinstance(gguf_config(path), LlamaConfig)
