"""What a model weighs, against plain counting."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs, tiny_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from birdbone.models.evaluation.footprint import MEASURES, by_shapes, footprint


@pytest.mark.parametrize("arch", ["llama", "llama_tied", "gpt2", "opt"])
def test_operations_are_two_for_each_product_that_runs(arch: str) -> None:
    model = tiny_model(arch)
    products = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        assert isinstance(module.weight, torch.Tensor)
        products.append(module.weight.numel() * inputs[0].shape[:-1].numel())

    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.tensor([[5]]), use_cache=False)
    assert footprint(tiny_checkpoint(arch)).flops == 2 * sum(products)


def test_of_experts_only_those_a_token_is_sent_to_count() -> None:
    two, four = (by_shapes(tiny_checkpoint("mixtral", num_experts_per_tok=n)) for n in (2, 4))
    one_expert = 3 * (3 * 32 * 64)  # blocks, matrices
    assert four.flops - two.flops == 2 * 2 * one_expert
    assert four.parameters == two.parameters


@pytest.mark.parametrize("arch", tiny_configs)
def test_zeros_are_those_of_the_linears_and_shapes_know_none(arch: str) -> None:
    checkpoint = tiny_checkpoint(arch)
    bare = by_shapes(checkpoint)
    assert footprint(checkpoint) == bare
    assert bare.parameters == checkpoint.num_parameters
    assert bare.share_of(bare) == dict.fromkeys(MEASURES, 1.0)


def test_a_mask_takes_parameters_and_neither_bytes_nor_operations() -> None:
    checkpoint = tiny_checkpoint()
    name = "model.layers.0.mlp.up_proj.weight"
    masked = checkpoint.tensors[name].clone()
    masked[:10] = 0.0
    found, before = footprint(checkpoint.evolve({name: masked})), footprint(checkpoint)
    assert found.masked == 320
    assert found.zero_share == 320 / found.linear_weights
    assert found.of("parameters") == before.of("parameters") - 320
    assert found.of("bytes") == before.of("bytes")
    assert found.of("flops") == before.of("flops")
