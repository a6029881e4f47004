"""``birdbone gc RUN``: delete files of a run folder that no step refers to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson, answer

_SUPERSEDED = "Also delete the steps that the last run did not use."


def gc(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    superseded: Annotated[bool, typer.Option("--superseded", help=_SUPERSEDED)] = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Only report what would be deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete what crashes and abandoned links left in a run folder, and report its size."""
    from rich.text import Text

    from ..journal.folder import RunFolder
    from ..journal.garbage import collect
    from ..journal.journal import Journal
    from ..reports.units import in_bytes

    Journal(folder)  # raises for a folder that is not a run folder; RunFolder would create one
    with RunFolder(folder) as opened:
        found = collect(opened, superseded=superseded, dry=dry)
    verb = "would free" if dry else "freed"
    words = f"{verb} {in_bytes(found.freed_bytes)} in {found.files} files"
    if found.steps:
        words += f", including steps {', '.join(map(str, found.steps))}"
    words += f"; {in_bytes(found.kept_bytes)} remain"
    answer(found.as_dict(), lambda: Text(words), as_json=as_json)
