"""The report of ``birdbone prove``: a line per check, a sample of output, and a conclusion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..models.evaluation.proof import Check, Proof

_MARKS = {True: ("ok", "green"), False: ("fails", "bold red"), None: ("unknown", "yellow")}


def proof_report(proof: Proof) -> RenderableType:
    """Every check, and whether they prove the model together."""
    parts: list[RenderableType] = [checks_table(proof.checks)]
    if proof.said is not None:
        parts += [Text("Greedy continuation, shown only as a sample:"), Text(proof.said)]
    if proof.environment:
        parts.append(_environments(proof.environment, proof.saved_with))
    parts.append(Text(verdict(proof), style="bold"))
    return Group(*parts)


def checks_table(checks: Iterable[Check]) -> RenderableType:
    """A line per check: whether it holds, its name, what was found."""
    lines = Table.grid(padding=(0, 2))
    for check in checks:
        mark, style = _MARKS[check.holds]
        lines.add_row(Text(mark, style=style), Text(check.name), Text(check.words))
    return lines


def verdict(proof: Proof) -> str:
    """One sentence: proven, failed, or not decided and why."""
    name = proof.folder.resolve().name
    if proof.proven:
        return f"Proven: '{name}' is unchanged and computes what it did when it was saved."
    if proof.failed:
        return f"Not proven: check failed for '{name}': {_listed(proof.failed)}."
    unknown = [check for check in proof.checks if check.holds is None]
    return (
        f"Not proven: no check failed for '{name}', but these could not be made: "
        f"{_listed(unknown)}."
    )


def _listed(checks: list[Check] | tuple[Check, ...]) -> str:
    return ", ".join(check.name for check in checks)


def _environments(now: Mapping[str, str], then: Mapping[str, str]) -> RenderableType:
    """Versions and machine, with those at the time of saving if they differ."""
    lines = Table.grid(padding=(0, 2))
    for name, value in now.items():
        saved = then.get(name)
        differs = "" if saved in (None, value) else f"saved with {saved}"
        lines.add_row(Text(name), Text(value), Text(differs))
    return lines
