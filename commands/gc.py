"""``birdbone gc DIR``: free what no step of a run folder refers to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson, answer

_SUPERSEDED = "Let go also of steps that the last run did not come to."


def gc(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")],
    superseded: Annotated[bool, typer.Option("--superseded", help=_SUPERSEDED)] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Free what no step refers to: what crashes and abandoned links left; say how much."""
    from rich.text import Text

    from ..journal.collecting import collect
    from ..journal.folder import RunFolder
    from ..journal.journal import Journal
    from ..reports.result import in_bytes

    Journal(folder)  # a folder that is none is refused, not made one
    with RunFolder(folder) as opened:
        found = collect(opened, superseded=superseded, dry=dry)
    verb = "would free" if dry else "freed"
    told = f"{verb} {in_bytes(found.freed_bytes)} in {found.files} files"
    if found.steps:
        told += f", with them steps {', '.join(map(str, found.steps))}"
    told += f"; {in_bytes(found.kept_bytes)} stay"
    answer(found.as_dict(), lambda: Text(told), as_json=as_json)
