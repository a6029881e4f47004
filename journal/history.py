"""The steps of a run folder as a JSON document."""

from __future__ import annotations

from typing import Any

from .garbage import folder_bytes
from .journal import Journal


def history_document(journal: Journal) -> dict[str, Any]:
    """Return every step with its record, JSON-compatible.

    ``in_last_run`` is True for steps that the last run used. ``in_progress`` is the number of links
    with unfinished work.
    """
    last = set(journal.last())
    steps = [
        {
            "number": kept.number,
            **kept.step.as_dict(),
            "added": sorted(kept.added),
            "in_last_run": kept.key in last,
        }
        for kept in journal.steps()
    ]
    unfinished = list((journal.path / "unfinished").glob("*/progress.json"))
    return {
        "folder": str(journal.path),
        "bytes": folder_bytes(journal.path),
        "steps": steps,
        "in_progress": len(unfinished),
    }
