"""What flows into linears: sums against hooks, who shares an input, who saw nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs, tiny_windows
from torch import Tensor, nn

from birdbone.errors import DataError, NumericsError, SolverError
from birdbone.models.blocks.linears import Linear, find_linears
from birdbone.models.blocks.replay import Call, capture, replay
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.passes.inputs import Group, SquareSum, sum_inputs
from birdbone.solvers.gram import GramAccumulator


def first_block(arch: str, num: int = 4, start: Any = GramAccumulator) -> Any:
    """Groups and outputs of an architecture's first block, and its outputs when merely run."""
    skeleton = Skeleton(tiny_checkpoint(arch))
    batches = capture(skeleton, tiny_windows(num, 16).tokens.split(3))
    hidden = [batch.hidden for batch in batches]
    calls = [batch.calls[0] for batch in batches]
    with skeleton.block(0) as block, torch.no_grad():
        prefix = f"{skeleton.path}.0."
        plain = [replay(block, h, c) for h, c in zip(hidden, calls, strict=True)]
        linears = find_linears(block, prefix)
        groups, outputs = sum_inputs(block, prefix, linears, hidden, calls, start)
    return groups, outputs, plain


def short_names(group: Group[Any]) -> set[str]:
    """The last parts of the linears' names."""
    return {linear.name.rpartition(".")[2] for linear in group.linears}


@pytest.mark.parametrize("arch", tiny_configs)
def test_watching_a_block_does_not_change_what_it_gives(arch: str) -> None:
    _, outputs, plain = first_block(arch)
    assert all(torch.equal(a, b) for a, b in zip(outputs, plain, strict=True))


