import torch
from tiny import tiny_model, tiny_windows
from torch import nn

from birdbone.models.blocks.empty_model import find_blocks
from birdbone.models.codecs.bitsandbytes import nf4_values
from birdbone.models.training.adapters import to_nf4

DOWN = "model.layers.0.mlp.down_proj"


def _logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(tiny_windows().tokens, use_cache=False).logits


def test_a_block_in_4_bits_computes_with_what_nf4_makes_of_its_weights() -> None:
    model, expected = tiny_model(), tiny_model()
    weight = expected.get_parameter(f"{DOWN}.weight")
    weight.data = nf4_values(weight.data)
    block = find_blocks(model)[1][0]
    assert to_nf4(block, "model.layers.0", {DOWN}) == {}
    assert block.mlp.down_proj.weight.dtype == torch.uint8
    for _ in range(3):  # bitsandbytes repacks its weights at a first forward in eval mode
        torch.testing.assert_close(_logits(model), _logits(expected), rtol=1e-4, atol=1e-4)


def test_only_named_linears_that_nf4_can_hold_are_taken_and_zeros_are_told() -> None:
    model = tiny_model()
    block = find_blocks(model)[1][0]
    weight = block.mlp.down_proj.weight
    weight.data[::2] = 0.0
    zeros = weight.detach() == 0
    names = {DOWN, "model.layers.0.self_attn.q_proj"}
    masks = to_nf4(block, "model.layers.0", names)
    assert masks.keys() == {DOWN}
    assert torch.equal(masks[DOWN], ~zeros)
    assert type(block.self_attn.q_proj) is nn.Linear
    assert type(block.mlp.up_proj) is nn.Linear


def test_a_bias_stays_as_it_is() -> None:
    model = tiny_model("opt")
    block = find_blocks(model)[1][0]
    bias = block.fc2.bias
    to_nf4(block, "model.decoder.layers.0", {"model.decoder.layers.0.fc2"})
    assert block.fc2.bias is bias
    assert block.fc2.weight.dtype == torch.uint8
