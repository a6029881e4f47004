"""Without text: every linear on its own, to nearest or for bitsandbytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import tiny_checkpoint
from tiny_contexts import block_matrices, calibrated, codes_of, digests

from birdbone.checkpoints import BitsAndBytes, Checkpoint
from birdbone.engine import run
from birdbone.errors import SettingError, SolverError
from birdbone.links import quantize
from birdbone.links.quantizing.grids import Grids
from birdbone.links.quantizing.uncalibrated import chosen_linears, fits, one_by_one
from birdbone.models.blocks.linears import Linear, all_linears
from birdbone.models.reading.stored_dtypes import as_dtype
from birdbone.solvers.grid import Grid
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest

GRIDS = Grids(Grid(4, 16))
PLAIN = Linear("model.layers.0.mlp.up_proj.weight", (64, 32))


@pytest.fixture(scope="module")
def llama() -> Checkpoint:
    return tiny_checkpoint()


@pytest.fixture(scope="module")
def experts() -> Checkpoint:
    return tiny_checkpoint("gpt_oss")


def test_each_is_rounded_by_itself(llama: Checkpoint) -> None:
    before = digests(llama)
    light, metrics = one_by_one(llama, "rtn", GRIDS, True, "minmax")
    found = codes_of(light)
    assert set(found) == block_matrices(llama)
    assert metrics == {"linears": 21}
    for name, ref in found.items():
        wanted = quantize_round_to_nearest(llama.tensors[name], grid=GRIDS.common)
        assert torch.equal(ref.codes, wanted.codes)
    assert digests(llama) == before


@pytest.mark.parametrize("scales", ["minmax", "searched"])
def test_scales(scales: str, llama: Checkpoint) -> None:
    """Searched ones leave a smaller error in the weight."""
    coarse = Grids(Grid(2, 32))
    light, _ = one_by_one(llama, "rtn", coarse, True, scales)  # type: ignore[arg-type]
    name = PLAIN.tensor
    weight = llama.tensors[name]
    error = float((light.refs[name].load() - weight).norm() / weight.norm())
    assert (error < 0.45) == (scales == "searched")


def test_experts_are_parts_of_a_tensor(experts: Checkpoint) -> None:
    """All of them are rounded, none overwrites another, and each is counted."""
    light, metrics = one_by_one(
        experts, "rtn", Grids(Grid(3, 16, symmetric=False)), False, "minmax"
    )
    assert metrics == {"linears": len(all_linears(experts))}
    for linear in all_linears(experts):
        before = linear.view(experts.tensors[linear.tensor])
        after = linear.view(light.tensors[linear.tensor])
        assert not torch.equal(before, after), linear.name
        assert all(len(group.unique()) <= 8 for group in after.unflatten(1, (-1, 16)).flatten(0, 1))
        assert float((after - before).norm() / before.norm()) < 0.25


async def test_calibrated_methods_count_alike(experts: Checkpoint) -> None:
    asked = quantize(method="gptq", symmetric=False, group_size=16, matching=0.0)
    with pytest.warns(UserWarning, match="no format written here packs zero points"):
        after = await run(asked, calibrated(experts))
    assert after["history"][-1].metrics["linears"] == len(all_linears(experts))


def test_bitsandbytes_gets_the_dtype_of_the_model() -> None:
    half = as_dtype(tiny_checkpoint(hidden_size=64), torch.bfloat16)
    light, metrics = one_by_one(half, "nf4", GRIDS, True, "minmax")
    handed = {n: ref for n, ref in light.refs.items() if isinstance(ref, BitsAndBytes)}
    assert set(handed) == block_matrices(half)
    assert {ref.kind for ref in handed.values()} == {"nf4"}
    assert {ref.dtype for ref in handed.values()} == {torch.bfloat16}
    assert metrics == {"linears": 21}


@pytest.mark.parametrize(
    ("linear", "method", "fitting"),
    [
        (PLAIN, "rtn", True),
        (PLAIN, "nf4", True),
        (replace(PLAIN, plain=False), "rtn", False),
        (replace(PLAIN, plain=False), "llm.int8", False),
        (replace(PLAIN, plain=False, initialised=True), "gptq", False),
        (replace(PLAIN, plain=False, initialised=True), "nf4.single", True),
        (replace(PLAIN, plain=False, apart=True), "gptq", True),
        (replace(PLAIN, plain=False, apart=True), "llm.int8", False),
    ],
)
def test_what_a_format_holds(linear: Linear, method: str, fitting: bool) -> None:
    assert fits(linear, GRIDS, method) is fitting


def test_ignored_linears(llama: Checkpoint) -> None:
    chosen = chosen_linears(llama, Grids(GRIDS.common, ("*.mlp.*", "*.q_proj")), True)
    assert {each.name.rpartition(".")[2] for each in chosen} == {"k_proj", "v_proj", "o_proj"}
    with pytest.raises(
        SettingError, match=r"quantize\(ignore=\['\*'\]\) leaves no linear of 'tiny"
    ):
        chosen_linears(llama, Grids(GRIDS.common, ("*",)), True)


def test_experts_only_unpacked(experts: Checkpoint) -> None:
    packed = chosen_linears(experts, GRIDS, True)
    assert all(each.plain for each in packed)
    assert len(chosen_linears(experts, GRIDS, False)) > len(packed)


def test_nothing_to_pack() -> None:
    """GPT-2 stores its weights transposed, which no packed format holds."""
    with pytest.raises(SettingError, match=r"no linear of 'tiny/gpt2' can be stored .* like tran"):
        chosen_linears(tiny_checkpoint("gpt2"), GRIDS, True)


def test_a_weight_that_is_not_finite(llama: Checkpoint) -> None:
    broken = llama.tensors[PLAIN.tensor].clone()
    broken[0, 0] = torch.nan
    with pytest.raises(SolverError, match=r"layer 'model\.layers\.0\.mlp\.up_proj': "):
        one_by_one(llama.evolve({PLAIN.tensor: broken}), "rtn", GRIDS, True, "minmax")
