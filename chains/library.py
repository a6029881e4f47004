"""All links by name, as recipes, ``--set`` and the command line spell it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .. import links
from ..engine import LinkFactory

LINKS: Mapping[str, LinkFactory[..., Any, Any]] = MappingProxyType(
    {name: getattr(links, name) for name in links.__all__}
)
