"""Contexts over tiny models as links leave them, and what a test needs to look inside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiny import tiny_checkpoint, tiny_windows
from torch import Tensor

from birdbone.checkpoints import Checkpoint, Quantized
from birdbone.checkpoints.tensors import digest
from birdbone.engine import Chain, run
from birdbone.links import profile, score
from birdbone.models.blocks.linears import Linear

ROUTERS = ("mlp.gate.weight", "mlp.router.weight")

_made: dict[str, dict[str, Any]] = {}


def calibrated(checkpoint: Checkpoint, *, num: int = 4, length: int = 16) -> dict[str, Any]:
    """A context as calibrate leaves it, its three texts of random tokens."""
    return {
        "checkpoint": checkpoint,
        "dense": checkpoint,
        "calibration": tiny_windows(num, length, seed=0, text="calibration"),
        "healing": tiny_windows(num, length, seed=1, text="healing"),
        "heldout": tiny_windows(num, length, seed=2, text="heldout"),
    }


async def scored(arch: str) -> dict[str, Any]:
    """A context as score leaves it, every weight's score kept; made once per architecture."""
    if arch not in _made:
        links = Chain(profile(), score(method="wanda", per_weight=True))
        _made[arch] = await run(links, calibrated(tiny_checkpoint(arch)))
    return _made[arch]


def weight_of(checkpoint: Checkpoint, linear: Linear) -> Tensor:
    """A linear's weight ``[out_features, in_features]``."""
    return linear.view(checkpoint.tensors[linear.tensor])


def codes_of(checkpoint: Checkpoint) -> dict[str, Quantized]:
    """Every tensor held as codes, by name."""
    return {n: ref for n, ref in checkpoint.refs.items() if isinstance(ref, Quantized)}


def block_matrices(checkpoint: Checkpoint) -> set[str]:
    """Names of all block tensors that hold weight matrices, found by name and shape alone."""
    return {
        name
        for name, ref in checkpoint.refs.items()
        if any(part.isdigit() for part in name.split("."))
        and len(ref.shape) >= 2
        and not name.endswith(("_bias", *ROUTERS))
    }


def digests(checkpoint: Checkpoint) -> Mapping[str, str]:
    """The content of every tensor, read now."""
    return {name: digest(tensor) for name, tensor in checkpoint.tensors.items()}


def overflowing(checkpoint: Checkpoint) -> Checkpoint:
    """A llama that computes nearly the same, through activations beyond the range of float16."""
    changed = {}
    for name, tensor in checkpoint.tensors.items():
        if name.endswith(("mlp.gate_proj.weight", "mlp.up_proj.weight")):
            changed[name] = tensor * 3000
        elif name.endswith("mlp.down_proj.weight"):
            changed[name] = tensor * 1e-7
    return checkpoint.evolve(changed)
