"""What packed experts have in common: transformers reads one scheme for those of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...errors import SettingError
from ...models.blocks.linears import Linear
from .grids import Grids


def check_experts(every: Iterable[Linear], chosen: Sequence[Linear], grids: Grids) -> None:
    """Check that the packed experts of a model have one grid, and are all of their tensor.

    Args:
        every: the linears of the model.
        chosen: those to quantise.

    Raises:
        SettingError: naming a layer.
    """
    packed = [linear for linear in chosen if grids.packs(linear) and linear.apart]
    tensors = {linear.tensor for linear in packed}
    for linear in every:
        if linear.tensor in tensors and not grids.quantises(linear):
            raise SettingError(
                f"quantize(ignore): '{linear.name}' is left out and other experts of its tensor "
                f"are not; ignore all of them with '{linear.tensor}*', or none"
            )
    sizes = {linear: _bits_and_columns(linear, grids) for linear in packed}
    for linear, (bits, columns) in sizes.items():
        first, (first_bits, first_columns) = next(iter(sizes.items()))
        if (bits, columns) != (first_bits, first_columns):
            raise SettingError(
                f"quantize: '{first.name}' gets {first_bits} bits in groups of {first_columns} and "
                f"'{linear.name}' {bits} bits in groups of {columns}, but the experts of a folder "
                f"share one kind; set one group_size that divides both widths "
                f"({first.shape[1]} and {linear.shape[1]}), and the same overrides for both"
            )


def _bits_and_columns(linear: Linear, grids: Grids) -> tuple[int, int | str]:
    grid = grids.of(linear)
    whole = grid.group_size is None
    return grid.bits, "a whole row" if whole else grid.group_width(linear.shape[1])
