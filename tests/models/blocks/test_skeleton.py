"""The skeleton holds one block at a time and leaves the checkpoint as it was."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs, tiny_model, tiny_windows
from torch import Tensor, nn

from birdbone.checkpoints import BitsAndBytes, Checkpoint, InMemory, Quantized
from birdbone.errors import CheckpointError, ModelError
from birdbone.models.blocks.device import compute_dtype
from birdbone.models.blocks.empty_model import empty_model
from birdbone.models.blocks.replay import capture, logits, through_blocks
from birdbone.models.blocks.rounded_inputs import round_tokens
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.reading.opening import open_checkpoint
from birdbone.models.reading.sources import find_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def digests(checkpoint: Checkpoint) -> dict[str, str]:
    """Of the tensors as they are now, not as they were when first asked."""
    return {name: InMemory(ref.load()).digest for name, ref in checkpoint.refs.items()}


def held(skeleton: Skeleton) -> list[int]:
    """The blocks with any tensor that is not on the meta device."""
    return [
        index
        for index, block in enumerate(skeleton.blocks)
        if any(not parameter.is_meta for parameter in block.parameters())
    ]


@pytest.mark.parametrize("arch", tiny_configs)
def test_a_pass_holds_one_block_at_a_time(arch: str) -> None:
    skeleton = Skeleton(tiny_checkpoint(arch))
    assert held(skeleton) == []
    for index, block in skeleton.each_block():
        assert held(skeleton) == [index]
        assert not any(parameter.is_meta for parameter in block.parameters())
    assert held(skeleton) == []


def test_a_pass_given_up_releases_its_block() -> None:
    skeleton = Skeleton(tiny_checkpoint())
    blocks = skeleton.each_block()
    next(blocks)
    blocks.close()
    assert held(skeleton) == []


def test_a_block_is_released_when_its_user_fails() -> None:
    skeleton = Skeleton(tiny_checkpoint())
    with pytest.raises(IndexError), skeleton.block(1) as block:
        block.mlp.up_proj(torch.zeros(3, 32))[99]
    assert held(skeleton) == []


def test_a_read_that_fails_ahead_is_told(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    skeleton = Skeleton(open_checkpoint(find_model(str(tmp_path))))
    (tmp_path / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match=r"model\.layers\.0\..* cannot be read from model"):
        list(skeleton.each_block())


@pytest.mark.parametrize("arch", tiny_configs)
def test_runs_leave_the_checkpoint_as_it_was(arch: str) -> None:
    checkpoint = tiny_checkpoint(arch)
    before = digests(checkpoint)
    skeleton = Skeleton(checkpoint)
    for _ in range(2):
        taken = capture(skeleton, [tiny_windows().tokens])
        (hidden,) = through_blocks(skeleton, taken)
        logits(skeleton, taken[0].tokens, hidden)
    assert digests(checkpoint) == before


@pytest.mark.parametrize("arch", ["llama", "llama_tied", "gpt2", "mixtral"])
def test_a_filled_model_owns_what_it_trains(arch: str) -> None:
    checkpoint = tiny_checkpoint(arch)
    before = digests(checkpoint)
    model = Skeleton(checkpoint).fill()
    train(model.parameters())
    assert digests(checkpoint) == before


def train(parameters: Iterable[nn.Parameter]) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(1.0)


@pytest.mark.parametrize("arch", tiny_configs)
def test_a_filled_model_is_the_model(arch: str) -> None:
    tokens = tiny_windows().tokens
    with torch.no_grad():
        assert torch.equal(
            Skeleton(tiny_checkpoint(arch)).fill()(tokens).logits, tiny_model(arch)(tokens).logits
        )


@pytest.mark.parametrize("arch", ["llama_tied", "gpt2", "opt", "gemma3", "falcon"])
def test_tied_embeddings_stay_tied_and_count_once(arch: str) -> None:
    checkpoint = tiny_checkpoint(arch)
    assert checkpoint.num_parameters == tiny_model(arch).num_parameters()
    assert not any("lm_head" in name for name in checkpoint.refs)
    model = Skeleton(checkpoint).fill()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_untied_embeddings_stay_apart() -> None:
    tied, untied = tiny_checkpoint("llama_tied"), tiny_checkpoint("llama")
    assert untied.num_parameters == tied.num_parameters + 128 * 32
    model = Skeleton(untied).fill()
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight


def test_a_weight_put_in_brings_the_rounding_of_its_inputs() -> None:
    skeleton = Skeleton(tiny_checkpoint())
    name = "model.layers.1.mlp.up_proj.weight"
    codes = torch.ones(64, 32, dtype=torch.int8)
    inputs = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(0))
    with skeleton.block(1) as block:
        plain = block.mlp.up_proj(inputs)
        skeleton.put(name, Quantized(codes, torch.ones(64, 1), bits=8, input_activations="int8"))
        expected = round_tokens(inputs, "int8").sum()
        found = block.mlp.up_proj(inputs)[0, 0]
        assert torch.allclose(found, expected.expand(64))
        assert not torch.allclose(found, inputs.sum().expand(64))
    with skeleton.block(1) as block:  # the checkpoint's own weight again
        assert torch.equal(block.mlp.up_proj(inputs), plain)


def test_a_tensor_put_in_is_what_the_block_computes_with() -> None:
    skeleton = Skeleton(tiny_checkpoint())
    name = "model.layers.1.mlp.up_proj.weight"
    before = skeleton.checkpoint.tensors[name].clone()
    with skeleton.block(1) as block:
        skeleton.put(name, torch.ones(64, 32, dtype=torch.float64))
        assert torch.equal(block.mlp.up_proj.weight, torch.ones(64, 32))
    with skeleton.block(1) as block:
        assert torch.equal(block.mlp.up_proj.weight, before)


def test_quantised_weights_are_multiplied_out() -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    codes = (torch.arange(64 * 32) % 16 - 8).to(torch.int8).reshape(64, 32)
    scales = torch.full((64, 2), 0.3, dtype=torch.bfloat16)
    whole = Quantized(codes, scales, bits=4)
    skeleton = Skeleton(tiny_checkpoint().evolve({name: whole}))
    with skeleton.block(0) as block:
        # Multiplied in the dtype that is computed in, not in the scales' own.
        assert torch.equal(block.mlp.up_proj.weight, codes.float() * scales[0, 0].float())


def test_bitsandbytes_weights_compute_with_what_they_decode_to() -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    decoded = torch.full((64, 32), 0.5)
    kept = BitsAndBytes(InMemory(torch.zeros(64, 32)), decoded, kind="nf4")
    skeleton = Skeleton(tiny_checkpoint().evolve({name: kept}))
    with skeleton.block(0) as block:
        assert torch.equal(block.mlp.up_proj.weight, decoded)


def test_a_missing_tensor_is_named() -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    damaged = tiny_checkpoint().evolve({name: None})
    with pytest.raises(CheckpointError, match=f"lacks tensor '{name}', which LlamaForCausalLM"):
        Skeleton(damaged)


def test_a_tensor_of_another_shape_is_named_with_both() -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    damaged = tiny_checkpoint().evolve({name: torch.zeros(60, 32)})
    with pytest.raises(CheckpointError, match=rf"'{name}' has shape \(60, 32\), .* \(64, 32\)"):
        Skeleton(damaged)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "birdsong"}, "'birdsong': transformers does not know it"),
        ({}, "'None': transformers does not know it"),
        ({"model_type": "t5"}, "'t5': transformers has no causal language model of that type"),
        ({"model_type": "llama", "hidden_size": "wide"}, "type 'llama': .*hidden_size"),
        ({"model_type": "reformer"}, "type 'reformer': .*is_decoder=True"),
    ],
    ids=["unknown", "none", "no causal model", "bad value", "no decoder"],
)
def test_a_config_no_model_comes_of_is_refused(config: dict[str, object], expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        empty_model(Checkpoint(config, {}))


@pytest.mark.parametrize(
    ("device", "config", "expected"),
    [
        (CPU, {"dtype": "bfloat16"}, torch.float32),
        (CUDA, {"dtype": "bfloat16"}, torch.bfloat16),
        (CUDA, {}, torch.float16),
        (CUDA, {"dtype": "auto"}, torch.float16),
    ],
)
def test_blocks_compute_as_stored_except_on_a_cpu(
    device: torch.device, config: dict[str, object], expected: torch.dtype
) -> None:
    ids, weight = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float16)
    checkpoint = Checkpoint(config, {"ids": InMemory(ids), "weight": InMemory(weight)})
    assert compute_dtype(checkpoint, device) == expected


def test_no_floating_tensor_computes_in_float32() -> None:
    assert compute_dtype(Checkpoint({}, {}), CUDA) == torch.float32


def shares(model: nn.Module, tensors: Iterable[Tensor]) -> bool:
    places = {tensor.data_ptr() for tensor in tensors}
    return any(parameter.data_ptr() in places for parameter in model.parameters())


def test_only_a_filled_model_has_copies() -> None:
    checkpoint = tiny_checkpoint()
    skeleton = Skeleton(checkpoint)
    stored = list(checkpoint.tensors.values())
    with skeleton.block(0) as block:
        assert shares(block, stored)
    assert not shares(skeleton.fill(), stored)
