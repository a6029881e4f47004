"""``birdbone revert RUN STEP --out DIR``: write the model as it was after a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SettingError
from .options import AsJson, answer

if TYPE_CHECKING:
    from ..journal import Journal, KeptOutcome

_SHARD_BYTES = 5_000_000_000


def revert(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    step: Annotated[int, typer.Argument(help="The number of the step in `birdbone log`.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder to write.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder even if birdbone did not write it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the model as it was after a step of a run. The run folder is not changed."""
    from rich.text import Text

    from ..journal.journal import Journal
    from ..reports.terminal import quiet_libraries, warnings_as_notes

    journal = Journal(run)
    kept = journal.step(step)
    with warnings_as_notes(), quiet_libraries():
        document = _written(journal, kept, out, force)
    words = f"{document['path']}: the model after step {step} ({kept.step.link}), not evaluated"
    answer(document, lambda: Text(words, overflow="fold"), as_json=as_json)


def _written(journal: Journal, kept: KeptOutcome, out: str, force: bool) -> dict[str, Any]:
    """Write the folder and its record, and publish both atomically."""
    from ..links.saving.target import is_file_name
    from ..models.writing.folder import write_model
    from ..models.writing.publishing import (
        PROVENANCE,
        check_disk,
        check_target,
        files_of,
        private_folder,
        publish,
    )
    from ..reports.provenance import provenance

    if is_file_name(out):
        raise SettingError(
            f"revert writes a folder, and '{out}' is the name of a GGUF file; give the name of a "
            f"folder, and write the file from it with birdbone export"
        )
    checkpoint = journal.checkpoint(kept)
    target = check_target(out, force)
    check_disk(target, checkpoint.num_bytes)
    steps = journal.leading_to(kept)
    held = set(journal.objects.ids())
    dense = next(each for each in steps if each.step.checkpoint in held)
    with private_folder(target, "partial") as folder:
        write_model(checkpoint, folder, max_shard_bytes=_SHARD_BYTES)
        record = provenance(
            checkpoint=checkpoint,
            dense=journal.checkpoint(dense),
            history=[each.step for each in steps],
            texts={},
            figures={},
            measured_on={},
            files=files_of(folder),
        )
        text = json.dumps(record, indent=2) + "\n"
        (folder / PROVENANCE).write_text(text, encoding="utf-8")
        publish(folder, target)
    return {"path": str(target), "step": kept.number, "checkpoint": checkpoint.id}
