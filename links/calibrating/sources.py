"""Which sources the parts of the text are from, and their documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...texts import DataSetting, TextAddress, Weighted, parse_addresses, read_raw, unused_builtin


@dataclass(frozen=True)
class PartSources:
    """Sources by what they are for.

    Attributes:
        data: of calibration and healing text, and of held-out text where no other is named.
        heldout: of held-out text; None for a part of data.
        elsewhere: of text from elsewhere.
        chosen: whether elsewhere is a built-in text because the user named none.
    """

    data: tuple[TextAddress, ...]
    heldout: tuple[TextAddress, ...] | None
    elsewhere: tuple[TextAddress, ...]
    chosen: bool

    @classmethod
    def parse(
        cls,
        data: DataSetting,
        heldout_data: DataSetting | None,
        elsewhere: DataSetting | None,
    ) -> PartSources:
        """Read the settings.

        Raises:
            SettingError: a source is spelled wrong, or twice.
            DataError: every built-in text is used, and none is left for elsewhere.
        """
        sources = parse_addresses(data)
        heldout = None if heldout_data is None else parse_addresses(heldout_data)
        if elsewhere is not None:
            return cls(sources, heldout, parse_addresses(elsewhere), chosen=False)
        used = [each.place for each in (*sources, *(heldout or ()))]
        return cls(sources, heldout, (TextAddress(unused_builtin(used)),), chosen=True)

    @property
    def all(self) -> tuple[TextAddress, ...]:
        """Every source, each once."""
        return tuple(dict.fromkeys((*self.data, *(self.heldout or ()), *self.elsewhere)))


def read_sources(addresses: Sequence[TextAddress], tokenizer: Any) -> tuple[Weighted, ...]:
    """The sources' documents as text, each source with its weight.

    Raises:
        DataError, MissingExtraError: a source cannot be read, is too short, or holds a
            conversation that cannot be rendered.
    """
    return tuple(Weighted(read_raw(each).rendered(tokenizer), each.weight) for each in addresses)
