"""Estimates told before a run, and beside what happened after it."""

import json
from pathlib import Path

from rich.console import Console, RenderableType

from birdbone.contexts.cost import Cost
from birdbone.contexts.forecast import Expected, Preflight, Speed
from birdbone.contexts.saved import Saved
from birdbone.contexts.steps import Step
from birdbone.reports.forecast import (
    in_short,
    outcomes,
    outcomes_document,
    outcomes_report,
    preflight_document,
    preflight_report,
)
from birdbone.texts import SourceReport

SPEED = Speed(0.25, 1.0, 0.1, 1.0, 1.0, 0.1, 5.0, 1e-9, 512)
LINKS = (
    Expected("load", {}, 7.0, 500_000_000),
    Expected("prune", {}, 100.0, 900_000_000),
    Expected("prune", {}, 50.0, 800_000_000),
    Expected("save", {}, 90.0, 600_000_000, 2_000_000_000, 100_000_000, 300_000_000, "light"),
)
TEXTS = (
    SourceReport("chat", "data", 2.0, 1200, 7, 90_000, 30_000, False, {"Latin": 0.9, "Han": 0.1}),
    SourceReport("stdlib", "elsewhere", 1.0, 606, None, 9_907_739, 2_854_952, True),
)
FOUND = Preflight(
    LINKS, SPEED, free_bytes=20_000_000_000, seconds=3.0, blind_from="tell", texts=TEXTS
)


def printed(what: RenderableType) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(what)
    return " ".join(captured.get().split())


def test_what_is_told_before() -> None:
    text = printed(preflight_report(FOUND))
    assert "1.7 min" in text
    assert "Will write light: 100.0 MB, and 300.0 MB temporarily." in text
    assert "The cost of 'tell' and of the links after it is not known." in text
    assert "4.1 min" in text
    assert in_short(FOUND) == (
        "expected: 4.1 min, 2.6 GB of memory, 100.0 MB on disk, up to 'tell'; "
        "--dry-run shows each link"
    )


def test_the_document_is_json() -> None:
    document = json.loads(json.dumps(preflight_document(FOUND)))
    assert document["peak_bytes"] == 2_600_000_000
    assert [each["link"] for each in document["links"]] == ["load", "prune", "prune", "save"]
    assert document["texts"][0]["scripts"] == {"Latin": 0.9, "Han": 0.1}
    assert document["texts"][1]["duplicates"] is None


def test_sources_of_text_are_told_with_their_figures() -> None:
    text = printed(preflight_report(FOUND))
    row = "│ 1 │ 2 │ 1,200 │ 7 │ 90,000 │ 30,000 │"
    assert row in text
    assert "│ 2 │ 1 │ 606 │ – │ 9,907,739 │ ~2,854,952 │" in text
    assert "1: chat, for data; Latin 90%, Han 10%" in text
    assert "2: stdlib, for elsewhere" in text


def test_what_happened_stands_beside(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "model.safetensors").write_bytes(bytes(900))
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(bytes(100))
    history = (
        Step("load", {}, Cost(14.0, 1_000_000_000, "process")),
        Step("prune", {}, Cost(75.0, 450_000_000, "process")),
        Step("tell", {}, Cost(75.0, 450_000_000, "process")),
        Step("prune", {}, Cost(9.0, 9, "process"), within="waves"),
        Step("save", {}, Cost(90.0, 600_000_000, "process")),
    )
    rows = outcomes(FOUND, {"history": history, "saved": Saved(tmp_path, 1000, {}, {})})
    assert [each.link for each in rows] == ["load", "prune", "save"]
    assert (rows[1].expected_seconds, rows[1].seconds) == (150.0, 75.0)
    assert (rows[1].expected_peak_bytes, rows[1].peak_bytes) == (900_000_000, 450_000_000)
    assert rows[2].disk_bytes == 1000
    text = printed(outcomes_report(rows))
    assert "×2.00" in text
    assert "-50%" in text
    assert "measured 1.0 kB" in text
    assert json.loads(json.dumps(outcomes_document(rows)))[0]["seconds"] == 14.0
