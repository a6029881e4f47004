"""Which weight matrices a block has, however its architecture stores them."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_checkpoint, tiny_configs
from torch import nn

from birdbone.models.blocks.linears import Linear, find_linears
from birdbone.models.blocks.skeleton import Skeleton

PER_BLOCK = {
    "llama": 7,
    "llama_tied": 7,
    "qwen3": 7,
    "gemma3": 7,
    "gpt2": 4,
    "opt": 6,
    "gpt_neox": 4,
    "phi3": 4,
    "mixtral": 4 + 2 * 4,
    "gpt_oss": 4 + 2 * 4,
    "falcon": 4,
}
"""Linears in one block; four experts hold a fused gate and up, and a down projection, each."""


@pytest.mark.parametrize("arch", tiny_configs)
def test_every_linear_of_a_block_is_found(arch: str) -> None:
    checkpoint = tiny_checkpoint(arch)
    skeleton = Skeleton(checkpoint)
    prefix = f"{skeleton.path}.1."
    linears = find_linears(skeleton.blocks[1], prefix)
    assert len(linears) == len({each.name for each in linears}) == PER_BLOCK[arch]
    for linear in linears:
        assert linear.tensor.startswith(prefix)
        assert linear.view(checkpoint.tensors[linear.tensor]).shape == linear.shape


@pytest.mark.parametrize(
    ("arch", "name", "shape"),
    [
        ("llama", "model.layers.1.mlp.up_proj", (64, 32)),
        ("gpt2", "transformer.h.1.attn.c_attn", (96, 32)),
        ("mixtral", "model.layers.1.mlp.experts.down_proj[3]", (32, 64)),
        ("gpt_oss", "model.layers.1.mlp.experts.gate_up_proj[0]", (128, 32)),
    ],
)
def test_a_linear_is_seen_with_outputs_first(arch: str, name: str, shape: tuple[int, int]) -> None:
    skeleton = Skeleton(tiny_checkpoint(arch))
    linears = find_linears(skeleton.blocks[1], f"{skeleton.path}.1.")
    assert {each.name: each.shape for each in linears}[name] == shape


@pytest.mark.parametrize("arch", ["mixtral", "gpt_oss"])
def test_routers_are_left_out(arch: str) -> None:
    skeleton = Skeleton(tiny_checkpoint(arch))
    linears = find_linears(skeleton.blocks[0], f"{skeleton.path}.0.")
    routers = [n for n in skeleton.block_names(0) if "router" in n or ".gate." in n]
    assert routers
    assert not {each.tensor for each in linears} & set(routers)


class Experts(nn.Module):
    """A mixture as models with code of their own write it."""

    def __init__(self, router: bool = True) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(8, 6) for _ in range(4))
        self.gate = nn.Linear(8, 4)
        self.shared_gate = nn.Linear(8, 1)
        self.shared = nn.Linear(8, 6)


def test_routers_and_gates_beside_a_list_of_experts_are_left_out() -> None:
    names = [each.name for each in find_linears(Experts(), "block.")]
    assert names == [*(f"block.experts.{place}" for place in range(4)), "block.shared"]


class Mixer(nn.Module):
    """As Mamba has it: one linear is called, of the others only the weight is read."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read, self.inner = nn.Linear(8, 8), nn.Linear(8, 8), nn.Sequential()
        self.inner.low = nn.Linear(8, 8)
        self.called.weight.data.zero_()

    def init_weights(self) -> None:
        self.called.weight.data.normal_()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if values.ndim == 1:  # as Bloom does for tensor parallelism
            return values @ self.called.weight
        return self.called(values) @ self.read.weight @ self.inner.low.weight


class Wrapped(Mixer):
    """Inherits what it reads."""


@pytest.mark.parametrize("make", [Mixer, Wrapped])
def test_a_linear_whose_weight_is_read_does_not_fit_a_packed_format(make: type[Mixer]) -> None:
    found = {each.name: each.plain for each in find_linears(nn.Sequential(make()), "block.")}
    assert found == {
        "block.0.called": True,
        "block.0.read": False,
        "block.0.inner.low": False,
    }


class OwnLinear(nn.Linear):
    """As Falcon has it."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values @ self.weight.T


def test_a_linear_with_a_forward_of_its_own_does_not_fit_either() -> None:
    (found,) = find_linears(nn.Sequential(OwnLinear(8, 4)), "block.")
    assert not found.plain


def test_kernels_of_a_convolution_are_no_experts() -> None:
    assert find_linears(nn.Sequential(nn.Conv1d(8, 8, 4, groups=8)), "block.") == []


def test_factors_of_channels_are_no_experts() -> None:
    block = nn.Module()
    block.time_mix = nn.Parameter(torch.ones(1, 1, 8))  # as RWKV has it
    assert find_linears(block, "block.") == []


@pytest.mark.parametrize(
    "linear",
    [
        Linear("w", (3, 2)),
        Linear("w", (3, 2), transposed=True),
        Linear("w", (3, 2), expert=1),
        Linear("w", (3, 2), transposed=True, expert=1),
    ],
    ids=["plain", "transposed", "expert", "transposed expert"],
)
def test_writing_to_a_view_writes_the_stored_tensor(linear: Linear) -> None:
    shape = (2, 3) if linear.transposed else (3, 2)
    stored = torch.zeros(shape if linear.expert is None else (2, *shape))
    linear.view(stored)[2, 0] = 5.0
    place = (0, 2) if linear.transposed else (2, 0)
    assert stored[place if linear.expert is None else (1, *place)] == 5.0
    assert stored.count_nonzero() == 1


def test_an_expert_is_named_by_its_place() -> None:
    assert Linear("block.up_proj", (3, 2), expert=2).name == "block.up_proj[2]"
    assert Linear("block.up_proj.weight", (3, 2)).name == "block.up_proj"
