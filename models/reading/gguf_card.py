"""A model card from the metadata in a GGUF header: the model's licence and origin.

A folder brings these in its README.md; a GGUF file has keys for them (``general.license``,
``general.author``, ``general.base_model.0.repo_url`` …). They are carried as the source's card, so
that everything made from the file states them too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf import ReaderField

_LINES = {
    "license": "general.license",
    "license_name": "general.license.name",
    "license_link": "general.license.link",
    "model_name": "general.name",
    "model_author": "general.author",
    "model_organization": "general.organization",
    "model_version": "general.version",
    "model_url": "general.url",
    "model_repo_url": "general.repo_url",
    "language": "general.languages",
    "tags": "general.tags",
}
_BASES = "general.base_model"
_MOST_BASES = 16
_LONGEST = 1000  # characters of an entry
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_HUB = re.compile(r"https?://huggingface\.co/([^/\s]+/[^/\s]+)/?")


def card_of_header(fields: Mapping[str, ReaderField], label: str) -> bytes:
    """The card in Markdown, metadata first; empty where the header states none of it.

    Args:
        fields: the keys of the header, which is untrusted input.
        label: what to call the file.
    """
    found = {name: each for name, key in _LINES.items() if (each := _entry(fields, key))}
    bases = _bases(fields)
    if bases:
        found["base_model"] = bases
    if not found:
        return b""
    if isinstance(found.get("license"), str):
        found["license"] = str(found["license"]).lower()  # as the hub writes its identifiers
    lines = [f"{name}: {_spelled(value)}" for name, value in found.items()]
    title = found.get("model_name") or label
    about = f"# {title}\n\nFrom the header of the GGUF file `{label}`.\n"
    return ("\n".join(["---", *lines, "---", "", about])).encode()


def _bases(fields: Mapping[str, ReaderField]) -> list[str]:
    """The models it was made from: hub ids, else addresses, else names."""
    count = _contents(fields, f"{_BASES}.count")
    found = []
    for place in range(min(count, _MOST_BASES) if isinstance(count, int) else 0):
        address = _text(_contents(fields, f"{_BASES}.{place}.repo_url"))
        on_hub = _HUB.fullmatch(address or "")
        name = _text(_contents(fields, f"{_BASES}.{place}.name"))
        found.append(on_hub[1] if on_hub else address or name)
    return [each for each in found if each]


def _entry(fields: Mapping[str, ReaderField], key: str) -> str | list[str] | None:
    value = _contents(fields, key)
    if isinstance(value, list):
        texts = [_text(each) for each in value]
        return [each for each in texts if each] or None
    return _text(value)


def _contents(fields: Mapping[str, ReaderField], key: str) -> Any:
    return fields[key].contents() if key in fields else None


def _text(value: object) -> str | None:
    """One line of text; None for anything else."""
    line = " ".join(value.split()) if isinstance(value, str) else ""
    return line[:_LONGEST] if line.isprintable() and line else None


def _spelled(value: str | list[str]) -> str:
    """A value in YAML: plain where that is safe, else as JSON, which YAML includes."""
    if isinstance(value, list):
        return f"[{', '.join(_spelled(each) for each in value)}]"
    return value if _PLAIN.fullmatch(value) and value not in _WORDS else json.dumps(value)


_WORDS = ("no", "No", "NO", "yes", "Yes", "YES", "on", "On", "off", "Off", "true", "false", "null")
"""What YAML reads as something else than text; "no" is also the code of Norwegian."""
