"""The table of the worst linears."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from birdbone.contexts.sensitivity import (
    EmbeddingSensitivity,
    GridLoss,
    LinearSensitivity,
    Sensitivity,
)
from birdbone.errors import DataError
from birdbone.reports.sensitivity import (
    draw_sensitivity,
    ranked,
    sensitivity_document,
    sensitivity_report,
)


def _linear(loss: float) -> LinearSensitivity:
    grids = (
        GridLoss(4, 32, 600, loss),
        GridLoss(4, None, 500, 2 * loss),
        GridLoss(8, 32, 900, loss / 100),
    )
    return LinearSensitivity((16, 64), 2048, "kind", 0.5, grids)


FOUND = Sensitivity(
    {"a": _linear(0.002), "b": _linear(0.005), "c": _linear(0.001)},
    EmbeddingSensitivity(("embed",), 4_000_000, 2_000_000, 0.0001),
    "id",
    "some text",
    2048,
)


def test_ranking() -> None:
    assert [name for name, _, _ in ranked(FOUND, 4)] == ["b", "a", "c"]
    assert ranked(FOUND, 4)[0][2] == 0.005  # the better group size
    assert ranked(FOUND, 3) == []


def test_report() -> None:
    console = Console(file=StringIO(), width=120)
    console.print(sensitivity_report(FOUND, bits=4, top=2))
    text = str(console.file.getvalue())  # type: ignore[attr-defined]
    rows = [line.split() for line in text.splitlines()]
    first = next(row for row in rows if row[:1] == ["b"])
    assert first[:7] == ["b", "16", "×", "64", "5", "0.05", "62.5%"]
    assert not any(row[:1] == ["c"] for row in rows)  # beyond the top
    total = next(row for row in rows if row[:1] == ["all"])
    assert total[:6] == ["all", "3", "linears", "8", "0.08", "100.0%"]
    assert "2,048 tokens of some text" in text
    assert "4.0 MB become 2.0 MB" in text


def test_document() -> None:
    document = json.loads(json.dumps(sensitivity_document(FOUND, bits=4)))
    assert [each["name"] for each in document["linears"]] == ["b", "a", "c"]
    assert document["linears"][0]["grids"][1]["group_size"] is None
    assert document["embeddings"]["loss_at_8_bits"] == 0.0001
    assert document["tokens"] == 2048


def test_plot(tmp_path: Path) -> None:
    """Every linear has a cell; a loss of zero leaves it empty."""
    pytest.importorskip("matplotlib")
    names = [f"m.{block}.{role}" for block in (0, 1) for role in ("up", "down")]
    losses = (0.002, 0.005, 0.0, 0.001)
    linears = {name: _linear(loss) for name, loss in zip(names, losses, strict=True)}
    draw_sensitivity(replace(FOUND, linears=linears), tmp_path / "a.svg", bits=4)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "a.svg").read_text())
    assert {"up", "down", "block", "rise of the loss at 4 bits, nats"} <= set(texts)
    nothing = dict.fromkeys(names, _linear(0.0))
    draw_sensitivity(replace(FOUND, linears=nothing), tmp_path / "b.png", bits=4)
    assert (tmp_path / "b.png").read_bytes()[1:4] == b"PNG"
    with pytest.raises(DataError, match="fewer than 2 linears have an estimate at 3 bits"):
        draw_sensitivity(FOUND, tmp_path / "c.svg", bits=3)
