"""Replay block by block gives exactly what the plain forward gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs, tiny_model, tiny_windows
from torch import Tensor
from transformers import AutoModelForCausalLM, BertGenerationConfig, XLMConfig

from birdbone.checkpoints import Checkpoint
from birdbone.errors import ModelError, NumericsError
from birdbone.models.blocks.empty_model import find_blocks
from birdbone.models.blocks.replay import capture, logits, replay, through_blocks
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.reading.opening import as_checkpoint


def batches() -> Iterator[Tensor]:
    """Batches of different sizes and lengths, longer than the sliding window."""
    for seed, (num, length) in enumerate([(2, 16), (1, 16), (3, 12)]):
        yield tiny_windows(num, length, seed=seed).tokens


@torch.no_grad()
def plain_run(model: torch.nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What leaves the last block, and the logits, of an ordinary forward."""
    last: list[Tensor] = []
    _, blocks = find_blocks(model)
    hook = blocks[-1].register_forward_hook(lambda _module, _inputs, output: last.append(output))
    found = model(tokens).logits
    hook.remove()
    return (last[0][0] if isinstance(last[0], tuple) else last[0]), found


@pytest.mark.parametrize("arch", tiny_configs)
def test_replay_equals_the_plain_forward_exactly(arch: str) -> None:
    model = tiny_model(arch)
    skeleton = Skeleton(as_checkpoint(model))
    taken = capture(skeleton, list(batches()))
    for batch, hidden in zip(taken, through_blocks(skeleton, taken), strict=True):
        plain_hidden, plain_logits = plain_run(model, batch.tokens)
        assert torch.equal(hidden, plain_hidden)
        assert torch.equal(logits(skeleton, batch.tokens, hidden), plain_logits)


@pytest.mark.parametrize("arch", ["llama", "gemma3", "gpt2"])
def test_a_bfloat16_checkpoint_computes_on_a_cpu_as_the_float32_model_does(
    arch: str, tmp_path: Path
) -> None:
    # Gemma's embedding scale is rounded to the dtype the model is built in.
    half = tiny_model(arch).to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    skeleton = Skeleton(as_checkpoint(half))
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    taken = capture(skeleton, [tiny_windows().tokens])
    (hidden,) = through_blocks(skeleton, taken)
    _, plain = plain_run(model.eval(), taken[0].tokens)
    assert torch.equal(logits(skeleton, taken[0].tokens, hidden), plain)


def test_one_block_replays_alone() -> None:
    skeleton = Skeleton(tiny_checkpoint("falcon"))
    (batch,) = capture(skeleton, [tiny_windows(2).tokens])
    states = batch.hidden
    for index in range(len(skeleton.blocks)):
        with skeleton.block(index) as block, torch.no_grad():
            states = replay(block, states, batch.calls[index])
    (whole,) = through_blocks(skeleton, [batch])
    assert torch.equal(states, whole)


def test_masks_and_rotary_tables_are_kept_once_for_all_batches() -> None:
    for arch in ("llama", "gpt2"):
        taken = capture(
            Skeleton(tiny_checkpoint(arch)), [tiny_windows(seed=s).tokens for s in (0, 1)]
        )
        tensors = [
            each
            for batch in taken
            for call in batch.calls
            for value in (*call.args, *call.kwargs.values())
            for each in (value if isinstance(value, tuple) else (value,))
            if isinstance(each, Tensor)
        ]
        apart = {id(each): each for each in tensors}.values()
        assert len(tensors) > len(apart)
        for place, one in enumerate(apart):
            others = list(apart)[place + 1 :]
            assert not any(one.shape == other.shape and torch.equal(one, other) for other in others)


def test_no_batches_give_none() -> None:
    skeleton = Skeleton(tiny_checkpoint())
    assert capture(skeleton, []) == []


def test_every_block_is_announced() -> None:
    skeleton = Skeleton(tiny_checkpoint())
    told: list[tuple[int, int]] = []
    taken = capture(skeleton, [tiny_windows().tokens])
    through_blocks(skeleton, taken, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def poisoned(checkpoint: Checkpoint, name: str, value: float) -> Checkpoint:
    tensor = checkpoint.tensors[name].clone()
    tensor[5] = value
    return checkpoint.evolve({name: tensor})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_name_the_block(value: float) -> None:
    damaged = poisoned(tiny_checkpoint(), "model.layers.1.mlp.down_proj.weight", value)
    skeleton = Skeleton(damaged)
    taken = capture(skeleton, [tiny_windows(2, 8).tokens])
    with pytest.raises(NumericsError, match=r"^model\.layers\.1 gave 16 values that.*float32"):
        through_blocks(skeleton, taken)


def test_a_damaged_embedding_is_not_blamed_on_the_first_block() -> None:
    damaged = poisoned(tiny_checkpoint(), "model.embed_tokens.weight", float("nan"))
    with pytest.raises(NumericsError, match="what comes before the blocks gave 32 values"):
        capture(Skeleton(damaged), [torch.tensor([[4, 5, 6]])])


def test_a_model_that_works_between_its_blocks_is_refused() -> None:
    config = XLMConfig(vocab_size=128, emb_dim=32, n_layers=3, n_heads=4)
    skeleton = Skeleton(as_checkpoint(AutoModelForCausalLM.from_config(config).eval()))
    with pytest.raises(ModelError, match=r"XLMWithLMHeadModel .* changes what leaves block 0"):
        capture(skeleton, [tiny_windows().tokens])


def test_a_mixture_that_would_report_its_routing_still_replays() -> None:
    model = tiny_model("mixtral", output_router_logits=True)
    skeleton = Skeleton(as_checkpoint(model))
    (batch,) = capture(skeleton, [tiny_windows().tokens])
    (hidden,) = through_blocks(skeleton, [batch])
    _, plain = plain_run(model, batch.tokens)
    assert torch.equal(logits(skeleton, batch.tokens, hidden), plain)


def test_a_model_that_skips_blocks_is_refused() -> None:
    skeleton = Skeleton(tiny_checkpoint())
    skeleton.model.model.layers = skeleton.model.model.layers[:2]
    with pytest.raises(ModelError, match=r"'model.layers' \(3 blocks\) .* calls 2 blocks"):
        capture(skeleton, [tiny_windows().tokens])


def test_a_stack_of_another_shape_is_refused_by_name() -> None:
    model = tiny_model()
    model.config.num_hidden_layers = 7
    expected = r"LlamaForCausalLM has no stack .* num_hidden_layers=7, found model\.layers \(3\)"
    with pytest.raises(ModelError, match=expected):
        find_blocks(model)


def test_forwards_are_given_back_even_when_a_run_fails() -> None:
    skeleton = Skeleton(tiny_checkpoint())
    with pytest.raises(IndexError):
        capture(skeleton, [torch.full((1, 4), 500)])
    assert not any("forward" in vars(block) for block in skeleton.blocks)
    assert len(capture(skeleton, [tiny_windows().tokens])) == 1


def test_an_encoder_kind_with_cross_attention_off_still_replays() -> None:
    config = BertGenerationConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        is_decoder=True,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    skeleton = Skeleton(as_checkpoint(model))
    taken = capture(skeleton, [tiny_windows().tokens])
    (hidden,) = through_blocks(skeleton, taken)
    _, plain = plain_run(model, taken[0].tokens)
    assert torch.equal(logits(skeleton, taken[0].tokens, hidden), plain)
