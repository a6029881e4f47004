"""One link of each kind that rewrites a model block by block."""

from __future__ import annotations

from typing import Any

from birdbone.checkpoints import Checkpoint
from birdbone.checkpoints.store import Stored, StoredCodes
from birdbone.links import heal, prune, quantize

PASSES: dict[str, tuple[Any, type]] = {
    "codes": (quantize(group_size=32), StoredCodes),
    "masks": (prune(sparsity=0.5), Stored),
    "neurons": (prune(pattern="neurons", sparsity=0.25), Stored),
    "healed": (heal(method="blocks", epochs=6, learning_rate=1e-2), Stored),
}
"""The link, and what its finished tensors are on disk."""


def shrunk(checkpoint: Checkpoint) -> Checkpoint:
    """Every linear 0.3 times as large, which healing improves."""
    linears = [name for name in checkpoint.refs if name.endswith("_proj.weight")]
    return checkpoint.evolve({name: checkpoint.tensors[name] * 0.3 for name in linears})
