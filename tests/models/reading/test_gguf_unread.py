"""Tensors of a GGUF file that transformers skips: listed, or refused where the model needs them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_model

from birdbone.checkpoints import LeftOut
from birdbone.errors import ModelError
from birdbone.models.reading.gguf_unread import require_computed, unread_tensors

WHY = "a tensor of the GGUF file that transformers does not read"
READ = (
    "token_embd.weight",
    "output_norm.weight",
    "output.weight",
    "blk.0.attn_q.weight",
    "blk.2.ffn_down.weight",
)


def reader(names: Sequence[str], arch: str = "llama") -> Any:
    """A file with these tensors, of 8 bytes each."""
    field = SimpleNamespace(contents=lambda: arch)
    tensors = [SimpleNamespace(name=name, n_bytes=8) for name in names]
    return SimpleNamespace(fields={"general.architecture": field}, tensors=tensors)


def left(*names: str) -> list[LeftOut]:
    return [LeftOut(name, 8, WHY) for name in names]


def test_tensors_with_a_parameter_are_read() -> None:
    assert unread_tensors([reader(READ)], tiny_model()) == []


def test_others_are_listed_with_their_bytes_in_the_order_of_the_files() -> None:
    files = [reader([*READ, "blk.3.attn_q.weight"]), reader(["blk.3.nextn.eh_proj.weight", "x"])]
    assert unread_tensors(files, tiny_model()) == left(
        "blk.3.attn_q.weight", "blk.3.nextn.eh_proj.weight", "x"
    )


@pytest.mark.parametrize(
    "name", ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"]
)
def test_tensors_whose_values_go_into_the_config_are_read(name: str) -> None:
    assert unread_tensors([reader([name])], tiny_model()) == []


def test_the_name_of_an_architecture_may_hold_dashes() -> None:
    model = tiny_model("gpt_oss")
    assert unread_tensors([reader(["token_embd.weight", "mine"], "gpt-oss")], model) == left("mine")


def test_an_architecture_without_names_lists_nothing() -> None:
    """It cannot be loaded either, which says so itself."""
    odd = tiny_model()
    odd.config.model_type = "nothing known"
    assert unread_tensors([reader(["mine"], "nothing")], odd) == []


@pytest.mark.parametrize(
    "name",
    [
        "output.bias",
        "token_embd.scale",
        "position_embd.weight",
        "rope_freqs.weight",
        "blk.0.attn_q.bias",
        "blk.2.ffn_gate_inp.weight",
    ],
)
def test_a_tensor_the_logits_need_is_refused(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        require_computed(left("mine", name, "blk.1.attn_k.bias"), tiny_model(), "tiny.gguf")
    assert str(caught.value) == (
        f"'tiny.gguf' holds 2 tensors, such as '{name}', for which LlamaForCausalLM has no "
        f"parameter: without them it would compute something else; give the model that the file "
        f"was made from, as a folder of safetensors"
    )


@pytest.mark.parametrize(
    "name",
    [
        "blk.3.attn_q.weight",  # a layer beyond the count
        "blk.12.ffn_down.weight",
        "blk.0.nextn.eh_proj.weight",
        "outputs.weight",
        "v.blk.0.attn_q.weight",
        "mm.input_projection.weight",
    ],
)
def test_others_may_be_left_out(name: str) -> None:
    require_computed(left(name), tiny_model(), "tiny.gguf")
