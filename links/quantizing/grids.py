"""The grid of every linear: a common one, and exceptions by name pattern."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from ...errors import SettingError
from ...models.blocks.linears import Linear
from ...solvers.grid import Grid
from .settings import GridOverride, QuantizeSettings


@dataclass(frozen=True)
class Grids:
    """The grids that linears are rounded to.

    Attributes:
        common: the grid of linears that no pattern matches.
        ignored: name patterns of linears that are not quantised.
        overrides: bits and group size by name pattern; the first match counts.
    """

    common: Grid
    ignored: Sequence[str] = ()
    overrides: Mapping[str, GridOverride] = field(default_factory=dict)

    def quantises(self, linear: Linear) -> bool:
        """Whether a linear is quantised at all."""
        return not any(fnmatchcase(linear.name, pattern) for pattern in self.ignored)

    def of(self, linear: Linear) -> Grid:
        """The grid of one linear."""
        for pattern, override in self.overrides.items():
            if fnmatchcase(linear.name, pattern):
                return replace(self.common, **override)
        return fitting_grid(self.common, linear)


def fitting_grid(grid: Grid, linear: Linear) -> Grid:
    """The grid itself, or Q5_0 where super-blocks do not divide the width, as llama.cpp does."""
    if grid.super_block and linear.shape[1] % grid.super_block:
        return Grid.named("q5_0")
    return grid


def grids_of(settings: QuantizeSettings) -> Grids:
    """The grids that quantised weights are on."""
    if settings.grid != "int":
        return Grids(Grid.named(settings.grid), settings.ignore)
    signed = bool(settings.signed and settings.symmetric)
    common = Grid(settings.bits, settings.group_size, settings.symmetric, signed=signed)
    return Grids(common, settings.ignore, settings.overrides or {})


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
