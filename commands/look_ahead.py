"""``birdbone run --dry-run``, and the same look taken before and after every run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ..contexts.forecast import Preflight
    from ..engine import Chain


def look_ahead(
    chain: Chain, run_folder: Path | None, *, dry_run: bool, quiet: bool
) -> Preflight | None:
    """What the run is expected to cost, as if it began anew; None where one that goes on may fit.

    What a run folder holds is replayed, so that a run that goes on is told what does not fit, and
    not refused for it: the links that need it may have run.

    Raises:
        LinkError: a link could not work on what it would get.
        ResourceError: the run cannot fit.
    """
    begun = run_folder is not None and run_folder.is_dir() and any(run_folder.iterdir())
    from ..chains.preflight.look import preflight
    from ..errors import ResourceError
    from ..reports.forecast import in_short
    from ..reports.terminal import say

    try:
        found = preflight(chain)
    except ResourceError as error:
        if not begun or dry_run:
            raise
        say(
            "note", f"{error}; what {run_folder} holds is replayed and may spare it", style="yellow"
        )
        return None
    if not dry_run and not quiet:
        say("birdbone", in_short(found))
        if begun:
            say("birdbone", f"of this, what {run_folder} holds of the same run is only replayed")
        for caution in found.cautions:
            say("note", caution, style="yellow")
    return found


def tell_ahead(found: Preflight | None, *, as_json: bool) -> None:
    """What a dry run prints."""
    assert found is not None  # a dry run always looks
    from ..reports.forecast import preflight_document, preflight_report
    from ..reports.terminal import show

    if as_json:
        typer.echo(json.dumps(preflight_document(found), indent=2, ensure_ascii=False))
    else:
        show(preflight_report(found))


def tell_after(found: Preflight | None, result: Mapping[str, Any], *, as_json: bool) -> None:
    """What a finished run prints: its result, and estimates beside what happened."""
    from ..reports.forecast import outcomes, outcomes_document, outcomes_report
    from ..reports.result import result_document, result_report
    from ..reports.terminal import show

    rows = [] if found is None else outcomes(found, result)
    if as_json:
        document = {**result_document(result), "estimates": outcomes_document(rows)}
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    show(result_report(result))
    if rows:
        show(outcomes_report(rows))
