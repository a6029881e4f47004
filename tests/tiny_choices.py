"""What may be chosen for a tiny model, with sizes that are exact and losses that are made up."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from tiny import tiny_checkpoint, tiny_windows
from tiny_contexts import calibrated
from tiny_gguf import gguf_checkpoint

from birdbone.checkpoints import Checkpoint
from birdbone.contexts.sensitivity import Sensitivity
from birdbone.links.allocating.choices import Choices
from birdbone.links.allocating.forecast import outlined_sensitivity
from birdbone.links.allocating.runtimes import Limits
from birdbone.solvers.grid import NAMED_GRIDS, Grid

_GRIDS = [Grid(bits, size) for bits in (2, 3, 4, 6, 8) for size in (8, 32, 64, None)]


def packed_choices(arch: str = "llama_tied", **settings: Any) -> Choices:
    """Packed integers of 2, 3, 4, 6 and 8 bits in groups of 8, 32, 64 and whole rows."""
    given = {
        "limits": Limits(("transformers",)),
        "bits": None,
        "group_sizes": None,
        "embedding_bits": "auto",
        **settings,
    }
    return Choices(tiny_checkpoint(arch), _packed_sensitivity(arch), **given)


@cache
def _packed_sensitivity(arch: str) -> Sensitivity:
    """Losses that differ between linears."""
    found = outlined_sensitivity(tiny_checkpoint(arch), tiny_windows(), _GRIDS)
    linears = {}
    for place, (name, each) in enumerate(found.linears.items()):
        factor = 1.0 + 10 * (place * 7 % 5)
        grids = tuple(replace(grid, loss=grid.loss * factor) for grid in each.grids)
        linears[name] = replace(each, grids=grids)
    embeddings = found.embeddings and replace(found.embeddings, loss=0.5)
    return replace(found, linears=linears, embeddings=embeddings)


def wide_checkpoint(variant: str) -> Checkpoint:
    """Down projections of 256 columns, which super-blocks divide; other widths are 32."""
    inner = "n_inner" if variant == "gpt2" else "intermediate_size"
    return gguf_checkpoint(variant, **{inner: 256})


def gguf_choices(variant: str = "llama tied", **settings: Any) -> Choices:
    """All ggml types with a grid, for `wide_checkpoint` of the variant."""
    checkpoint = wide_checkpoint(variant)
    windows = calibrated(checkpoint)["calibration"]
    grids = [Grid.named(name) for name in NAMED_GRIDS]
    found = outlined_sensitivity(checkpoint, windows, grids, format="gguf")
    given = {"bits": None, "group_sizes": None, "embedding_bits": "auto", **settings}
    return Choices(checkpoint, found, Limits(("llama.cpp",)), **given)
