"""``birdbone log RUN``: the steps of a run folder; ``--export`` writes the results of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SettingError
from .options import AsJson, answer

_RUN = "A run folder: what `birdbone run --run` was given."
_EXPORT = "Write the results of this step: scores, plan, masks, profile or verdict."


def log(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=_RUN)],
    export: Annotated[int | None, typer.Option(metavar="STEP", help=_EXPORT)] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to export to; it must not exist.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the steps of a run with settings, time, memory, metrics, and whether they were kept."""
    from ..journal.history import history_document
    from ..journal.journal import Journal
    from ..reports.steps import steps_report

    journal = Journal(run)
    if export is not None:
        _export(journal, export, out, as_json)
        return
    if out is not None:
        raise SettingError("--out is the folder for --export; give --export STEP too")
    document = history_document(journal)
    answer(document, lambda: steps_report(document, _defaults()), as_json=as_json)


def _defaults() -> dict[str, dict[str, Any]]:
    from ..chains import LINKS

    return {
        name: {key: field.default for key, field in factory.settings_type.model_fields.items()}
        for name, factory in LINKS.items()
    }


def _export(journal: Any, step: int, out: Path | None, as_json: bool) -> None:
    from rich.text import Text

    from ..journal.export_step import export_step

    if out is None:
        raise SettingError("--export needs --out DIR, a new folder")
    names = export_step(journal, journal.step(step), out)
    document = {"path": str(out), "files": names}
    answer(document, lambda: Text(f"{out}: {', '.join(names)}"), as_json=as_json)
