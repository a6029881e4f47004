"""Sensitivities as a record: sizes to the byte, losses from both passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_checkpoint, tiny_windows
from tiny_folders import all_weights, written

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.sensitivity import Sensitivity
from birdbone.engine import run_sync
from birdbone.links import quantize
from birdbone.links.allocating.estimates import (
    embeddings_to_round,
    measure_sensitivity,
    priced_grid,
    rounded_embeddings_bytes,
)
from birdbone.models.blocks.linears import all_linears
from birdbone.models.reading.stored_dtypes import as_dtype
from birdbone.solvers.grid import Grid

WINDOWS = tiny_windows(3, 12, seed=5, text="words")
GRIDS = [Grid(3, 16), Grid(8, None)]


def measured(checkpoint: Checkpoint, *, gradient_windows: int = 2) -> Sensitivity:
    return measure_sensitivity(
        checkpoint, WINDOWS, GRIDS, gradient_windows=gradient_windows, batch_size=2
    )


@pytest.fixture(scope="module")
def found() -> Sensitivity:
    return measured(tiny_checkpoint())


def test_every_linear_is_recorded(found: Sensitivity) -> None:
    checkpoint = tiny_checkpoint()
    assert list(found.linears) == [each.name for each in all_linears(checkpoint)]
    assert (found.checkpoint, found.text, found.num_tokens) == (checkpoint.id, "words", 36)
    for name, each in found.linears.items():
        assert each.kind == name
        assert each.dense_bytes == checkpoint.refs[f"{name}.weight"].num_bytes
        assert 0 < each.compensated <= 1.5
        assert [(grid.bits, grid.group_size) for grid in each.grids] == [(3, 16), (8, None)]
        assert 0 <= each.loss_at(8) < each.loss_at(3)  # type: ignore[operator]


def test_a_head_that_costs_more(found: Sensitivity) -> None:
    """A head with one huge row next to small ones loses more by its rounding."""
    checkpoint = tiny_checkpoint()
    head = checkpoint.tensors["lm_head.weight"].clone()
    head[:, 0] *= 50  # one column sets the scale of every row
    plain, rough = (
        found.embeddings,
        measured(checkpoint.evolve({"lm_head.weight": head})).embeddings,
    )
    assert plain is not None
    assert rough is not None
    assert rough.names == plain.names == ("model.embed_tokens.weight", "lm_head.weight")
    assert rough.loss > 5 * plain.loss > 0


@pytest.mark.parametrize(
    ("arch", "names"),
    [
        ("llama", ["model.embed_tokens.weight", "lm_head.weight"]),
        ("llama_tied", ["model.embed_tokens.weight"]),
        ("gemma3", []),
    ],
)
def test_which_embeddings(arch: str, names: list[str]) -> None:
    assert embeddings_to_round(tiny_checkpoint(arch)) == names


@pytest.mark.parametrize("arch", ["llama", "llama_tied"])
def test_bytes_of_embeddings(arch: str, tmp_path: Path) -> None:
    """What is stored by quantize(embedding_bits=8) beside the linears."""
    checkpoint = tiny_checkpoint(arch)
    sizes = []
    for bits in (None, 8):
        asked = quantize(method="rtn", group_size=16, embedding_bits=bits)
        sizes.append(run_sync(asked, {"checkpoint": checkpoint})["checkpoint"])
    names = embeddings_to_round(checkpoint)
    folders = [written(each, tmp_path / str(place)) for place, each in enumerate(sizes)]
    before, after = (
        sum(t.nbytes for t in _tensors(folder, ("embed_tokens", "lm_head"))) for folder in folders
    )
    assert before == sum(checkpoint.refs[name].num_bytes for name in names)
    assert after == rounded_embeddings_bytes(checkpoint, names)


def _tensors(folder: Path, parts: tuple[str, ...]) -> list[torch.Tensor]:
    every = all_weights(folder).items()
    return [tensor for name, tensor in every if any(part in name for part in parts)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grid", [Grid(4, 16), Grid(8, None), Grid(2, "auto")])
def test_price_of_a_grid(dtype: torch.dtype, grid: Grid) -> None:
    checkpoint = as_dtype(tiny_checkpoint(), dtype)
    linear = all_linears(checkpoint)[0]
    found = priced_grid(checkpoint, linear, grid, 0.5)
    group = grid.group_width(32)
    assert (found.bits, found.loss) == (grid.bits, 0.5)
    assert found.group_size == (None if grid.group_size is None else group)
    # 32 x 32 integers in words of 32 bits, a scale for each group, and the shape as two int64.
    words = 32 * -(-32 // (32 // grid.bits)) * 4
    assert found.num_bytes == words + 32 * (32 // group) * dtype.itemsize + 16


def test_more_gradients_than_windows() -> None:
    """All windows are used, and not one of them twice."""
    checkpoint = tiny_checkpoint(num_hidden_layers=1)
    every, more = (measured(checkpoint, gradient_windows=count) for count in (3, 99))
    assert replace(every, linears={}) == replace(more, linears={})
    assert every.linears == more.linears
