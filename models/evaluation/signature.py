"""The signature of a saved model's record, made and checked by minisign.

``birdbone.json`` has the checksum of every file, so a signature of it covers the whole model. It is
made with ``minisign -Sm light/birdbone.json`` and lies beside the record.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ..writing.publishing import PROVENANCE
from .proof import Check

SIGNATURE = f"{PROVENANCE}.minisig"


def check_signature(folder: Path, public_key: Path) -> Check:
    """Check the record's signature with a public key; None where that cannot be tried."""
    signature = folder / SIGNATURE
    if not public_key.is_file():
        return Check("signature", None, f"there is no public key '{public_key}'")
    if not signature.is_file():
        return Check("signature", False, f"{SIGNATURE} is missing: the record is not signed")
    program = shutil.which("minisign")
    if program is None:
        return Check("signature", None, "minisign is not installed, so it cannot be checked")
    done = subprocess.run(
        [program, "-V", "-p", public_key, "-m", folder / PROVENANCE, "-x", signature],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        return Check("signature", False, f"minisign: {words[0]}")
    return Check("signature", True, f"{PROVENANCE} is signed by the key in '{public_key.name}'")
