"""The estimate of a run: what ``--dry-run`` prints, and the lines before and after every run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import SettingError

if TYPE_CHECKING:
    from ..contexts.forecast import Preflight
    from ..engine import Chain


def look_ahead(
    chain: Chain,
    run_folder: Path | None,
    *,
    dry_run: bool,
    quiet: bool,
    device_memory: str | None = None,
) -> Preflight | None:
    """Estimate a run as if it started from the beginning, and print the estimate as one line.

    A run that does not fit in memory or on disk is refused. If its run folder already holds steps,
    these are replayed and the links that do not fit may be among them, so a note is printed
    instead and None is returned.

    Args:
        device_memory: size such as 80GB: estimate for an accelerator with this much memory.

    Raises:
        SettingError: ``device_memory`` is no size, or is given without ``dry_run``.
        LinkError: a link would fail on its input.
        ResourceError: the run does not fit.
    """
    begun = run_folder is not None and run_folder.is_dir() and any(run_folder.iterdir())
    from ..chains.preflight.look import preflight
    from ..errors import ResourceError
    from ..reports.forecast import in_short
    from ..reports.terminal import say

    device_bytes = _device_bytes(device_memory, dry_run=dry_run)
    try:
        found = preflight(chain, device_bytes=device_bytes)
    except ResourceError as error:
        if not begun or dry_run:
            raise
        say(
            "note",
            f"{error}; steps kept in {run_folder} are replayed and may not need it",
            style="yellow",
        )
        return None
    if not dry_run and not quiet:
        say("birdbone", in_short(found))
        if begun:
            say(
                "birdbone", f"steps of this run that {run_folder} holds are replayed, not run again"
            )
        for caution in found.cautions:
            say("note", caution, style="yellow")
    return found


def _device_bytes(size: str | None, *, dry_run: bool) -> int | None:
    from ..links.allocating.budget import read_bytes

    if size is None:
        return None
    if not dry_run:
        raise SettingError("--device-memory estimates for another machine; give --dry-run with it")
    try:
        return int(read_bytes(size))
    except ValueError as error:
        raise SettingError(f"--device-memory: {error}") from None


def tell_ahead(found: Preflight | None, *, as_json: bool) -> None:
    """Print the result of a dry run."""
    assert found is not None  # a dry run refuses what does not fit
    from ..reports.forecast import preflight_document, preflight_report
    from ..reports.terminal import show

    if as_json:
        typer.echo(json.dumps(preflight_document(found), indent=2, ensure_ascii=False))
    else:
        show(preflight_report(found))


def tell_after(found: Preflight | None, result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the result of a finished run, and the estimates beside the measurements."""
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
