"""Linear layers of a record arranged by block and kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_IN_A_BLOCK = re.compile(r"^(?P<before>.*?)\.(?P<block>\d+)\.(?P<role>.+?)(\.weight)?$")


@dataclass(frozen=True)
class LayerGrid:
    """One value of each linear layer of the blocks.

    Attributes:
        roles: names of the linears within a block.
        blocks: numbers of the blocks.
        cells: value by (role, block); a layer that has none is left out.
        unit: what the values are.
    """

    roles: Sequence[str]
    blocks: Sequence[str]
    cells: Mapping[tuple[str, str], float]
    unit: str

    def values(self) -> list[list[float]]:
        """Rows of roles, columns of blocks; NaN where there is no value."""
        return [
            [self.cells.get((role, block), float("nan")) for block in self.blocks]
            for role in self.roles
        ]


def layer_grid(layers: Iterable[Mapping[str, Any]], key: str, unit: str) -> LayerGrid | None:
    """Arrange one value of every layer; None if fewer than two layers of blocks have it.

    Args:
        layers: the entries of ``layers`` in ``birdbone.json``.
        key: which of their values.
    """
    cells: dict[tuple[str, str], float] = {}
    for layer in layers:
        match = _IN_A_BLOCK.match(str(layer.get("name")))
        value = layer.get(key)
        if match is not None and isinstance(value, int | float):
            cells[match["role"], match["block"]] = float(value)
    if len(cells) < 2:
        return None
    roles = tuple(dict.fromkeys(role for role, _ in cells))
    blocks = tuple(sorted({block for _, block in cells}, key=int))
    return LayerGrid(roles, blocks, cells, unit)
