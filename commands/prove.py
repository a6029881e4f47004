"""``birdbone prove FOLDER``: is this folder what was saved, and does it compute what it did?"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

_TRUST = "Allow Python that the folder brings to run."


def prove(
    folder: Annotated[Path, typer.Argument(help="A folder that birdbone saved.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    trust: Annotated[bool, typer.Option("--trust-remote-code", help=_TRUST)] = False,
) -> None:
    """Prove a saved folder in a fresh process with plain transformers; exit code 1 if it fails.

    Every file is held against its checksum, and logits and score against the record made when the
    folder was saved. Without that record a folder can be opened, but not proven: exit code 1 too.
    A checksum shows damage; it is no signature, and shows no forger's name.
    """
    from ..models import proof
    from ..reports.proving import proof_report
    from ..reports.terminal import quiet_libraries, show, warnings_as_notes

    with warnings_as_notes(), quiet_libraries():
        found = asyncio.run(proof.prove(folder, trust_remote_code=trust))
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        show(proof_report(found))
    if not found.proven:
        raise typer.Exit(1)
