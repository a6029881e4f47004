"""Whole blocks go: what is left computes as it should, is refitted, and may resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from torch import Tensor

from birdbone.checkpoints import Checkpoint, InMemory, LeftOut
from birdbone.errors import Cancelled, NumericsError
from birdbone.models.blocks.replay import capture, replay
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.passes.resuming import PassState
from birdbone.models.units.remove_layers import keep_layers, require_alike, shorter_config
from birdbone.models.units.residuals import Fed

WINDOWS = tiny_windows(8, 16)
DOWN = "model.layers.{}.mlp.down_proj.weight"


def as_it_is(fed: Fed) -> Tensor:
    return fed.weight


def fitted(fed: Fed) -> Tensor:
    """Least squares: the weight plus the residual's best linear fit, lightly damped."""
    assert fed.missing is not None
    gram = fed.gram.matrix + 1e-3 * fed.gram.matrix.diagonal().mean() * torch.eye(64)
    return fed.weight + torch.linalg.solve(gram, fed.missing.T).T


def kept(
    dense: Checkpoint, blocks: Sequence[int], bridge: Any = as_it_is, **more: Any
) -> Checkpoint:
    values = {"correct": None, "batch_size": 4, "announce": lambda *_: None, **more}
    return keep_layers(dense, WINDOWS, blocks, bridge, **values)


def leaving(checkpoint: Checkpoint, blocks: Sequence[int]) -> Tensor:
    """The hidden states after some of a model's blocks, one after the other."""
    skeleton = Skeleton(checkpoint)
    (batch,) = capture(skeleton, [WINDOWS.tokens])
    hidden = batch.hidden
    with torch.no_grad():
        for index in blocks:
            with skeleton.block(index) as block:
                hidden = replay(block, hidden, batch.calls[index])
    return hidden


def blocks_of(checkpoint: Checkpoint) -> int:
    return require_alike(checkpoint)


def test_all_blocks_kept_is_the_same_model() -> None:
    dense = tiny_checkpoint()
    found = kept(dense, [0, 1, 2])
    assert found.config == dense.config
    assert all(torch.equal(found.tensors[name], dense.tensors[name]) for name in dense.refs)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("blocks", [[0, 2], [1], [1, 2]])
def test_blocks_that_stay_take_new_numbers(arch: str, blocks: list[int]) -> None:
    dense = tiny_checkpoint(arch)
    found = kept(dense, blocks)
    assert blocks_of(found) == len(blocks)
    torch.testing.assert_close(
        leaving(found, range(len(blocks))), leaving(dense, blocks), rtol=1e-5, atol=1e-5
    )
    others = [name for name in dense.refs if not any(part.isdigit() for part in name.split("."))]
    assert all(found.refs[name] is dense.refs[name] for name in others)


def test_the_input_is_not_changed() -> None:
    dense = tiny_checkpoint()
    before = {name: tensor.clone() for name, tensor in dense.tensors.items()}
    kept(dense, [0, 2], fitted, correct=fitted)
    assert all(torch.equal(dense.tensors[name], tensor) for name, tensor in before.items())


def test_the_linear_before_a_gap_learns_what_the_gap_added() -> None:
    dense = tiny_checkpoint(num_hidden_layers=4)
    told: list[str] = []

    def bridge(fed: Fed) -> Tensor:
        told.append(fed.linear.tensor)
        return fitted(fed)

    found = kept(dense, [0, 3], bridge)
    assert told == [DOWN.format(0)]
    wanted = leaving(dense, [0, 1, 2])
    off = [float((leaving(each, [0]) - wanted).norm()) for each in (kept(dense, [0, 3]), found)]
    assert off[1] < 0.9 * off[0]
    assert torch.equal(found.tensors[DOWN.format(1)], dense.tensors[DOWN.format(3)])


def test_blocks_after_a_gap_are_corrected_where_asked() -> None:
    dense = tiny_checkpoint(num_hidden_layers=4)
    told: list[str] = []

    def correct(fed: Fed) -> Tensor:
        told.append(fed.linear.tensor)
        return fed.weight

    kept(dense, [0, 2, 3], correct=correct)
    assert told == [DOWN.format(2), DOWN.format(3)]
    told.clear()
    kept(dense, [0, 1, 2], correct=correct)  # nothing before the gap, at the end, is off
    assert told == []


def test_behind_a_norm_nothing_is_refitted() -> None:
    """Gemma adds the output of a norm, which no linear can make up for."""

    def refuse(fed: Fed) -> Tensor:
        raise AssertionError(fed.linear.tensor)

    assert blocks_of(kept(tiny_checkpoint("gemma3"), [0, 1], refuse, correct=refuse)) == 2


def test_progress_is_told_by_blocks_of_the_original() -> None:
    told: list[tuple[int, int]] = []
    kept(tiny_checkpoint(num_hidden_layers=5), [1, 3], announce=lambda *at: told.append(at))
    assert told == [(3, 5), (5, 5)]


@pytest.mark.parametrize("stop", [1, 2])
def test_a_stopped_pass_resumes_to_the_same_bytes(stop: int) -> None:
    dense = tiny_checkpoint(num_hidden_layers=5)
    whole = kept(dense, [0, 2, 3], fitted, correct=fitted)
    saved: list[PassState] = []

    def announce(done: int, total: int) -> None:
        if len(saved) == stop:
            raise Cancelled(f"after {done} of {total}")

    with pytest.raises(Cancelled):
        kept(dense, [0, 2, 3], fitted, correct=fitted, announce=announce, save=saved.append)
    found = kept(dense, [0, 2, 3], fitted, correct=fitted, begin=saved[-1])
    assert found.id == whole.id


def test_unused_tensors_go_with_their_layer() -> None:
    extra = {f"model.layers.{n}.rotary_emb.inv_freq": InMemory(torch.ones(1)) for n in range(3)}
    found = kept(replace(tiny_checkpoint(), unused=extra), [0, 2])
    assert list(found.unused) == [f"model.layers.{n}.rotary_emb.inv_freq" for n in range(2)]
    assert found.left_out == (
        LeftOut("model.layers.1.rotary_emb.inv_freq", 4, "its layer was removed"),
    )


def test_a_bridge_that_breaks_the_model_is_refused() -> None:
    with pytest.raises(NumericsError, match=r"model\.layers\.0"):
        kept(tiny_checkpoint(), [0, 2], lambda fed: fed.weight * float("nan"))


def test_the_config_says_which_are_left() -> None:
    assert shorter_config(tiny_checkpoint(), [0, 2])["num_hidden_layers"] == 2
    assert shorter_config(tiny_checkpoint("gpt2"), [1]) == {"n_layer": 1}
    found = shorter_config(tiny_checkpoint("gemma3"), [1, 2])
    assert found["layer_types"] == ["full_attention", "sliding_attention"]


@pytest.mark.parametrize("arch", ["llama", "gemma3", "mixtral", "falcon"])
def test_blocks_alike_are_counted(arch: str) -> None:
    assert blocks_of(tiny_checkpoint(arch)) == 3
