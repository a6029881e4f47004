"""The pass that takes units out: what solvers are given, and that a wrong result is noticed."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from torch import nn

from birdbone.checkpoints import Checkpoint
from birdbone.errors import Cancelled, ModelError
from birdbone.models.blocks.replay import capture, through_blocks
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.units.narrowing import narrowing
from birdbone.models.units.remove_units import Kept, hollow_blocks, require_same
from birdbone.models.units.residuals import Fed

WINDOWS = tiny_windows(8, 16)


def unheard(done: int, total: int) -> None:
    """Nobody listens."""


def first_half(fed: Fed) -> Kept:
    """Keep the first half, as it is."""
    units = torch.arange(fed.weight.shape[1] // 2)
    weight = fed.weight.clone()
    weight[:, len(units) :] = 0.0
    return Kept(units, weight)


def seen_by(checkpoint: Checkpoint, *, matched: bool, batch_size: int = 3) -> list[Fed]:
    """What the solver is given, block by block, while half of everything goes."""
    found: list[Fed] = []

    def choose(fed: Fed) -> Kept:
        found.append(fed)
        return first_half(fed)

    hollow_blocks(
        checkpoint,
        WINDOWS,
        narrowing(checkpoint, "neurons", 32),
        choose,
        batch_size=batch_size,
        matched=matched,
        announce=unheard,
    )
    return found


def entering(checkpoint: Checkpoint, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What flows into a block's down projection, and what leaves the block, in the whole model."""
    model = Skeleton(checkpoint).fill()
    layer = model.get_submodule(f"model.layers.{block}")
    down = layer.get_submodule("mlp.down_proj")
    assert isinstance(down, nn.Linear)
    seen: list[torch.Tensor] = []
    down.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    layer.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        model(WINDOWS.tokens, use_cache=False)
    return seen[0].flatten(0, 1), seen[1].flatten(0, 1)


def test_missing_is_what_the_block_gave_in_the_model_as_given() -> None:
    dense = tiny_checkpoint("llama")
    fed = seen_by(dense, matched=True)[1]
    zeroed = dense.evolve(
        {
            name: torch.cat([tensor[:, :32], torch.zeros(32, 32)], dim=1)
            for name in ("model.layers.0.mlp.down_proj.weight",)
            for tensor in (dense.tensors[name],)
        }
    )
    inputs, output = entering(zeroed, 1)
    _, wanted = entering(dense, 1)
    torch.testing.assert_close(fed.gram.matrix, inputs.T @ inputs, atol=1e-3, rtol=1e-4)
    assert fed.missing is not None
    expected = (wanted - output).T @ inputs
    torch.testing.assert_close(fed.missing, expected, atol=1e-3, rtol=1e-3)


def test_nothing_is_missing_before_the_first_block_was_hollowed() -> None:
    first = seen_by(tiny_checkpoint("llama"), matched=True)[0]
    assert first.missing is not None
    assert float(first.missing.abs().max()) == 0.0


def test_behind_a_norm_the_linears_own_output_is_what_is_missing() -> None:
    fed = seen_by(tiny_checkpoint("gemma3"), matched=True)
    assert fed[0].missing is not None
    assert float(fed[0].missing.abs().max()) == 0.0
    assert fed[1].missing is not None
    assert float(fed[1].missing.abs().max()) > 0.0


def test_unmatched_passes_and_experts_have_nothing_missing() -> None:
    assert all(fed.missing is None for fed in seen_by(tiny_checkpoint("llama"), matched=False))
    experts = seen_by(tiny_checkpoint("mixtral"), matched=True)
    assert len(experts) == 12
    assert all(fed.missing is None for fed in experts)


def test_batches_of_another_size_sum_to_the_same() -> None:
    dense = tiny_checkpoint("llama")
    by_three, by_eight = (seen_by(dense, matched=True, batch_size=size) for size in (3, 8))
    for one, other in zip(by_three, by_eight, strict=True):
        torch.testing.assert_close(one.gram.matrix, other.gram.matrix, atol=1e-3, rtol=1e-4)


def test_a_model_that_computes_something_else_is_refused() -> None:
    dense = tiny_checkpoint("llama")
    skeleton = Skeleton(dense)
    (batch,) = capture(skeleton, [WINDOWS.tokens])
    (hidden,) = through_blocks(skeleton, [batch])
    require_same(dense, batch, hidden)
    name = "model.layers.1.mlp.up_proj.weight"
    turned = dense.evolve({name: dense.tensors[name].roll(1, 0)})
    with pytest.raises(ModelError, match=r"computes hidden states that differ by"):
        require_same(turned, batch, hidden)


def test_a_cancelled_pass_stops_between_blocks() -> None:
    def stop(done: int, total: int) -> None:
        raise Cancelled(f"after {done} of {total}")

    dense = tiny_checkpoint("llama")
    with pytest.raises(Cancelled, match="after 1 of 3"):
        hollow_blocks(
            dense,
            WINDOWS,
            narrowing(dense, "neurons", 32),
            first_half,
            batch_size=4,
            matched=False,
            announce=stop,
        )
