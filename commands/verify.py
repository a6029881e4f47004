"""``birdbone verify FOLDER``: check a folder's files and record, and compare it with its source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..models.evaluation.proof import Proof

_SOURCE = "The model it was made from: hub id, folder, .gguf file, or package:NAME/FILE.gguf."
_SIGNED = "File of a minisign public key: birdbone.json must be signed with that key."
_TRUST = "Allow Python code of the source to run."


def verify_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder birdbone saved.")],
    source: Annotated[str | None, typer.Option(metavar="MODEL", help=_SOURCE)] = None,
    signed_by: Annotated[
        Path | None, typer.Option("--signed-by", metavar="KEY", help=_SIGNED)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    trust: Annotated[bool, typer.Option("--trust-remote-code", help=_TRUST)] = False,
) -> None:
    """Check a saved folder without running it: files, record, and where it came from.

    Every file is compared with its checksum, and the record with its own hash chain. With --source,
    the original model is opened, and its tensors, tokenizer, templates and config are compared with
    what the folder and its record say. Exit code 1 if a check fails or there is no record. Use
    `birdbone prove` to check what the model computes. Checksums are not a signature; sign the
    record with `minisign -Sm FOLDER/birdbone.json` and check it with --signed-by.
    """
    from ..models.evaluation import verification
    from ..reports.proof import checks_table
    from ..reports.terminal import quiet_libraries, show, warnings_as_notes

    with warnings_as_notes(), quiet_libraries():
        found = verification.verify(folder, source, signed_by=signed_by, trust_remote_code=trust)
    verified = verification.is_verified(found)
    if as_json:
        document = {**found.as_dict(), "verified": verified}
        del document["proven"], document["said"], document["environment"]
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        show(checks_table(found.checks))
        typer.echo(_conclusion(found, verified))
    if not verified:
        raise typer.Exit(1)


def _conclusion(found: Proof, verified: bool) -> str:
    name = found.folder.resolve().name
    if found.failed:
        failed = ", ".join(check.name for check in found.failed)
        return f"Not verified: check failed for '{name}': {failed}."
    signature = next((each for each in found.checks if each.name == "signature"), None)
    if signature is not None and not signature.holds:
        return f"Not verified: the signature of '{name}' could not be checked."
    if not verified:
        return f"Not verified: '{name}' has no record to check it against."
    return f"Verified: no check failed for '{name}'. What it computes: birdbone prove."
