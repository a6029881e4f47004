"""Which blocks go: by the KL that leaving them out costs, against whole models without them."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_checkpoint, tiny_tokenizer, tiny_windows
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from birdbone.checkpoints import Checkpoint
from birdbone.errors import ModelError
from birdbone.models.blocks.empty_model import text_config
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.reading.opening import as_checkpoint
from birdbone.models.units.choose_layers import choose_layers
from birdbone.models.units.config_keys import layer_settings
from birdbone.models.units.remove_layers import require_alike

TOKENS = tiny_windows(4, 16).tokens


def unheard(done: int, total: int) -> None:
    """Nobody listens."""


def logs_of(checkpoint: Checkpoint, kept: list[int]) -> Tensor:
    """Log-probabilities of the whole model with only some of its blocks."""
    model = Skeleton(checkpoint).fill()
    layers = model.get_submodule("model.layers")
    assert isinstance(layers, nn.ModuleList)
    model.get_submodule("model").layers = nn.ModuleList(layers[place] for place in kept)
    model.config.num_hidden_layers = len(kept)
    with torch.no_grad():
        found: Tensor = model(TOKENS, use_cache=False).logits[:, :-1].log_softmax(-1)
    return found


def greedy(checkpoint: Checkpoint, count: int, keep: int) -> list[int]:
    """The blocks left when the one that costs least KL goes, again and again."""
    given = logs_of(checkpoint, list(range(count)))
    kept = list(range(count))
    while len(kept) > keep:
        costs = {}
        for gone in kept:
            found = logs_of(checkpoint, [place for place in kept if place != gone])
            costs[gone] = float((given.exp() * (given - found)).sum(-1).mean())
        kept.remove(min(costs, key=costs.__getitem__))
    return kept


@pytest.mark.parametrize("seed", range(3))
def test_the_choice_is_greedy_by_measured_kl(seed: int) -> None:
    checkpoint = tiny_checkpoint("llama", seed=seed, num_hidden_layers=5)
    found = choose_layers(Skeleton(checkpoint), TOKENS, 2, unheard)
    assert list(found) == greedy(checkpoint, 5, 2)


def test_every_round_is_told() -> None:
    told: list[tuple[int, int]] = []
    checkpoint = tiny_checkpoint("llama", num_hidden_layers=5)
    choose_layers(Skeleton(checkpoint), TOKENS, 2, lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_lists_of_layers_are_shortened_and_others_are_not() -> None:
    config = text_config(tiny_checkpoint("gemma3"))
    config.eos_token_id = [1, 2, 3]
    changes = layer_settings(config, (0, 1))
    assert changes == {
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    }


def test_gpt2_says_it_by_its_own_key() -> None:
    assert layer_settings(text_config(tiny_checkpoint("gpt2")), (0, 2)) == {"n_layer": 2}


def test_blocks_that_are_not_alike_are_refused() -> None:
    config = Qwen3MoeConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        mlp_only_layers=[0],
        max_position_embeddings=64,
    )
    model = AutoModelForCausalLM.from_config(config)
    checkpoint = as_checkpoint(model, tiny_tokenizer(), source="tiny/qwen3_moe")
    with pytest.raises(ModelError, match=r"'model.layers.1' .* differs in shape from"):
        require_alike(checkpoint)
