"""What blocks pass to later blocks beside hidden states is replayed exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import random_model, tiny_windows
from torch import Tensor, nn
from transformers import (
    DeepseekV32Config,
    Gemma3nTextConfig,
    Gemma4TextConfig,
    GlmMoeDsaConfig,
    OpenAIGPTConfig,
    PreTrainedConfig,
    XLNetConfig,
)

from birdbone.checkpoints import Checkpoint
from birdbone.errors import ModelError
from birdbone.models.blocks.exactness import check_exactness
from birdbone.models.blocks.replay import (
    capture,
    logits,
    replay,
    require_independent,
    through_blocks,
    with_parameters,
)
from birdbone.models.blocks.shared_state import carry_state, has_state
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.evaluation.scoring import last_hidden
from birdbone.models.passes.inputs import SquareSum, sum_inputs
from birdbone.models.reading.in_memory import as_checkpoint

IDS = {"vocab_size": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {
    **IDS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SHARED_KEYS = {
    **SIZES,
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 8,
    "head_dim": 8,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 128,
}
LATENT = {
    **SIZES,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "index_topk": 4,
    "index_n_heads": 2,
    "index_head_dim": 16,
}
GPT = {**IDS, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
XLNET = {**IDS, "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 64}

CONFIGS: dict[str, PreTrainedConfig] = {
    "keys and values, embeddings per layer": Gemma4TextConfig(
        **SHARED_KEYS, global_head_dim=16, use_double_wide_mlp=True
    ),
    "keys and values, four streams": Gemma3nTextConfig(
        **SHARED_KEYS, laurel_rank=4, activation_sparsity_pattern=[0.5, 0.5, 0.0, 0.0]
    ),
    "indices of tokens": GlmMoeDsaConfig(**LATENT, indexer_types=["full", "shared", "shared"]),
    "nothing beside tuples": DeepseekV32Config(**LATENT),
    "lists": OpenAIGPTConfig(**GPT),
    "two streams": XLNetConfig(**XLNET),
}
SHARING = list(CONFIGS)[:3]
_made: dict[str, tuple[nn.Module, Checkpoint]] = {}


def made(kind: str) -> tuple[nn.Module, Checkpoint]:
    if kind not in _made:
        model = random_model(CONFIGS[kind])
        _made[kind] = model, as_checkpoint(model)
    return _made[kind]


def plain_logits(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(tokens, use_cache=False).logits
    return found


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_replay_equals_the_plain_forward(kind: str) -> None:
    model, checkpoint = made(kind)
    skeleton = Skeleton(checkpoint)
    batches = capture(skeleton, [tiny_windows(2).tokens, tiny_windows(1, 12, seed=1).tokens])
    for batch, hidden in zip(batches, through_blocks(skeleton, batches), strict=True):
        found = logits(skeleton, batch.tokens, hidden)
        assert torch.equal(found, plain_logits(model, batch.tokens))
        assert has_state(hidden) is (kind in SHARING)
    check_exactness(skeleton)


@pytest.mark.parametrize("kind", CONFIGS)
def test_hidden_states_of_several_batches_are_those_of_each_window(kind: str) -> None:
    """The batch is their first axis, whatever the model has it as."""
    model, checkpoint = made(kind)
    skeleton, windows = Skeleton(checkpoint), tiny_windows(3)
    hidden = last_hidden(skeleton, windows, batch_size=2, label="", announce=lambda *_: None)
    assert hidden.shape[:2] == windows.tokens.shape
    for place in range(3):
        window = slice(place, place + 1)
        found = logits(skeleton, windows.tokens[window], hidden[window])
        torch.testing.assert_close(found, plain_logits(model, windows.tokens[window]))


@pytest.mark.parametrize("kind", SHARING)
@torch.no_grad()
def test_two_streams_keep_apart_what_blocks_pass_on(kind: str) -> None:
    """The sums of a pass are told both streams; each must end where it would alone."""
    skeleton = Skeleton(made(kind)[1])
    (batch,) = capture(skeleton, [tiny_windows(2).tokens])
    noisy = batch.hidden + 0.1 * torch.randn(
        batch.hidden.shape, generator=torch.Generator().manual_seed(0)
    )
    ends = []
    for start in (batch.hidden, noisy):
        states = start
        for index, block in skeleton.each_block():
            states = replay(block, states, batch.calls[index])
        ends.append(states)
    hidden, given = [noisy], [batch.hidden]
    for index, block in skeleton.each_block():
        calls = [batch.calls[index]]
        _, hidden = sum_inputs(
            block, "", [], hidden, calls, lambda width, device: SquareSum(width), given
        )
    assert torch.equal(given[0], ends[0])
    assert torch.equal(hidden[0], ends[1])
    assert not torch.equal(*ends)


@torch.no_grad()
def test_a_block_that_runs_again_finds_what_it_found_before() -> None:
    skeleton = Skeleton(made(SHARING[0])[1])
    (batch,) = capture(skeleton, [tiny_windows(2).tokens])
    states = batch.hidden
    for index, block in skeleton.each_block():
        zeros = {name: torch.zeros_like(p) for name, p in block.named_parameters()}
        replay(with_parameters(block, zeros), states, batch.calls[index])
        left = replay(block, states, batch.calls[index])
        assert torch.equal(replay(block, states, batch.calls[index]), left)
        states = left
    assert torch.equal(states, through_blocks(skeleton, [batch])[0])


@torch.no_grad()
def test_hidden_states_without_their_state_are_refused() -> None:
    skeleton = Skeleton(made(SHARING[0])[1])
    (batch,) = capture(skeleton, [tiny_windows(2).tokens])
    with skeleton.block(0) as block:
        states = replay(block, batch.hidden, batch.calls[0])
    with skeleton.block(1) as block:
        with pytest.raises(ModelError, match="what was passed to block 1 is not known"):
            replay(block, states.clone(), batch.calls[1])
        kept = replay(block, carry_state(states, states.clone()), batch.calls[1])
        assert torch.equal(kept, replay(block, states, batch.calls[1]))


@torch.no_grad()
def test_a_block_that_passes_something_on_cannot_be_left_out() -> None:
    skeleton = Skeleton(made("indices of tokens")[1])
    (batch,) = capture(skeleton, [tiny_windows(2).tokens])
    with pytest.raises(ModelError, match="so none of them can be left out; prune other units"):
        require_independent(skeleton, [batch])
    independent = Skeleton(made("nothing beside tuples")[1])
    require_independent(independent, capture(independent, [tiny_windows(2).tokens]))


def test_gradients_reach_what_a_block_reads_and_are_not_kept() -> None:
    skeleton = Skeleton(made(SHARING[0])[1])
    (batch,) = capture(skeleton, [tiny_windows(2).tokens])
    with torch.no_grad(), skeleton.block(0) as block:
        states = replay(block, batch.hidden, batch.calls[0])
    with skeleton.block(1) as block:
        weight = block.get_parameter("self_attn.k_proj.weight").requires_grad_()
        for _ in range(2):  # the first graph is gone when the second is made
            loss = replay(block, states, batch.calls[1]).square().mean()
            torch.autograd.backward(loss)
    assert weight.grad is not None