@pytest.mark.parametrize(
    ("arch", "shared"),
    [
        ("llama", [{"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}]),
        ("qwen3", [{"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}]),
        ("phi3", [{"qkv_proj"}, {"o_proj"}, {"gate_up_proj"}, {"down_proj"}]),
        ("gpt2", [{"c_attn"}, {"c_fc"}]),
        ("opt", [{"q_proj", "k_proj", "v_proj"}, {"fc1"}, {"fc2"}]),
    ],
)
def test_linears_on_one_input_share_one_sum(arch: str, shared: list[set[str]]) -> None:
    groups, _, _ = first_block(arch)
    found = [short_names(group) for group in groups]
    assert all(each in found for each in shared)
    linears = [linear for group in groups for linear in group.linears]
    assert len(linears) == len(set(linears))


@pytest.mark.parametrize("arch", ["mixtral", "gpt_oss"])
def test_experts_share_with_nobody_and_count_their_own_tokens(arch: str) -> None:
    groups, _, _ = first_block(arch, start=SquareSum)
    counts = {
        linear.name: group.sum.num_tokens
        for group in groups
        for linear in group.linears
        if linear.expert is not None
    }
    assert all(len(g.linears) == 1 for g in groups if g.linears[0].expert is not None)
    for part in ("gate_up_proj", "down_proj"):
        # Two of four experts for each of 64 tokens.
        assert sum(count for name, count in counts.items() if part in name) == 128


@pytest.mark.parametrize("arch", tiny_configs)
def test_a_square_sum_is_the_diagonal_of_the_gram(arch: str) -> None:
    grams, squares = (first_block(arch, start=start)[0] for start in (GramAccumulator, SquareSum))
    for gram, square in zip(grams, squares, strict=True):
        assert gram.linears == square.linears
        found = gram.sum.gram()
        torch.testing.assert_close(found.diagonal, square.sum.squares)
        assert found.num_tokens == square.sum.num_tokens


def test_squares_are_summed_in_float32_whatever_comes_in() -> None:
    total = SquareSum(2)
    for _ in range(1000):
        total.add(torch.tensor([[[1.0, 3.0]]], dtype=torch.bfloat16))
    assert total.squares.tolist() == [1000.0, 9000.0]
    assert (total.squares.dtype, total.num_tokens) == (torch.float32, 1000)


class Made(nn.Module):
    """A block of two linears that is told how to use them."""

    def __init__(self, use: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.use = use

    def forward(self, hidden: Tensor) -> Tensor:
        outcome: Tensor = self.use(self, hidden.clone())
        return outcome


def sums_of(use: Any, hidden: Tensor) -> list[Group[SquareSum]]:
    """The groups of a made block on one batch."""
    block = Made(use)
    linears = find_linears(block, "block.")
    groups, _ = sum_inputs(block, "block.", linears, [hidden], [Call((), {})], SquareSum)
    return groups


def test_an_input_changed_in_place_is_another_input() -> None:
    groups = sums_of(lambda block, x: block.a(x) + block.b(x.mul_(2)), torch.ones(1, 3, 4))
    sums = {group.linears[0].name: group.sum.squares.tolist() for group in groups}
    assert sums == {"block.a": [3.0] * 4, "block.b": [12.0] * 4}


def test_the_same_memory_read_in_another_order_is_another_input() -> None:
    hidden = torch.arange(16.0).view(1, 4, 4)
    groups = sums_of(lambda block, x: block.a(x) + block.b(x.transpose(1, 2)), hidden)
    sums = {group.linears[0].name: group.sum.squares for group in groups}
    assert torch.equal(sums["block.a"], hidden[0].square().sum(0))
    assert torch.equal(sums["block.b"], hidden[0].square().sum(1))
    turned = sums_of(lambda block, x: block.a(x.transpose(1, 2)) + block.b(x), hidden)
    assert len(turned) == 2


def test_one_input_cut_into_other_rows_is_the_same_input() -> None:
    groups = sums_of(
        lambda block, x: block.a(x) + block.b(x.view(-1, 4)).view_as(x), torch.ones(2, 3, 4)
    )
    assert [[linear.name for linear in group.linears] for group in groups] == [
        ["block.a", "block.b"]
    ]
    assert groups[0].sum.num_tokens == 6


@pytest.mark.parametrize("use", [lambda b, x: b.a(x), lambda b, x: b.a(x) + b.b(x[:0]).sum()])
def test_a_linear_that_saw_no_tokens_is_named(use: Any) -> None:
    with pytest.raises(DataError, match=r"layer 'block\.b' received no tokens.*more windows"):
        sums_of(use, torch.ones(1, 3, 4))


def test_inputs_that_are_not_finite_name_the_layer_they_flow_into() -> None:
    block = Made(lambda block, x: block.b(block.a(x) / 0))
    linears = find_linears(block, "block.")
    calls = [Call((), {})]
    with pytest.raises(SolverError, match=r"layer 'block\.b': inputs"):
        sum_inputs(block, "block.", linears, [torch.ones(1, 3, 4)], calls, GramAccumulator)
    with pytest.raises(NumericsError, match="block gave 12 values that are NaN"):
        sum_inputs(block, "block.", linears, [torch.ones(1, 3, 4)], calls, SquareSum)


def test_only_chosen_linears_are_watched() -> None:
    block = Made(lambda block, x: block.a(x) + block.b(x))
    chosen = [Linear("block.b.weight", (4, 4))]
    groups, _ = sum_inputs(
        block, "block.", chosen, [torch.ones(1, 3, 4)], [Call((), {})], SquareSum
    )
    assert [group.linears for group in groups] == [chosen]


def drifted_block(arch: str) -> Any:
    """A block's groups where its inputs have come apart from what the given model has there."""
    skeleton = Skeleton(tiny_checkpoint(arch))
    batches = capture(skeleton, tiny_windows(4, 16).tokens.split(3))
    given = [batch.hidden for batch in batches]
    hidden = [1.5 * batch.hidden.roll(1, 0) for batch in batches]
    calls = [batch.calls[0] for batch in batches]
    prefix = f"{skeleton.path}.0."
    with skeleton.block(0) as block, torch.no_grad():
        seen = inputs_by_hook(block, given, calls), inputs_by_hook(block, hidden, calls)
        plain = [replay(block, h, c) for h, c in zip(given, calls, strict=True)]
        linears = find_linears(block, prefix)
        groups, _ = sum_inputs(block, prefix, linears, hidden, calls, GramAccumulator, given)
    assert all(torch.equal(a, b) for a, b in zip(given, plain, strict=True))
    return groups, prefix, seen


def inputs_by_hook(block: nn.Module, hidden: Any, calls: Any) -> dict[str, Tensor]:
    """What flows into each ``nn.Linear`` of a block over all batches: ``[tokens, in_features]``."""
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Any:
        return lambda _, args: seen.setdefault(name, []).append(args[0].flatten(0, -2))

    linears = [(n, m) for n, m in block.named_modules() if isinstance(m, nn.Linear)]
    handles = [module.register_forward_pre_hook(keep(name)) for name, module in linears]
    for states, call in zip(hidden, calls, strict=True):
        replay(block, states, call)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


@pytest.mark.parametrize("arch", ["llama", "opt", "phi3"])
def test_two_streams_are_summed_pair_by_pair(arch: str) -> None:
    groups, prefix, (given, fed) = drifted_block(arch)
    for group in groups:
        gram = group.sum.gram()
        for linear in group.linears:
            name = linear.name.removeprefix(prefix)
            torch.testing.assert_close(gram.cross, given[name].T @ fed[name], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(gram.matrix, fed[name].T @ fed[name], rtol=1e-4, atol=1e-4)


def test_experts_that_see_some_of_the_tokens_are_not_paired() -> None:
    groups, _, _ = drifted_block("mixtral")
    for group in groups:
        routed = group.linears[0].expert is not None
        assert (group.sum.gram().cross is None) == routed, group.linears[0].name


def test_an_expert_that_saw_nothing_has_an_empty_sum() -> None:
    groups, _, _ = first_block_of_few("mixtral")
    unseen = [group for group in groups if group.sum.num_tokens == 0]
    assert unseen
    assert all(len(group.linears) == 1 for group in unseen)
    assert all(group.linears[0].expert is not None for group in unseen)


def first_block_of_few(arch: str) -> Any:
    """As `first_block`, on two tokens."""
    skeleton = Skeleton(tiny_checkpoint(arch))
    batches = capture(skeleton, [tiny_windows(1, 2).tokens])
    hidden, calls = [batches[0].hidden], [batches[0].calls[0]]
    with skeleton.block(0) as block, torch.no_grad():
        linears = find_linears(block, f"{skeleton.path}.0.")
        groups, outputs = sum_inputs(
            block, f"{skeleton.path}.0.", linears, hidden, calls, GramAccumulator
        )
    return groups, outputs, linears
