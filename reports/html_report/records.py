"""The records that a report shows: of saved models, and of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...contexts.verdict import PREFIXES
from ...errors import DataError
from ...models.writing.publishing import BENCH, PROVENANCE, path_of
from ..candidates import CandidateRow, candidate_rows
from ..waves import WaveRow, recorded_waves

_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Point:
    """A size and what it cost on one text.

    Attributes:
        name: what the point is, such as ``wave 3`` or ``light``.
        num_bytes: of the weights.
        rise, error: of perplexity over the original model, and its standard error, as fractions.
        text: context key of the text, see `JUDGED_ON`.
        kept: False for a wave or candidate that was not used.
    """

    name: str
    num_bytes: float
    rise: float
    error: float
    text: str
    kept: bool = True


@dataclass(frozen=True)
class ModelRecord:
    """What is recorded of one model.

    Attributes:
        name: of its folder or file.
        facts: the content of its ``birdbone.json``, or the same keys of a run.
        waves: the waves of the run that made it.
    """

    name: str
    facts: Mapping[str, Any]
    waves: Sequence[WaveRow] = field(default=())

    def figures(self, side: str) -> Mapping[str, float]:
        """The measured figures of ``dense`` or ``light``; empty if there are none."""
        found = self.facts.get("figures")
        figures = found.get(side) if isinstance(found, Mapping) else None
        return figures if isinstance(figures, Mapping) else {}

    def steps(self) -> list[Mapping[str, Any]]:
        """The links that ran, in order; those inside another link are left out."""
        return [step for step in self.facts["steps"] if step.get("within") is None]

    def points(self) -> list[Point]:
        """The original, every evaluated wave and candidate, and the saved model, on each text."""
        found = []
        dense, light = self.figures("dense"), self.figures("light")
        for text, prefix in PREFIXES.items():
            rise = light.get(f"{prefix}rise")
            if rise is not None and "weight_bytes" in dense:
                found.append(Point("original", dense["weight_bytes"], 0.0, 0.0, text))
            found += [point for row in self.waves if (point := _of_wave(row, text)) is not None]
            found += [
                point
                for row in candidate_rows(self.facts["steps"])
                if not row.kept and (point := _of_candidate(row, text)) is not None
            ]
            if rise is not None:
                error = light.get(f"{prefix}rise_error", 0.0)
                found.append(Point(self.name, light["weight_bytes"], rise, error, text))
        return found


def _of_wave(row: WaveRow, text: str) -> Point | None:
    prefix = PREFIXES[text]
    rise, error = getattr(row, f"{prefix}rise"), getattr(row, f"{prefix}rise_error")
    if rise is None or "bytes" not in row.sizes:
        return None
    return Point(f"wave {row.number}", row.sizes["bytes"], rise, error or 0.0, text, row.kept)


def _of_candidate(row: CandidateRow, text: str) -> Point | None:
    """A candidate of a budget; the one that was kept is the saved model, which was measured."""
    _, rise, error = row.figures.get(text, (None, None, None))
    if rise is None:
        return None
    return Point(row.name, row.num_bytes, rise, error or 0.0, text, kept=False)


def model_record(name: str, facts: Mapping[str, Any]) -> ModelRecord:
    """The record of one model from the content of its ``birdbone.json``, or of a run's steps.

    Raises:
        DataError: it has no list of steps, or waves are not of the form a run records.
    """
    if not isinstance(facts.get("steps"), list):
        raise DataError(
            f"the record of '{name}' has no list of steps, so birdbone did not write it"
        )
    return ModelRecord(name, facts, recorded_waves(facts["steps"]))


def read_model(path: Path) -> ModelRecord:
    """Read the record of a folder or .gguf file that birdbone saved.

    Raises:
        DataError: there is no record, or it is not one that birdbone wrote.
    """
    if not path.exists():
        raise DataError(f"'{path}' does not exist; give a folder that birdbone saved")
    facts = _read_object(path, PROVENANCE, "give a folder that birdbone saved")
    if path_of(path, BENCH).is_file():
        advice = "delete it, or run birdbone bench --record again"
        facts = {**facts, "bench": _read_object(path, BENCH, advice)}
    return model_record(path.resolve().name, facts)


def _read_object(model: Path, name: str, advice: str) -> dict[str, Any]:
    """A file of a saved model that holds a JSON object."""
    file = path_of(model, name)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"'{model}' has no {name} that can be read ({error}); {advice}") from None
    return found
