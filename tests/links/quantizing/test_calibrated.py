"""One pass of GPTQ over the blocks: what it leaves, what it reports, and where it goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from tiny_contexts import block_matrices, codes_of

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.flow import Empty
from birdbone.engine import link, run
from birdbone.links.quantizing.calibrated import round_by_text
from birdbone.links.quantizing.grids import Grids
from birdbone.links.quantizing.low_rank import Correcting
from birdbone.links.quantizing.solve import BlockTuning, Rounding
from birdbone.models.passes.tuning import Tuning
from birdbone.solvers.grid import Grid

DENSE = tiny_checkpoint()
TEXT = tiny_windows(8)


def rounding(grids: Grids | None = None, **more: Any) -> Rounding:
    plain = {"damping": 0.01, "order": "static", "scales": "searched", "refit": False}
    how = {**plain, "sweeps": 0, "matching": 0.0, **more}
    return Rounding(DENSE, grids or Grids(Grid(3, 16)), True, **how)


async def rounded(
    how: Rounding, tuning: BlockTuning | None = None, batch_size: int = 4
) -> tuple[Checkpoint, dict[str, Any]]:
    """Within a run, which the pass asks for its place to keep work in progress."""

    @link
    async def step(ctx: Empty) -> dict[str, Any]:
        return {"found": await round_by_text(TEXT, how, tuning, batch_size)}

    found: tuple[Checkpoint, dict[str, Any]] = (await run(step(), {}))["found"]
    return found


async def test_every_linear() -> None:
    light, metrics = await rounded(rounding())
    assert set(codes_of(light)) == block_matrices(DENSE)
    assert metrics["linears"] == 21
    assert set(metrics["relative_errors"]) == {
        name.removesuffix(".weight") for name in block_matrices(DENSE)
    }
    assert light.parent == DENSE.id


async def test_ignored_linears_stay() -> None:
    light, metrics = await rounded(rounding(Grids(Grid(3, 16), ("*.mlp.*",))))
    assert all("self_attn" in name for name in codes_of(light))
    assert metrics["linears"] == 12
    name = "model.layers.0.mlp.up_proj.weight"
    assert light.refs[name] is DENSE.refs[name]


async def test_batches_change_little() -> None:
    """Sums of products differ in their last bits, which may turn a few integers."""
    one, four = [(await rounded(rounding(), batch_size=size))[0] for size in (1, 4)]
    differing = [
        float((ref.codes != codes_of(four)[name].codes).double().mean())
        for name, ref in codes_of(one).items()
    ]
    assert max(differing) < 0.05


async def test_matching_changes_later_blocks() -> None:
    """The first block has nothing before it whose error could be corrected."""
    plain, matched = [(await rounded(rounding(matching=each)))[0] for each in (0.0, 1.0)]
    same = {
        name: torch.equal(ref.codes, codes_of(matched)[name].codes)
        for name, ref in codes_of(plain).items()
    }
    assert same["model.layers.0.self_attn.q_proj.weight"]
    assert not same["model.layers.2.mlp.down_proj.weight"]


async def test_tuning_is_reported() -> None:
    tuning = BlockTuning(Tuning(iterations=2, batch_size=2))
    light, metrics = await rounded(rounding(), tuning, batch_size=1)
    assert len(tuning.tuned) == 3
    assert metrics["block_loss_after"] <= metrics["block_loss_before"]
    assert 0 <= metrics["codes_changed"] < 1
    assert set(codes_of(light)) == block_matrices(DENSE)


async def test_a_correction_is_a_file_beside() -> None:
    how = rounding(Grids(Grid(3, 16), ("*.self_attn.*",)), correcting=Correcting(2, 0.01))
    light, metrics = await rounded(how)
    fresh = set(light.files) - set(DENSE.files)
    assert fresh == {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    assert metrics["adapter_bytes"] == sum(len(light.files[name]) for name in fresh)
    assert metrics["mean_corrected_error"] < metrics["mean_relative_error"]


@pytest.mark.parametrize("tuned", [False, True])
async def test_the_input_stays(tuned: bool) -> None:
    before = {name: tensor.clone() for name, tensor in DENSE.tensors.items()}
    tuning = BlockTuning(Tuning(iterations=1, batch_size=2)) if tuned else None
    await rounded(rounding(), tuning, batch_size=1)
    for name, tensor in DENSE.tensors.items():
        assert torch.equal(tensor, before[name])
