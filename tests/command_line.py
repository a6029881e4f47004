"""The command line in this process, and what it printed."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from birdbone.cli import app


def birdbone(*args: object) -> Result:
    """Run a command, in lines so wide that nothing is broken, without colours."""
    plain = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return CliRunner(env=plain).invoke(app, [str(each) for each in args], prog_name="birdbone")


def document(*args: object) -> Any:
    """What a command prints with ``--json``, which must succeed."""
    result = birdbone(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(*args: object, code: int = 1) -> str:
    """What a command that must fail says, as one line, without frames."""
    result = birdbone(*args)
    assert result.exit_code == code, result.output
    return " ".join(result.stderr.replace("│", " ").split())
