"""The report of prove: marks, the sample, versions that differ, and the verdict."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from birdbone.models.evaluation.proof import Check, Proof
from birdbone.reports.proof import checks_table, proof_report, verdict

HOLDS = Check("checksums", True, "3 files are unchanged")
FAILS = Check("perplexity", False, "20.4, expected 20.1")
OPEN = Check("logits", None, "the record has none")


def shown(report: RenderableType) -> list[str]:
    """The lines of a report without the padding between columns."""
    console = Console(width=100, file=StringIO(), record=True)
    console.print(report)
    return [" ".join(line.split()) for line in console.export_text().splitlines()]


def proof(*checks: Check, **more: Any) -> Proof:
    return Proof(Path("models/light"), checks, **more)


def test_each_check_has_a_line_with_its_mark() -> None:
    assert shown(checks_table([HOLDS, FAILS, OPEN])) == [
        "ok checksums 3 files are unchanged",
        "fails perplexity 20.4, expected 20.1",
        "unknown logits the record has none",
    ]


def test_a_folder_is_proven_when_all_hold() -> None:
    assert verdict(proof(HOLDS)) == (
        "Proven: 'light' is unchanged and computes what it did when it was saved."
    )


def test_failed_checks_are_named_before_open_ones() -> None:
    also = Check("size", False, "2 bytes more")
    assert verdict(proof(OPEN, FAILS, HOLDS, also)) == (
        "Not proven: check failed for 'light': perplexity, size."
    )


def test_checks_that_could_not_be_made_do_not_prove() -> None:
    other = Check("decoding", None, "no text")
    assert verdict(proof(HOLDS, OPEN, other)) == (
        "Not proven: no check failed for 'light', but these could not be made: logits, decoding."
    )


@given(st.lists(st.sampled_from([HOLDS, FAILS, OPEN]), min_size=1))
def test_the_verdict_is_the_proofs(checks: list[Check]) -> None:
    made = proof(*checks)
    assert verdict(made).startswith("Proven") == made.proven
    assert verdict(made).startswith("Not proven: check failed") == bool(made.failed)


def test_the_folder_is_named_however_the_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "light" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "light")
    for path in (".", "deep/..", str(tmp_path / "light")):
        assert "'light' is unchanged" in verdict(Proof(Path(path), (HOLDS,)))


def test_a_sample_is_marked_as_one() -> None:
    lines = shown(proof_report(proof(HOLDS, said="Once [bold]upon[/bold] a time")))
    assert lines[1:3] == [
        "Greedy continuation, shown only as a sample:",
        "Once [bold]upon[/bold] a time",
    ]
    assert lines[-1].startswith("Proven")
    assert not any("Greedy" in line for line in shown(proof_report(proof(HOLDS))))


def test_versions_of_saving_are_shown_where_they_differ() -> None:
    now = {"torch": "2.13.0", "device": "cpu", "transformers": "5.23.0"}
    then = {"torch": "2.12.0", "device": "cpu"}
    lines = shown(proof_report(proof(HOLDS, environment=now, saved_with=then)))
    assert lines[1:4] == ["torch 2.13.0 saved with 2.12.0", "device cpu", "transformers 5.23.0"]
