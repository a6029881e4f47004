"""``birdbone doctor``: check the installation."""

from __future__ import annotations

import typer

from .options import AsJson, print_json


def doctor(as_json: AsJson = False) -> None:
    """Check this installation. Exit code 1 if something required is missing or broken."""
    from ..reports.doctor import doctor_report, examine
    from ..reports.terminal import show

    checks = examine()
    print_json([each.as_dict() for each in checks]) if as_json else show(doctor_report(checks))
    if any(check.breaks for check in checks):
        raise typer.Exit(1)
