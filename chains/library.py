"""Every link bird-bone has, by the name that recipes, ``--set`` and the command line use."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .. import links
from ..engine import LinkFactory

LINKS: Mapping[str, LinkFactory[...]] = MappingProxyType(
    {name: getattr(links, name) for name in links.__all__}
)
