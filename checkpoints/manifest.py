"""A store's manifests: what a checkpoint is made of, as JSON sealed with its own checksum.

The checkpoint's id covers its content; the checksum also covers what the id leaves out: source,
parent, dtypes and shapes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_VERSION = 1


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest's file; what is in it keeps its order, which saved files show."""
    versioned = {**manifest, "version": _VERSION}
    whole = {"sha256": _checksum(versioned), "manifest": versioned}
    return json.dumps(whole, indent=1).encode()


def unsealed(data: bytes) -> Mapping[str, Any]:
    """The manifest in a file's bytes.

    Raises:
        ValueError, LookupError, TypeError, RecursionError: not a manifest, damaged, or of a
            version this code does not read; the caller knows the file and names it.
    """
    whole = json.loads(data)
    manifest: Mapping[str, Any] = whole["manifest"]
    if _checksum(manifest) != whole["sha256"]:
        raise ValueError("its checksum does not match")
    if manifest["version"] != _VERSION:
        raise ValueError(f"it has version {manifest['version']}, this store reads {_VERSION}")
    return manifest


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
