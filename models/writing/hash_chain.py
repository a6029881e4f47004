"""The hash chain of a record: original model, each step, saved files.

Every link is the SHA-256 of the link before it and of the canonical JSON of what follows, so a
record whose steps or files were changed afterwards no longer agrees with its own chain. It is not a
signature: anyone who can rewrite the record can compute a new chain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any


def hash_chain(
    original: str, steps: Sequence[Mapping[str, Any]], files: Mapping[str, Any]
) -> list[str]:
    """The chain: one hash for the original model, one for each step, one for the files.

    Args:
        original: id of the original model, a hash of its tensors and config.
        steps: records of the steps as ``birdbone.json`` holds them.
        files: size and checksum of every file, likewise.
    """
    chain = [sha256(original.encode()).hexdigest()]
    for part in (*steps, files):
        text = json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        chain.append(sha256(f"{chain[-1]}\n{text}".encode()).hexdigest())
    return chain
