"""``birdbone prove MODEL``: check that a saved model is unchanged and computes the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Device

if TYPE_CHECKING:
    from ..models.evaluation.proof import Proof

_MODEL = "A folder that birdbone saved, or a .gguf file."
_TRUST = "Allow Python code in the folder to run."


def prove_command(
    folder: Annotated[Path, typer.Argument(metavar="MODEL", help=_MODEL)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    trust: Annotated[bool, typer.Option("--trust-remote-code", help=_TRUST)] = False,
    device: Device = None,
) -> None:
    """Check that a saved model is unchanged and computes what it did when it was saved.

    A fresh process opens it with plain transformers, or with llama.cpp if it is a GGUF file (the
    extra birdbone[llama]). Every file is compared with its checksum, and the logits and the score
    (for a GGUF file only the score) with the record made when the model was saved. Exit code 1 if
    a check fails or cannot be made, for example because there is no record.

    Checksums detect damage. They are not a signature, and do not show who wrote the files.
    """
    from ..checkpoints.placement import on_device
    from ..reports.proof import proof_report
    from ..reports.terminal import quiet_libraries, show, warnings_as_notes

    with warnings_as_notes(), quiet_libraries(), on_device(device):
        found = asyncio.run(proof_of(folder, trust))
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        show(proof_report(found))
    if not found.proven:
        raise typer.Exit(1)


def proof_of(folder: Path, trust: bool) -> Coroutine[Any, Any, Proof]:
    """By llama.cpp for a GGUF file or a folder with one and no config, else by transformers."""
    from ..formats import gguf_proof
    from ..models.evaluation import proof

    is_file = folder.suffix == ".gguf" and folder.is_file()
    if is_file or (not (folder / "config.json").is_file() and any(folder.glob("*.gguf"))):
        return gguf_proof.prove_gguf(folder)
    return proof.prove(folder, trust_remote_code=trust)
