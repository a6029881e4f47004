"""``birdbone log RUN``: the steps of a run folder; with ``--export`` what one of them left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SettingError
from .options import AsJson, answer

_RUN = "A run folder, as given to run --run."
_EXPORT = "Write what this step left: scores, plan, masks, profile, verdict."


def log(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=_RUN)],
    export: Annotated[int | None, typer.Option(metavar="STEP", help=_EXPORT)] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to export to.")] = None,
    as_json: AsJson = False,
) -> None:
    """List every step of a run: settings, time, memory, metrics, kept or reverted."""
    from ..journal.history import history_document
    from ..journal.journal import Journal
    from ..reports.steps import steps_report

    journal = Journal(run)
    if export is not None:
        _export(journal, export, out, as_json)
        return
    if out is not None:
        raise SettingError("--out says where --export goes; give --export STEP")
    document = history_document(journal)
    answer(document, lambda: steps_report(document, _defaults()), as_json=as_json)


def _defaults() -> dict[str, dict[str, Any]]:
    from ..chains import LINKS

    return {
        name: {key: field.default for key, field in factory.schema.model_fields.items()}
        for name, factory in LINKS.items()
    }


def _export(journal: Any, step: int, out: Path | None, as_json: bool) -> None:
    from rich.text import Text

    from ..journal.exporting import export

    if out is None:
        raise SettingError("--export needs --out DIR, a new folder")
    names = export(journal, journal.step(step), out)
    document = {"path": str(out), "files": names}
    answer(document, lambda: Text(f"{out}: {', '.join(names)}"), as_json=as_json)
