"""``birdbone prove FOLDER``: is this folder what was saved, and does it compute what it did?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..models.evaluation.proof import Proof

_TRUST = "Allow Python that the folder brings to run."


def prove(
    folder: Annotated[Path, typer.Argument(help="A folder that birdbone saved.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    trust: Annotated[bool, typer.Option("--trust-remote-code", help=_TRUST)] = False,
) -> None:
    """Prove a saved folder in a fresh process, in what it is for; exit code 1 if it fails.

    That is plain transformers, or llama.cpp for a GGUF file (the extra birdbone[llama]). Every file
    is held against its checksum, and logits and score, of a GGUF file the score alone, against the
    record made when the folder was saved. Without that record a folder can be opened, but not
    proven: exit code 1 too. A checksum shows damage; it is no signature, and shows no forger's
    name.
    """
    from ..reports.proof import proof_report
    from ..reports.terminal import quiet_libraries, show, warnings_as_notes

    with warnings_as_notes(), quiet_libraries():
        found = asyncio.run(_proof(folder, trust))
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        show(proof_report(found))
    if not found.proven:
        raise typer.Exit(1)


def _proof(folder: Path, trust: bool) -> Coroutine[Any, Any, Proof]:
    """By transformers where there is a config for it, else by llama.cpp where there is its file."""
    from ..formats import gguf_proof
    from ..models.evaluation import proof

    if not (folder / "config.json").is_file() and any(folder.glob("*.gguf")):
        return gguf_proof.prove_gguf(folder)
    return proof.prove(folder, trust_remote_code=trust)
