"""Manifests: JSON documents with a checksum over their own content.

A checkpoint's manifest lists its parts. The checkpoint's id covers config, files and tensors; the
checksum also covers what the id does not: source, parent, dtypes and shapes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_VERSION = 1


def encode_manifest(manifest: Mapping[str, Any]) -> bytes:
    """Return the bytes of a manifest file. Keys keep their order, which saved files preserve."""
    versioned = {**manifest, "version": _VERSION}
    whole = {"sha256": _checksum(versioned), "manifest": versioned}
    return json.dumps(whole, indent=1).encode()


def decode_manifest(data: bytes) -> Mapping[str, Any]:
    """Return the manifest in a file's bytes, after checking its checksum and version.

    Raises:
        ValueError, LookupError, TypeError, RecursionError: not a manifest, damaged, or of an
            unsupported version. The caller knows the file and names it in its error.
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
