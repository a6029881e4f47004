"""What the source's card and licence files say of its licence, authors and origin."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from ...checkpoints import Checkpoint
from .folder_files import CARRIED_CARD, is_licence

_MAX_BYTES = 1 << 18
_MOST = 64  # entries of a list
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_LICENCE_TEXTS = {
    "apache-2.0": ("apache license", "version 2.0"),
    "mit": ("permission is hereby granted, free of charge", "the software is provided"),
}
"""Hub identifier to what the text of a licence contains."""


class _AsWritten(yaml.SafeLoader):
    """Loads scalars as the text they are: `no` is a language and 2024 a tag; `~` is nothing."""


_AsWritten.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.endswith((":null", ":merge"))]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def source_metadata(checkpoint: Checkpoint) -> dict[str, str | list[str]]:
    """The metadata at the top of the card that is carried with a model, texts and lists by key.

    If the card names no licence, it is recognised from the text of a LICENSE file, if that is one
    of the well-known ones. Empty where nothing is known; a card that is no YAML counts as none.
    """
    found = _front_matter(checkpoint.files.get(CARRIED_CARD, b""))
    if "license" not in found and (licence := _licence_of_text(checkpoint.files)):
        found["license"] = licence
    return found


def base_models(checkpoint: Checkpoint) -> list[str]:
    """The hub ids that a checkpoint was made from: its source, else those that the card names."""
    stated = source_metadata(checkpoint).get("base_model", [])
    named = [checkpoint.source, *([stated] if isinstance(stated, str) else stated)]
    on_hub = [each for each in named if _HUB_ID.fullmatch(each) and not each.endswith(".gguf")]
    return on_hub[:1] if on_hub[:1] == [checkpoint.source] else on_hub


def _front_matter(card: bytes) -> dict[str, str | list[str]]:
    text = card[:_MAX_BYTES].decode("utf-8-sig", errors="replace")
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    opening, _, rest = lines.partition("---\n")
    if opening.strip() or "\n---" not in rest:
        return {}
    try:
        found = yaml.load(rest.partition("\n---")[0], _AsWritten)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    entries = found.items() if isinstance(found, Mapping) else ()
    return {str(name): kept for name, value in entries if (kept := _kept(value))}


def _kept(value: object) -> str | list[str] | None:
    """A text, or a list of texts; everything else in a card is of no use here."""
    if isinstance(value, list):
        return [each for each in value[:_MOST] if isinstance(each, str)]
    return value if isinstance(value, str) else None


def _licence_of_text(files: Mapping[str, bytes]) -> str | None:
    for name, data in files.items():
        if "licen" not in name.lower() or not is_licence(name):
            continue
        text = " ".join(data[:_MAX_BYTES].decode("utf-8", errors="replace").lower().split())
        for licence, parts in _LICENCE_TEXTS.items():
            if all(part in text for part in parts):
                return licence
    return None
