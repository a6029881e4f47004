"""What is recorded of a saved model or of the last run of a run folder, for reports and plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..journal.journal import KeptOutcome
    from ..reports.html_report.records import ModelRecord


def recorded_model(path: Path) -> ModelRecord:
    """The record of a folder or .gguf file that birdbone saved, or of a run folder's last run.

    Raises:
        DataError: there is no record, or birdbone did not write it.
        RunFolderError: no link has finished in the run folder.
    """
    from ..journal.journal import MARKER, Journal
    from ..reports.html_report.records import model_record, read_model

    if not (path / MARKER).is_file():
        return read_model(path)
    finished = Journal(path).steps_of_last_run()
    return model_record(path.resolve().name, _facts(path, finished))


def _facts(path: Path, finished: list[KeptOutcome]) -> Mapping[str, Any]:
    from ..errors import RunFolderError

    if not finished:
        raise RunFolderError(f"run folder '{path}' has no finished link; let the run finish one")
    steps = [step.as_dict() for each in finished for step in each.with_inner_steps()]
    saves = [step["metrics"] for step in steps if step["link"] == "save"]
    return {"steps": steps, "figures": {"light": saves[-1]} if saves else {}}
