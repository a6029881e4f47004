"""Trial of a folder before it is written: what loads again passes, what does not is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from logging import StreamHandler
from typing import Any

import pytest
import torch
from tiny import random_model, tiny_checkpoint, tiny_configs, tiny_tokenizer
from tiny_folders import quantized
from transformers import Llama4TextConfig
from transformers.utils import logging as transformers_logging

from birdbone.checkpoints import BitsAndBytes, Checkpoint, InMemory, Quantized
from birdbone.errors import CheckpointError
from birdbone.models.blocks.linears import all_linears
from birdbone.models.planning.outline import Outlined
from birdbone.models.reading.opening import as_checkpoint
from birdbone.models.writing.trial import try_folder

_LLAMA4 = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 64,
    "intermediate_size_mlp": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_local_experts": 4,
    "interleave_moe_layer_step": 1,
    "pad_token_id": 0,
}


def llama4() -> Checkpoint:
    """Fused experts, for which transformers puts other modules when anything is quantised."""
    model = random_model(Llama4TextConfig(**_LLAMA4))
    return as_checkpoint(model, tiny_tokenizer(), source="tiny/llama4")


def outline(checkpoint: Checkpoint) -> Checkpoint:
    """The same without values."""

    def bare(ref: Any) -> Any:
        if isinstance(ref, Quantized):
            return Quantized(ref.codes.to("meta"), ref.scales.to("meta"), bits=ref.bits)
        return Outlined(ref.shape, ref.dtype, held=False)

    return replace(checkpoint, refs={name: bare(ref) for name, ref in checkpoint.refs.items()})


def handed(checkpoint: Checkpoint, kind: Any) -> Checkpoint:
    """Every plain linear meant for bitsandbytes, without values."""
    plain = [linear.tensor for linear in all_linears(checkpoint) if linear.plain]
    values = {name: torch.empty(checkpoint.refs[name].shape, device="meta") for name in plain}
    refs = {
        name: BitsAndBytes(checkpoint.refs[name], value, kind=kind)
        for name, value in values.items()
    }
    return replace(checkpoint, refs={**checkpoint.refs, **refs})


PACKABLE = [arch for arch in tiny_configs if arch not in ("gpt2", "falcon")]


@pytest.mark.parametrize("arch", tiny_configs)
def test_plain_weights_pass(arch: str) -> None:
    try_folder(outline(tiny_checkpoint(arch)))


@pytest.mark.parametrize("arch", PACKABLE)
def test_packed_weights_that_load_pass(arch: str) -> None:
    try_folder(outline(quantized(tiny_checkpoint(arch))))


@pytest.mark.parametrize("kind", ["nf4", "llm.int8"])
@pytest.mark.parametrize("arch", ["llama", "mixtral", "falcon"])
def test_weights_for_bitsandbytes_that_load_pass(arch: str, kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    try_folder(handed(outline(tiny_checkpoint(arch)), kind))


REFUSED: dict[str, tuple[Callable[[], Checkpoint], str]] = {
    "fused experts, packed": (
        lambda: quantized(llama4()),
        r"Llama4ForCausalLM with packed integer weights does not load again .*experts",
    ),
    "fused experts for bitsandbytes": (
        lambda: handed(llama4(), "nf4"),
        "Llama4ForCausalLM with nf4 weights does not load .*experts.down_proj",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_load_again_is_refused_by_name(name: str) -> None:
    if "bitsandbytes" in name:
        pytest.importorskip("bitsandbytes")
    make, said = REFUSED[name]
    with pytest.raises(CheckpointError, match=said):
        try_folder(make())


def test_the_table_of_transformers_is_not_logged_beside_a_refusal() -> None:
    handler = StreamHandler(StringIO())
    transformers_logging.add_handler(handler)
    try:
        with pytest.raises(CheckpointError):
            try_folder(quantized(llama4()))
    finally:
        transformers_logging.remove_handler(handler)
    assert handler.stream.getvalue() == ""


def test_tensors_that_are_missing_or_of_another_shape_are_named() -> None:
    whole = tiny_checkpoint()
    name = "model.layers.1.mlp.up_proj.weight"
    fewer = {each: ref for each, ref in whole.refs.items() if each != name}
    with pytest.raises(CheckpointError, match=f"1 tensors are missing .{name}"):
        try_folder(replace(whole, refs=fewer))
    with pytest.raises(CheckpointError, match=f"1 tensors are of another shape .{name}"):
        try_folder(replace(whole, refs={**whole.refs, name: InMemory(torch.zeros(3, 5))}))


def test_a_class_that_loads_nothing_without_values_is_not_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import LlamaForCausalLM

    def none(*_: object, **__: object) -> None:
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", none)
    try_folder(tiny_checkpoint())
