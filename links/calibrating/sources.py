"""Sources of each part of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...texts import (
    Corpus,
    DataSetting,
    TextAddress,
    Weighted,
    parse_addresses,
    read_raw,
    unused_builtin,
)
from .own_text import SELF, expanded, refuse_self


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
            SettingError: a source is spelled wrong, or twice, or text sampled from the model is to
                judge it.
            DataError: every built-in text is used, and none is left for elsewhere.
        """
        sources = expanded(parse_addresses(data))
        heldout = None if heldout_data is None else parse_addresses(heldout_data)
        refuse_self(heldout or (), "heldout_data")
        if elsewhere is not None:
            others = parse_addresses(elsewhere)
            refuse_self(others, "elsewhere")
            return cls(sources, heldout, others, chosen=False)
        used = [each.place for each in (*sources, *(heldout or ()))]
        return cls(sources, heldout, (TextAddress(unused_builtin(used)),), chosen=True)

    @property
    def samples(self) -> bool:
        """Whether some of the text is sampled from the model."""
        return any(each.place == SELF for each in self.data)

    @property
    def all(self) -> tuple[TextAddress, ...]:
        """Every source that is read, each once."""
        found = dict.fromkeys((*self.data, *(self.heldout or ()), *self.elsewhere))
        return tuple(each for each in found if each.place != SELF)


def read_sources(
    addresses: Sequence[TextAddress], tokenizer: Any, own: Corpus | None = None
) -> tuple[Weighted, ...]:
    """The sources' documents as text, each source with its weight.

    Args:
        addresses: of the sources.
        tokenizer: of the model.
        own: what was sampled from the model; None leaves the source `self` out.

    Raises:
        DataError, MissingExtraError: a source cannot be read, is too short, or holds a
            conversation that cannot be rendered.
    """
    found = (
        (own if each.place == SELF else read_raw(each).rendered(tokenizer), each.weight)
        for each in addresses
    )
    return tuple(Weighted(corpus, weight) for corpus, weight in found if corpus is not None)
