"""The records of a saved model: model card, provenance and the reason for a refusal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...contexts.flow import Savable
from ...contexts.task_scores import Recovery
from ...contexts.verdict import PREFIXES
from ...errors import BirdboneError, GateError, NumericsError, ProofError
from ...models.evaluation.fresh_process import Measurement, Probe
from ...models.evaluation.record import RECORD, Record
from ...models.writing.folder import weight_format
from ...models.writing.publishing import PROVENANCE, REPORT, files_of, set_aside
from ...reports.card import model_card
from ...reports.html_report.page import report_page
from ...reports.html_report.records import model_record
from ...reports.provenance import provenance
from ...texts import Windows

_NO_EXAMPLES: Mapping[str, Any] = MappingProxyType({})
_TEXTS = ("calibration", "healing", "heldout", "elsewhere")


@dataclass(frozen=True)
class Described:
    """What is written beside a saved model.

    Attributes:
        form: the format it is saved in.
        name: of the folder or file.
        found: measurements of the fresh processes.
        measured_on: see `conditions`.
        record: outputs on a few tokens, for later proofs.
        examples: see `examples_record`.
    """

    form: str
    name: str
    found: Measurement
    measured_on: Mapping[str, str]
    record: Record
    examples: Mapping[str, Any]


def describe(ctx: Savable, folder: Path, about: Described, *, report: bool) -> None:
    """Write the card and ``proof.json``, then the provenance, which has their checksums.

    The report is written from the provenance, which therefore has no checksum of it.
    """
    figures = about.found.figures
    card = model_card(
        name=about.name,
        checkpoint=ctx["checkpoint"],
        weight_format="gguf" if about.form == "gguf" else weight_format(ctx["checkpoint"]),
        history=ctx.get("history", ()),
        figures=figures,
        measured_on=about.measured_on,
        tasks=_tasks(ctx),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / RECORD).write_text(about.record.model_dump_json() + "\n", encoding="utf-8")
    document = _provenance(ctx, folder, figures, about.measured_on, examples=about.examples)
    _write_provenance(folder, document)
    if report:
        page = report_page([model_record(about.name, document)])
        (folder / REPORT).write_text(page, encoding="utf-8")


def conditions(found: Measurement, probe: Probe, texts: Mapping[str, Windows]) -> dict[str, str]:
    """What the figures were measured on: texts, windows, tokens for speed, dtype, versions."""
    text: dict[str, str] = {}
    for name, windows in texts.items():
        key = "text" if name == "heldout" else name
        count = f"{windows.num_windows} of {windows.length} tokens"
        text |= {key: windows.text, f"{PREFIXES[name]}windows": count}
    speed = f"{probe.prefill_tokens} tokens read, {probe.decode_tokens} decoded, one sequence"
    dtype = str(probe.dtype).removeprefix("torch.")
    return {**text, "speed": speed, "dtype": dtype, **found.environment}


def keep_refused(
    ctx: Savable, folder: Path, target: Path, error: ProofError | GateError | NumericsError
) -> BirdboneError:
    """Move a refused model beside the target, with the reason in its provenance.

    Returns the error to raise, which also states where the refused model is.
    """
    _write_provenance(folder, _provenance(ctx, folder, {}, {}, refused=str(error)))
    aside = set_aside(folder, target)
    kept = f"kept for inspection in {aside}"
    if aside is None:
        kept = f"not kept, because {target.name}.refused exists and was not made by birdbone"
    return type(error)(f"{error}; nothing was published. The refused model is {kept}")


def _provenance(
    ctx: Savable,
    folder: Path,
    figures: Mapping[str, Mapping[str, float]],
    measured_on: Mapping[str, str],
    refused: str | None = None,
    examples: Mapping[str, Any] = _NO_EXAMPLES,
) -> dict[str, Any]:
    held = {name: path for name, path in files_of(folder).items() if name != PROVENANCE}
    return provenance(
        checkpoint=ctx["checkpoint"],
        dense=ctx["dense"],
        history=ctx.get("history", ()),
        texts=_texts(ctx),
        figures=figures,
        measured_on=measured_on,
        files=held,
        refused=refused,
        examples=examples,
        tasks=_tasks(ctx),
    )


def _tasks(ctx: Savable) -> tuple[Recovery, ...]:
    """Scores on tasks of the model that is saved; none if it was changed since."""
    verdict = ctx.get("verdict")
    same = verdict is not None and verdict.checkpoint == ctx["checkpoint"].id
    return verdict.tasks if verdict is not None and same else ()


def _write_provenance(folder: Path, document: Mapping[str, Any]) -> None:
    path = folder / PROVENANCE
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _texts(ctx: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    parts = {name: ctx.get(name) for name in _TEXTS}
    return {
        name: {
            "text": part.text,
            "digest": part.digest,
            "windows": part.num_windows,
            "length": part.length,
        }
        for name, part in parts.items()
        if part is not None
    }
