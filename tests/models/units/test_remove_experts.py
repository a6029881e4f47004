"""Experts go by what the block loses without them, against whole blocks with each one silent."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from torch import Tensor

from birdbone.checkpoints import Checkpoint
from birdbone.errors import ModelError
from birdbone.models.blocks.replay import capture, replay
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.units.narrowing import Part, Resizing, resizing
from birdbone.models.units.remove_experts import ExpertChoice, choose_experts, keep_experts

TOKENS = tiny_windows(4, 16).tokens
EXPERTS = "model.layers.{}.mlp.experts.{}"


def chosen(checkpoint: Checkpoint, after: int, tokens: Tensor = TOKENS) -> list[list[int]]:
    change = resizing(checkpoint, "experts", after)
    found = choose_experts(Skeleton(checkpoint), tokens, change, lambda *_: None)
    assert all(each.dtype == torch.int64 for each in found)
    return [each.tolist() for each in found]


def silenced(checkpoint: Checkpoint, block: int, expert: int) -> Checkpoint:
    """One expert of one block outputs zero: its second matrix is zero, and its bias if any."""
    changes = {}
    for leaf in ("down_proj", "down_proj_bias"):
        name = EXPERTS.format(block, leaf)
        if name in checkpoint.refs:
            changes[name] = checkpoint.tensors[name].clone()
            changes[name][expert] = 0.0
    return checkpoint.evolve(changes)


def output(checkpoint: Checkpoint, block: int) -> Tensor:
    skeleton = Skeleton(checkpoint)
    (batch,) = capture(skeleton, [TOKENS])
    hidden = batch.hidden
    with torch.no_grad():
        for index in range(block + 1):
            with skeleton.block(index) as module:
                hidden = replay(module, hidden, batch.calls[index])
    return hidden


def losses(checkpoint: Checkpoint, block: int) -> list[float]:
    """Squared change of a block's output without each expert, its input that of the original."""
    whole = output(checkpoint, block)
    return [
        float((output(silenced(checkpoint, block, expert), block) - whole).double().square().sum())
        for expert in range(4)
    ]


@pytest.mark.parametrize("arch", ["mixtral", "gpt_oss"])
def test_those_whose_loss_is_largest_stay(arch: str) -> None:
    checkpoint = tiny_checkpoint(arch, num_hidden_layers=2, **_types(arch))
    for block, found in enumerate(chosen(checkpoint, 3)):
        costs = losses(checkpoint, block)
        assert found == sorted(sorted(range(4), key=lambda expert: -costs[expert])[:3])


def _types(arch: str) -> dict[str, list[str]]:
    return {"layer_types": ["sliding_attention", "full_attention"]} if arch == "gpt_oss" else {}


def test_an_expert_that_receives_no_token_goes_first() -> None:
    """Its loss is zero, however large its weights are."""
    checkpoint = tiny_checkpoint("mixtral", num_hidden_layers=1, num_experts_per_tok=1)
    router = checkpoint.tensors["model.layers.0.mlp.gate.weight"].clone()
    router[1:] = router[0]  # ties go to one expert alone
    name = EXPERTS.format(0, "down_proj")
    loud = checkpoint.tensors[name] * torch.tensor([1.0, 9.0, 9.0, 9.0]).reshape(4, 1, 1)
    made = checkpoint.evolve({"model.layers.0.mlp.gate.weight": router, name: loud})
    costs = losses(made, 0)
    (found,) = chosen(made, 1)
    assert sum(cost > 0 for cost in costs) == 1
    assert costs[found[0]] > 0


def test_what_is_left_computes_with_the_experts_that_stay() -> None:
    checkpoint = tiny_checkpoint("mixtral", num_hidden_layers=2)
    change = resizing(checkpoint, "experts", 2)
    smaller = keep_experts(checkpoint, change, [torch.tensor([1, 3]), torch.tensor([0, 2])])
    assert smaller.config["num_local_experts"] == 2
    for block, experts in ((0, [1, 3]), (1, [0, 2])):
        for leaf in ("experts.gate_up_proj", "experts.down_proj", "gate.weight"):
            name = f"model.layers.{block}.mlp.{leaf}"
            assert torch.equal(smaller.tensors[name], checkpoint.tensors[name][experts])
    others = [name for name in checkpoint.refs if ".mlp." not in name]
    assert all(smaller.refs[name] is checkpoint.refs[name] for name in others)


def test_blocks_are_told_one_by_one() -> None:
    checkpoint = tiny_checkpoint("mixtral", num_hidden_layers=2)
    change, told = resizing(checkpoint, "experts", 3), []
    choose_experts(Skeleton(checkpoint), TOKENS, change, lambda *at: told.append(at))
    assert told == [(1, 2), (2, 2)]


def test_a_choice_is_recalled_as_a_copy() -> None:
    choice, facts = ExpertChoice(), [[0, 1], [2, 3]]
    choice.recall(facts)
    choice.kept[0].append(9)
    assert facts == [[0, 1], [2, 3]]
    assert choice.facts() == [[0, 1, 9], [2, 3]]


def test_experts_that_are_not_stacked_along_the_first_axis_are_refused() -> None:
    checkpoint = tiny_checkpoint("mixtral", num_hidden_layers=1)
    change = resizing(checkpoint, "experts", 2)
    first, *others = change.parts
    for part in (Part(first.tensor, 1, first.size), Part(first.tensor, 0, 8)):
        odd = Resizing(change.kind, change.before, change.after, change.config, (part, *others))
        with pytest.raises(ModelError, match=r"^experts are not stacked along the first axis of"):
            choose_experts(Skeleton(checkpoint), TOKENS, odd, lambda *_: None)
