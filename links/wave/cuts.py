"""What the prune links of a body can remove in one wave, in sizes the model can have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...checkpoints import Checkpoint
from ...errors import ModelError
from ...models.evaluation.footprint import Footprint, by_shapes
from ...models.units.narrowing import resizing, units_of
from ...models.units.remove_layers import require_alike, shorter_config
from ..pruning.settings import PruneSettings, UnitPattern, takes_units
from ..pruning.unit_sizes import default_multiple

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Cut:
    """The sparsity of every prune of the body, in order, and the footprint that results.

    Attributes:
        sparsities: for masks the absolute fraction of zeros, for units the fraction of the current
            units to remove.
        taken: the largest fraction that a prune removes of what remains.
    """

    sparsities: tuple[float, ...]
    weight: Footprint
    taken: float


class Cutter:
    """The possible cuts of one model; sizes that were computed are cached.

    Attributes:
        weight: footprint of the model, with its zeros.

    Args:
        prunes: the settings of the body's prune links, in running order: all masks, or none.
    """

    def __init__(
        self, checkpoint: Checkpoint, weight: Footprint, prunes: Sequence[PruneSettings]
    ) -> None:
        self._checkpoint, self.weight, self._prunes = checkpoint, weight, prunes
        self._known: dict[tuple[Any, ...], Any] = {}

    @property
    def in_steps(self) -> bool:
        """Whether units are removed several at a time; a smaller multiple of prune changes that."""
        return any(self._step(each.pattern, each.multiple) > 1 for each in self._prunes)

    def cut(self, fraction: float) -> Cut | None:
        """Remove at most ``fraction`` of what remains, or one step in size if that is more.

        None if a prune finds no smaller size at all.
        """
        if not takes_units(self._prunes[0].pattern):
            zeros = 1 - (1 - self.weight.zero_share) * (1 - fraction)
            return Cut((zeros,) * len(self._prunes), self._forecast({}, zeros), fraction)
        config: dict[str, Any] = {}
        sparsities = []
        for settings in self._prunes:
            if not takes_units(settings.pattern):  # masks and units are never mixed
                continue
            found = self._units(settings.pattern, settings.multiple, fraction)
            if found is None:
                return None
            sparsities.append(found[0])
            config = _merged(config, found[1])
        weight = self._forecast(config, self.weight.zero_share)
        return Cut(tuple(sparsities), weight, max(sparsities))

    def _units(
        self, pattern: UnitPattern, multiple: int | None, fraction: float
    ) -> tuple[float, Config] | None:
        """The sparsity that leaves the size wanted, and the changed config."""
        before = self._count(pattern)
        for after in _sizes(before, self._step(pattern, multiple), (1 - fraction) * before):
            config = self._remembered(
                (pattern, after), lambda after=after: _config(self._checkpoint, pattern, after)
            )
            if config is not None:
                return 1 - after / before, config
        return None

    def _count(self, pattern: UnitPattern) -> int:
        found: int = self._remembered(
            ("before", pattern), lambda: _count(self._checkpoint, pattern)
        )
        return found

    def _step(self, pattern: str, multiple: int | None) -> int:
        if not takes_units(pattern):
            return 1
        return multiple or default_multiple(pattern, self._count(pattern))

    def _forecast(self, config: Config, zeros: float) -> Footprint:
        """The footprint of a model of this config with this fraction of zeros in its linears."""
        smaller = replace(self._checkpoint, config={**self._checkpoint.config, **config})
        key = ("weight", repr(sorted(config.items())))
        bare: Footprint = self._remembered(key, lambda: by_shapes(smaller))
        return replace(bare, masked=round(bare.linear_weights * zeros))

    def _remembered(self, key: tuple[Any, ...], find: Any) -> Any:
        if key not in self._known:
            self._known[key] = find()
        return self._known[key]


def _merged(config: Config, changes: Config) -> dict[str, Any]:
    """A config with changes; nested configs are merged too."""
    nested = {
        key: {**config[key], **value}
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(config.get(key), dict)
    }
    return {**config, **changes, **nested}


def _count(checkpoint: Checkpoint, pattern: UnitPattern) -> int:
    return require_alike(checkpoint) if pattern == "layers" else units_of(checkpoint, pattern)


def _sizes(before: int, step: int, wanted: float) -> Iterator[int]:
    """Smaller sizes in order of preference.

    First the sizes not below what is wanted, in ascending order; then those below it, in descending
    order, for models that cannot have any of the first.
    """
    legal = range(step, before, step)
    first = max(
        0, math.ceil(wanted / step - 1e-9) - 1
    )  # tolerance for rounding of an exact multiple
    yield from legal[first:]
    yield from reversed(legal[:first])


def _config(checkpoint: Checkpoint, pattern: UnitPattern, after: int) -> Config | None:
    """The config of the smaller model; None if the model cannot have that size."""
    if pattern == "layers":
        return shorter_config(checkpoint, range(after))
    try:
        return resizing(checkpoint, pattern, after).config
    except ModelError:
        return None
