"""The observer sees what flows into every linear, as module hooks and direct products do."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs, tiny_windows
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from birdbone.models.blocks.linears import Linear, find_linears
from birdbone.models.blocks.observing import ProductObserver, stored_tensors
from birdbone.models.blocks.replay import Batch, capture, replay
from birdbone.models.blocks.skeleton import Skeleton


class Watched:
    """One block run under an observer, with ordinary hooks on its modules beside it."""

    def __init__(self, arch: str) -> None:
        self.skeleton = Skeleton(tiny_checkpoint(arch))
        (self.batch,) = capture(self.skeleton, [tiny_windows(4).tokens])
        self.seen: dict[str, list[Tensor]] = defaultdict(list)
        self.hooked: dict[str, list[Tensor]] = defaultdict(list)
        prefix = f"{self.skeleton.path}.0."
        with self.skeleton.block(0) as block:
            self.linears = find_linears(block, prefix)
            self.stored = stored_tensors(block, prefix)
            self._hook(block, prefix)
            self.output = self._run(block, self.batch)

    def _hook(self, block: nn.Module, prefix: str) -> None:
        for path, module in block.named_modules():
            if isinstance(module, nn.Linear | Conv1D):
                inputs = self.hooked[f"{prefix}{path}"]
                module.register_forward_pre_hook(lambda _, args, to=inputs: to.append(args[0]))

    @torch.no_grad()
    def _run(self, block: nn.Module, batch: Batch) -> Tensor:
        with ProductObserver(
            self.stored, self.linears, lambda each, x: self.seen[each.name].append(x)
        ):
            return replay(block, batch.hidden, batch.calls[0])


@pytest.mark.parametrize("arch", tiny_configs)
def test_every_linear_is_seen_with_the_input_its_module_gets(arch: str) -> None:
    watched = Watched(arch)
    assert set(watched.seen) == {each.name for each in watched.linears}
    modules = [each.name for each in watched.linears if each.expert is None]
    assert set(modules) == set(watched.hooked)
    for name in modules:
        assert len(watched.seen[name]) == len(watched.hooked[name]) == 1
        (seen,), (hooked,) = watched.seen[name], watched.hooked[name]
        assert torch.equal(seen.reshape(hooked.shape), hooked)


def gram(inputs: list[Tensor]) -> Tensor:
    rows = torch.cat([each.reshape(-1, each.shape[-1]) for each in inputs]).double()
    return rows.T @ rows


@torch.no_grad()
def mixtral_experts(watched: Watched) -> dict[str, Tensor]:
    """Grams of every expert's inputs, from the block's own parts, written out plainly."""
    with watched.skeleton.block(0) as block:
        mixture = block.mlp
        states: list[Tensor] = []
        hook = mixture.register_forward_pre_hook(lambda _, args: states.append(args[0]))
        replay(block, watched.batch.hidden, watched.batch.calls[0])
        hook.remove()
        rows = states[0].reshape(-1, 32)
        chosen = (rows @ mixture.gate.weight.T).topk(2, dim=1).indices
        found = {}
        for expert in range(4):
            mine = rows[(chosen == expert).any(1)]
            gate, up = (mine @ mixture.experts.gate_up_proj[expert].T).chunk(2, dim=1)
            inner = nn.functional.silu(gate) * up
            found[f"gate_up_proj[{expert}]"] = gram([mine])
            found[f"down_proj[{expert}]"] = gram([inner])
    return found


def test_experts_are_seen_one_by_one_with_the_tokens_routed_to_them() -> None:
    watched = Watched("mixtral")
    for name, wanted in mixtral_experts(watched).items():
        found = gram(watched.seen[f"model.layers.0.mlp.experts.{name}"])
        # Products of another shape round otherwise in float32; sums run over some 30 tokens.
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_experts_of_gpt_oss_share_out_all_tokens() -> None:
    watched = Watched("gpt_oss")
    rows = [len(x) for name, each in watched.seen.items() if "gate_up" in name for x in each]
    assert sum(rows) == watched.batch.tokens.numel() * 2


@pytest.mark.parametrize(
    ("arch", "groups"),
    [
        ("llama", [{"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}]),
        ("opt", [{"q_proj", "k_proj", "v_proj"}]),
        ("phi3", []),
    ],
)
def test_linears_on_one_input_are_given_the_very_same_tensor(
    arch: str, groups: list[set[str]]
) -> None:
    watched = Watched(arch)
    sharing: dict[int, set[str]] = defaultdict(set)
    for name, (inputs,) in watched.seen.items():
        sharing[inputs.data_ptr()].add(name.rpartition(".")[2])
    assert [names for names in sharing.values() if len(names) > 1] == groups


@pytest.mark.parametrize("arch", ["llama", "gpt2", "mixtral"])
def test_watching_changes_nothing(arch: str) -> None:
    watched = Watched(arch)
    with watched.skeleton.block(0) as block, torch.no_grad():
        plain = replay(block, watched.batch.hidden, watched.batch.calls[0])
    assert torch.equal(watched.output, plain)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def seen_by(act: Any, weight: Tensor, linear: Linear) -> list[Tensor]:
    seen: list[Tensor] = []
    with ProductObserver({linear.tensor: weight}, [linear], lambda _, inputs: seen.append(inputs)):
        act()
    return seen


def test_part_of_a_weight_at_the_same_address_is_not_taken_for_it() -> None:
    weight, rows = random(6, 4), random(3, 4)
    linear = Linear("w", (6, 4))
    assert seen_by(lambda: rows @ weight[:2].T, weight, linear) == []
    assert seen_by(lambda: rows @ weight.T, weight, linear)[0] is rows


def test_the_stack_of_all_experts_is_not_taken_for_the_first() -> None:
    weight, rows = random(2, 4, 6), random(2, 3, 4)
    linear = Linear("w", (6, 4), transposed=True, expert=0)
    assert seen_by(lambda: torch.matmul(rows, weight), weight, linear) == []
    assert seen_by(lambda: rows[0] @ weight[0], weight, linear)[0].shape == (3, 4)


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w: nn.functional.linear(x, w),
        lambda x, w: torch.matmul(x, w.T),
        lambda x, w: torch.mm(x, w.T),
        lambda x, w: torch.addmm(torch.zeros(6), x, w.T),
        lambda x, w: x.matmul(w.T),
        lambda x, w: x.mm(w.T),
        lambda x, w: x @ w.T,
    ],
    ids=["linear", "matmul", "mm", "addmm", "Tensor.matmul", "Tensor.mm", "@"],
)
def test_every_way_to_multiply_is_seen(product: Any) -> None:
    weight, rows = random(6, 4), random(3, 4)
    (seen,) = seen_by(lambda: product(rows, weight), weight, Linear("w", (6, 4)))
    assert seen is rows
