"""A proof for people: a line for each check, what the model said, and where, and a verdict.

Nothing here judges; it only says what `models.proof` found.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..models.evaluation.proof import Check, Proof

_MARKS = {True: ("holds", "green"), False: ("fails", "bold red"), None: ("unknown", "yellow")}


def proof_report(proof: Proof) -> RenderableType:
    """What was looked at, and whether it proves the folder."""
    lines = Table.grid(padding=(0, 2))
    for check in proof.checks:
        mark, style = _MARKS[check.holds]
        lines.add_row(Text(mark, style=style), Text(check.name), Text(check.words))
    parts: list[RenderableType] = [lines]
    if proof.said is not None:
        parts += [Text("Decoded greedily, for the eye; no verdict rests on it:"), Text(proof.said)]
    if proof.environment:
        parts.append(_environments(proof.environment, proof.saved_with))
    parts.append(Text(verdict(proof), style="bold"))
    return Group(*parts)


def verdict(proof: Proof) -> str:
    """One sentence: proven, refuted, or neither and why."""
    name = proof.folder.resolve().name
    if proof.proven:
        return f"Proven: '{name}' is what was saved, and computes what it did."
    if proof.failed:
        return f"Not proven: {_listed(proof.failed)} of '{name}' does not hold."
    unknown = [check for check in proof.checks if check.holds is None]
    return (
        f"Not proven: nothing speaks against '{name}', but {_listed(unknown)} cannot be known here."
    )


def _listed(checks: list[Check] | tuple[Check, ...]) -> str:
    return ", ".join(check.name for check in checks)


def _environments(now: Mapping[str, str], then: Mapping[str, str]) -> RenderableType:
    """Versions and machine, beside those of when it was saved where they differ."""
    lines = Table.grid(padding=(0, 2))
    for name, value in now.items():
        saved = then.get(name)
        differs = "" if saved in (None, value) else f"saved with {saved}"
        lines.add_row(Text(name), Text(value), Text(differs))
    return lines
