"""Links of the user's own in recipes: ``module:name``, from modules the user allows to import."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from ...engine import LinkFactory
from ...errors import SettingError, did_you_mean
from ..library import LINKS


def find_link(name: str, imports: Sequence[str]) -> LinkFactory[..., Any, Any]:
    """The link that a recipe calls ``name``.

    Args:
        name: a link of birdbone, or ``module:name``.
        imports: the modules that may be imported, which runs their code.

    Raises:
        SettingError: there is no such link, or its module may not be imported.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in LINKS:
            raise SettingError(f"no link '{name}'; {did_you_mean(name, LINKS)}")
        return LINKS[name]
    if module not in imports:
        raise SettingError(
            f"link '{name}' is in module '{module}', which a recipe may not import by itself; "
            f"allow it with --import {module} (imports=['{module}'])"
        )
    found = getattr(_imported(module), attribute, None)
    if not isinstance(found, LinkFactory):
        raise SettingError(f"module '{module}' has no link '{attribute}'; decorate it with @link")
    return found


def name_in_recipe(factory: LinkFactory[..., Any, Any]) -> str | None:
    """The name by which `find_link` finds a link; None if there is none."""
    if LINKS.get(factory.name) is factory:
        return factory.name
    module = factory.function.__module__
    found = getattr(sys.modules.get(module), factory.name, None)
    return f"{module}:{factory.name}" if found is factory and module != "__main__" else None


def _imported(module: str) -> Any:
    try:
        with _working_directory_last():
            return import_module(module)
    except ImportError as error:
        raise SettingError(f"module '{module}' cannot be imported: {error}") from error


@contextmanager
def _working_directory_last() -> Iterator[None]:
    """Find modules in the working directory too, after all others."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
