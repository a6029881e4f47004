"""Tiny checkpoints quantised, folders written from them, and what either computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny import tiny_windows
from torch import Tensor
from transformers import AutoModelForCausalLM

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.checkpoints.coded import BitsAndBytesKind
from birdbone.models.blocks.empty_model import empty_model, find_blocks
from birdbone.models.blocks.linears import find_linears
from birdbone.models.blocks.skeleton import Skeleton
from birdbone.models.codecs.bitsandbytes import handed_over
from birdbone.models.writing.folder import write_model
from birdbone.solvers.grid import Grid
from birdbone.solvers.round_to_nearest import quantize_round_to_nearest

GIB = 1 << 30


def written(checkpoint: Checkpoint, folder: Path, *, max_shard_bytes: int = GIB) -> Path:
    """The folder of a checkpoint, made first."""
    folder.mkdir()
    write_model(checkpoint, folder, max_shard_bytes=max_shard_bytes)
    return folder


def plain_logits(folder: Path, dtype: torch.dtype = torch.float32) -> Tensor:
    """What plain transformers computes from a folder."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, experts_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        return model.eval()(tiny_windows().tokens, use_cache=False).logits


def own_logits(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Tensor:
    """What the checkpoint computes in memory."""
    model = Skeleton(checkpoint, dtype=dtype).fill()
    with torch.no_grad():
        return model.eval()(tiny_windows().tokens, use_cache=False).logits


def quantized(checkpoint: Checkpoint, **grids: Any) -> Checkpoint:
    """Every ``nn.Linear`` of every block on a grid: 4 bits, groups of 16, or as ``grids`` says."""
    model = empty_model(checkpoint)
    path, blocks = find_blocks(model)
    codes = {}
    for index, block in enumerate(blocks):
        for linear in find_linears(block, f"{path}.{index}."):
            if linear.plain:
                leaf = linear.name.rpartition(".")[2]
                grid = grids.get(leaf, grids.get("every", Grid(bits=4, group_size=16)))
                weight = checkpoint.tensors[linear.tensor]
                made = quantize_round_to_nearest(weight, grid=grid, scale_dtype=weight.dtype)
                codes[linear.tensor] = Quantized(
                    made.codes, made.scales, bits=grid.bits, zero_points=made.zero_points
                )
    return checkpoint.evolve(codes)


def for_bitsandbytes(checkpoint: Checkpoint, kind: BitsAndBytesKind) -> Checkpoint:
    """Every ``nn.Linear`` of every block handed to bitsandbytes."""
    made = {
        name: handed_over(checkpoint.refs[name], kind)
        for name, ref in quantized(checkpoint).refs.items()
        if isinstance(ref, Quantized)
    }
    return checkpoint.evolve(made)


def all_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor in a folder's weight files."""
    return {n: t for path in folder.glob("*.safetensors") for n, t in load_file(path).items()}
