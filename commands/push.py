"""``birdbone push MODEL REPO``: upload a proven model to the Hugging Face hub."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ProofError
from .options import Device
from .prove import proof_of

_MODEL = "A folder that birdbone saved, or a .gguf file."
_REPO = "Repository on the hub, OWNER/NAME; created if it does not exist."
_PUBLIC = "Create the repository for everybody, or push to one that is public."
_REVISION = "Branch to push to, created if it does not exist."
_TRUST = "Allow Python code in the folder to run."
_DRY = "Prove the model and list what would be uploaded; nothing is sent."


def push(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help=_MODEL)],
    repo: Annotated[str, typer.Argument(metavar="REPO", help=_REPO)],
    public: Annotated[bool, typer.Option("--public", help=_PUBLIC)] = False,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help=_REVISION)] = None,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = (
        "Upload a model made by bird-bone"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_DRY)] = False,
    trust: Annotated[bool, typer.Option("--trust-remote-code", help=_TRUST)] = False,
    device: Device = None,
) -> None:
    """Upload a saved model to the Hugging Face hub, if it is proven.

    The model is first proven as `birdbone prove` does, and refused if a check fails or cannot be
    made. Files of its record are uploaded in one commit, with the card, birdbone.json and
    proof.json, and compared with what the hub then holds. A new repository is private without
    --public. Log in first with `hf auth login`, or set HF_TOKEN.
    """
    from ..checkpoints.placement import on_device
    from ..models.writing.hub_upload import check_repo, files_to_push, push_files
    from ..reports.proof import verdict
    from ..reports.terminal import quiet_libraries, say, warnings_as_notes

    check_repo(repo)
    with warnings_as_notes(), quiet_libraries():
        with on_device(device):
            proof = asyncio.run(proof_of(model, trust))
        if not proof.proven:
            raise ProofError(f"{verdict(proof)} Not pushed; `birdbone prove {model}` shows why")
        say("birdbone", verdict(proof))
        files = files_to_push(model)
        for line in _listed(files):
            typer.echo(line)
        if dry_run:
            visible = "public" if public else "private"
            typer.echo(
                f"Would be pushed to {repo}; if it does not exist yet, it becomes {visible}."
            )
            return
        done = push_files(files, repo, public=public, revision=revision, message=message)
    removed = f"; removed {', '.join(done.removed)}" if done.removed else ""
    typer.echo(f"{done.url} ({'private' if done.private else 'public'}){removed}")


def _listed(files: Mapping[str, Path]) -> list[str]:
    from ..reports.units import in_bytes

    return [f"{in_bytes(path.stat().st_size):>10}  {name}" for name, path in sorted(files.items())]
