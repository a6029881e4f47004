"""The grid of every linear: a common one, and exceptions by name pattern."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import gcd
from typing import Any

from ...checkpoints.coded import InputActivations
from ...errors import SettingError
from ...formats.ggml_blocks import kind_of_grid
from ...formats.ggml_types import kind_for_width
from ...models.blocks.linears import Linear
from ...solvers.float4 import MXFP4, float4_name, nvfp4_grid
from ...solvers.grid import NAMED_GRIDS, Grid
from .settings import FLOAT4, GridOverride, QuantizeSettings


@dataclass(frozen=True)
class Grids:
    """The grids that linears are rounded to.

    Attributes:
        common: the grid of linears that no pattern matches.
        ignored: name patterns of linears that are not quantised.
        overrides: bits and group size, or a format of ggml, by name pattern; the first match
            counts.
        is_float8: whether codes are float8, with the scales of ``common``, instead of integers.
        input_activations: what the inputs of the linears are rounded to.
        block_size: rows and columns that share a scale of float8; None for one scale per row.
        largest: with nvfp4 the magnitude by linear that decides the unit of its scales; absent
            before weights are read.
        experts_group: columns per group of packed experts where the size is chosen by width; one
            size for all of them, since transformers reads one.
    """

    common: Grid
    ignored: Sequence[str] = ()
    overrides: Mapping[str, GridOverride] = field(default_factory=dict)
    is_float8: bool = False
    input_activations: InputActivations | None = None
    block_size: int | None = None
    largest: Mapping[str, float] = field(default_factory=dict)
    experts_group: int | None = None

    def quantises(self, linear: Linear) -> bool:
        """Whether a linear is quantised at all."""
        return not any(fnmatchcase(linear.name, pattern) for pattern in self.ignored)

    def packs(self, linear: Linear) -> bool:
        """Whether compressed-tensors holds a linear on these grids.

        transformers reads experts as packed integers, or as float8 with one scale per row.
        """
        dense = self.input_activations == "int8" or self.block_size or float4_name(self.common)
        return linear.plain or (linear.apart and not dense)

    def of(self, linear: Linear) -> Grid:
        """The grid of one linear."""
        grid = self._stated(linear)
        if linear.apart and grid.group_size == "auto":
            return replace(grid, group_size=self.experts_group)
        return grid

    def _stated(self, linear: Linear) -> Grid:
        for pattern, override in self.overrides.items():
            if fnmatchcase(linear.name, pattern):
                return _overridden(self.common, override, linear)
        if linear.name in self.largest:
            return nvfp4_grid(self.largest[linear.name])
        return fitting_grid(self.common, linear)


def _overridden(common: Grid, override: GridOverride, linear: Linear) -> Grid:
    if "grid" in override:
        return fitting_grid(Grid.named(override["grid"]), linear)
    sizes: dict[str, Any] = {name: value for name, value in override.items() if name != "grid"}
    return replace(common, **sizes)


def fitting_grid(grid: Grid, linear: Linear) -> Grid:
    """The grid of a linear, as `fallback_grid`."""
    return fallback_grid(grid, linear.shape[1])


def fallback_grid(grid: Grid, width: int) -> Grid:
    """The grid itself, or the fallback of `ggml_types` if its blocks do not divide the width."""
    kind = kind_of_grid(grid)
    found = None if kind is None else kind_for_width(kind, width)
    return NAMED_GRIDS.get(found or "", grid)  # float16 is no grid: refused by its width


def grids_of(settings: QuantizeSettings, linears: Iterable[Linear]) -> Grids:
    """The grids that quantised weights are on.

    Args:
        linears: those of the model.
    """
    if settings.grid == "fp8":
        return Grids(
            Grid(8, None),
            settings.ignore,
            is_float8=True,
            input_activations=settings.input_activations,
            block_size=settings.block_size,
        )
    if settings.grid in FLOAT4:
        return Grids(MXFP4 if settings.grid == "mxfp4" else nvfp4_grid(1.0), settings.ignore)
    if settings.grid != "int":
        return Grids(Grid.named(settings.grid), settings.ignore, settings.overrides or {})
    signed = bool(settings.signed and settings.symmetric)
    common = Grid(settings.bits, settings.group_size, settings.symmetric, signed=signed)
    widths = [linear.shape[1] for linear in linears if linear.apart]
    return Grids(
        common,
        settings.ignore,
        settings.overrides or {},
        input_activations=settings.input_activations,
        experts_group=Grid(8, "auto").group_width(gcd(*widths)) if widths else None,
    )


def check_overrides(settings: QuantizeSettings) -> None:
    """Refuse overrides that are not of the kind of the common grid.

    Raises:
        SettingError: a format of ggml beside packed integers, or bits beside formats of ggml.
    """
    for pattern, override in (settings.overrides or {}).items():
        if settings.grid == "int" and "grid" in override:
            raise SettingError(
                f"quantize(overrides): '{pattern}' is given a format of ggml, and the other "
                f"linears integers, which no file holds together; set grid='{override['grid']}' "
                f"too, or give bits and group_size"
            )
        wrong = [name for name in override if name != "grid"]
        if settings.grid != "int" and wrong:
            raise SettingError(
                f"quantize(grid='{settings.grid}', overrides): '{pattern}' is given {wrong[0]}, "
                f"which a format of ggml fixes; give a grid, such as {{'grid': 'q8_0'}}"
            )


def check_patterns(settings: QuantizeSettings, linears: Iterable[Linear]) -> None:
    """Check that every name pattern matches a linear.

    Raises:
        SettingError: a pattern that matches none, with a name that could be meant.
    """
    names = [linear.name for linear in linears]
    for setting, patterns in (("ignore", settings.ignore), ("overrides", settings.overrides or {})):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise SettingError(
                    f"quantize({setting}): pattern '{pattern}' matches no linear of the model; "
                    f"names look like '{names[0]}', and '*' stands for any characters"
                )
