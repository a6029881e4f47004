"""Uniform ways to store a model: one grid for all linears, and one for embedding and head.

Of ggml types: a linear whose width the blocks of the type do not divide has the type that replaces
it in `ggml_types`, as a file of that type would; where that is not allowed, the smallest larger one
that is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...contexts.allocation import Candidate, LinearGrid
from ...contexts.sensitivity import GridLoss, LinearSensitivity
from ...formats.ggml_types import GGML_KINDS, kind_for_width
from .choices import Choices, embedding_loss, is_known, priced
from .stored_matrices import tables


def uniform_candidates(choices: Choices, budget: int, count: int) -> list[Candidate]:
    """The uniform candidates of least estimated loss that fit."""
    made = uniform_types(choices) if choices.is_gguf else _of_grids(choices)
    fitting: list[Candidate] = []
    for each in sorted(made, key=lambda each: each.loss):
        if len(fitting) == count:
            break
        if is_known(each, fitting):
            continue
        sized = priced(choices, each)
        if sized.num_bytes <= budget:
            fitting.append(sized)
    return fitting


def _of_grids(choices: Choices) -> list[Candidate]:
    """Integers of every number of bits and group size, with every embedding."""
    linears = choices.sensitivity.linears
    bits = sorted({grid.bits for each in linears.values() for grid in choices.grids(each)})
    sizes = {grid.group_size for each in linears.values() for grid in choices.grids(each)}
    return [
        found
        for width in bits
        for size in sorted(sizes, key=lambda size: math.inf if size is None else size)
        for embedding in choices.embeddings
        if (found := _uniform_candidate(choices, width, size, embedding)) is not None
    ]


def uniform_types(choices: Choices, *, one_type: bool = False) -> Iterator[Candidate]:
    """Every type for the linears with every type for embedding and head, or with the same."""
    every = choices.sensitivity.linears
    beside = [name for name in tables(choices.checkpoint) if name in every]
    used = {grid.ggml_type for each in every.values() for grid in choices.grids(each)}
    types = [kind for kind in GGML_KINDS if kind in used]
    for kind in types:
        for other in [kind] if one_type else types:
            wanted = {name: other if name in beside else kind for name in every}
            found = {name: _of_type(choices, every[name], each) for name, each in wanted.items()}
            grids = {
                name: LinearGrid(each.bits, each.group_size, each.ggml_type)
                for name, each in found.items()
                if each is not None
            }
            if len(grids) < len(every):
                continue
            loss = sum(each.loss for each in found.values() if each is not None)
            name = f"{kind}, embedding {other}"
            yield Candidate(name, True, grids, None, 0, loss)


def _of_type(choices: Choices, matrix: LinearSensitivity, kind: str) -> GridLoss | None:
    """The type itself, or what stands for it where its blocks do not divide the width."""
    allowed = {each.ggml_type: each for each in choices.grids(matrix)}
    place = next(kind_for_width(each, matrix.shape[1]) for each in GGML_KINDS if each == kind)
    if place in allowed:
        return allowed[place]
    whole = next((e for e in matrix.grids if e.ggml_type == place), None)
    larger = [e for e in allowed.values() if whole is None or e.num_bytes >= whole.num_bytes]
    return min(larger, key=lambda each: (each.num_bytes, each.loss), default=None)


def _uniform_candidate(
    choices: Choices, bits: int, group_size: int | None, embedding: int | None
) -> Candidate | None:
    """All linears in the largest groups up to a size that divide their width, if there are some."""
    grids, loss, least = {}, 0.0, group_size
    for name, each in choices.sensitivity.linears.items():
        fitting = [grid for grid in choices.grids(each) if grid.bits == bits]
        sized = [
            grid
            for grid in fitting
            if (grid.group_size is None) == (group_size is None)
            and (grid.group_size or 0) <= (group_size or 0)
        ]
        if not sized:
            return None
        chosen = max(sized, key=lambda grid: grid.group_size or 0)
        grids[name] = LinearGrid(bits, chosen.group_size)
        loss += chosen.loss
        least = (
            chosen.group_size if chosen.group_size is None else min(least or 0, chosen.group_size)
        )
    if not choices.limits.mixed and len(set(grids.values())) > 1:
        return None
    groups = "one scale per row" if group_size is None else f"groups of {group_size}"
    if least != group_size:
        groups += f" or {least}"
    name = f"{bits} bits, {groups}"
    if embedding is not None:
        name += f", embedding {embedding} bits"
    total = loss + embedding_loss(choices, embedding)
    return Candidate(name, True, grids, embedding, 0, total)
