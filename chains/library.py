"""Every link bird-bone has, by the name that recipes, ``--set`` and the command line use."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .. import links
from ..engine import Link, LinkFactory
from ..errors import SettingError, did_you_mean

LINKS: Mapping[str, LinkFactory[...]] = MappingProxyType(
    {name: getattr(links, name) for name in links.__all__}
)


def bind(factory: LinkFactory[...], settings: Mapping[str, Any]) -> Link:
    """A link with settings whose names a user typed.

    Raises:
        SettingError: a name is unknown (any string at all may come: ``self`` too), or a value
            is refused.
    """
    for name in settings:
        if name not in factory.schema.model_fields:
            mend = did_you_mean(name, factory.schema.model_fields)
            raise SettingError(f"{factory.name} has no setting '{name}'; {mend}")
    return factory(**settings)
