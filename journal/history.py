"""The steps of a run folder as a document, for people and programs."""

from __future__ import annotations

from typing import Any

from .collecting import num_bytes
from .journal import Journal


def history_document(journal: Journal) -> dict[str, Any]:
    """Every step with what it did, in types JSON knows.

    ``in_last_run`` tells the steps that the last run came to from those another run did;
    ``in_progress`` is how many links left work unfinished.
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
        "bytes": num_bytes(journal.path),
        "steps": steps,
        "in_progress": len(unfinished),
    }
