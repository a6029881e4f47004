"""Paragraphs for tests/tasks/prose.yaml, from descriptions of packages that birdbone requires."""

from __future__ import annotations

from importlib import metadata
from typing import Any

_PACKAGES = ("torch", "transformers", "safetensors", "accelerate", "pydantic", "numpy", "rich")
_MARKUP = ("|", "<", "#", "`", "http", "    ", "- ", "* ", "[")


def documents(**_: Any) -> dict[str, Any]:
    """The paragraphs of every package, as lm-eval wants them."""
    from datasets import Dataset

    rows = [{"text": text} for name in _PACKAGES for text in paragraphs(name)]
    return {"test": Dataset.from_list(rows)}


def paragraphs(package: str) -> list[str]:
    """Those of at least 100 characters without markup."""
    body = str(metadata.metadata(package).get_payload()).replace("\r", "")
    parts = (" ".join(part.split("\n")).strip() for part in body.split("\n\n"))
    return [part for part in parts if len(part) >= 100 and not any(m in part for m in _MARKUP)]
