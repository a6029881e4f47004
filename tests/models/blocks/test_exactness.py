"""A model that computes something else block by block is refused before any work."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import random_model, tiny_checkpoint, tiny_configs
from torch import Tensor, nn
from transformers import HrmTextConfig, ReformerConfig, XLMConfig, ZambaConfig

from birdbone.errors import ModelError
from birdbone.models.blocks.exactness import check_exactness
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.reading.in_memory import as_checkpoint


@pytest.mark.parametrize("arch", tiny_configs)
def test_models_that_are_stacks_pass(arch: str) -> None:
    skeleton = Skeleton(tiny_checkpoint(arch))
    check_exactness(skeleton)
    assert not any("forward" in vars(block) for block in skeleton.blocks)
    assert all(p.is_meta for block in skeleton.blocks for p in block.parameters())


def test_damaged_weights_are_left_to_others_to_report() -> None:
    checkpoint = tiny_checkpoint()
    name = "model.layers.1.mlp.down_proj.weight"
    damaged = checkpoint.evolve({name: checkpoint.tensors[name] * float("nan")})
    check_exactness(Skeleton(damaged))


def test_a_model_that_works_between_its_blocks_is_refused() -> None:
    config = XLMConfig(vocab_size=128, emb_dim=32, n_layers=3, n_heads=4)
    skeleton = Skeleton(as_checkpoint(random_model(config)))
    with pytest.raises(ModelError, match=r"XLMWithLMHeadModel .* changes what leaves block 0"):
        check_exactness(skeleton)


def test_arguments_that_depend_on_earlier_blocks_are_noticed() -> None:
    skeleton = Skeleton(tiny_checkpoint())

    def scale(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        cos, sin = kwargs["position_embeddings"]
        return args, {**kwargs, "position_embeddings": (cos * args[0].abs().mean(), sin)}

    skeleton.blocks[1].register_forward_pre_hook(scale, with_kwargs=True)
    with pytest.raises(ModelError, match="calls block 1 with other arguments than when"):
        check_exactness(skeleton)


def test_a_head_that_looks_at_earlier_blocks_is_noticed() -> None:
    skeleton = Skeleton(tiny_checkpoint())
    first: list[Tensor] = []
    skeleton.blocks[0].register_forward_hook(lambda _, __, output: first.append(output))
    head = skeleton.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, args: (args[0] + first[-1],))
    with pytest.raises(ModelError, match="uses more than what leaves the last block"):
        check_exactness(skeleton)


def test_a_block_that_changes_what_it_is_given_is_noticed() -> None:
    skeleton = Skeleton(tiny_checkpoint())
    norm = skeleton.blocks[1].get_submodule("input_layernorm")
    norm.register_forward_pre_hook(lambda _, args: (args[0].mul_(2),))
    with pytest.raises(ModelError, match="calls block 1 with other arguments than when"):
        check_exactness(skeleton)


def test_blocks_called_in_a_way_that_cannot_be_replayed_are_refused_in_a_sentence() -> None:
    config = ReformerConfig(
        vocab_size=128, hidden_size=32, is_decoder=True, axial_pos_embds=False,
        attn_layers=["local", "local"], num_attention_heads=4, attention_head_size=8,
        feed_forward_size=32, local_attn_chunk_length=4, max_position_embeddings=64,
    )  # fmt: skip
    skeleton = Skeleton(as_checkpoint(random_model(config)))
    with pytest.raises(ModelError, match="ReformerModelWithLMHead cannot be run block by block on"):
        check_exactness(skeleton)


def test_blocks_that_share_weights_are_refused() -> None:
    config = ZambaConfig(
        vocab_size=128, hidden_size=32, attention_hidden_size=64, intermediate_size=32,
        num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4, attention_head_dim=16,
        attn_layer_period=2, attn_layer_offset=1, mamba_d_state=4, use_mamba_kernels=False,
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"blocks of ZambaForCausalLM share weights \('model\.la"):
        Skeleton(as_checkpoint(random_model(config)))


def test_stacks_that_run_in_cycles_are_refused() -> None:
    config = HrmTextConfig(
        vocab_size=128, hidden_size=32, intermediate_size=64, num_attention_heads=4,
        num_layers_per_stack=2, head_dim=8,
    )  # fmt: skip
    with pytest.raises(ModelError, match="no stack of decoder blocks"):
        Skeleton(as_checkpoint(random_model(config)))
