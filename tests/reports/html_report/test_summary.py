"""The first lines of a report: tiles for one model, a row each for several."""

from __future__ import annotations

import re
from typing import Any

import pytest
from recorded import layers, record

from birdbone.reports.html_report.records import ModelRecord, model_record
from birdbone.reports.html_report.summary import summary, worst_layers

HOSTILE = "<script>"


def model(name: str = "light", **more: Any) -> ModelRecord:
    return model_record(name, record(**more))


def tiles(*models: ModelRecord) -> dict[str, str]:
    return dict(re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", summary(models)))


def measured(**light: float) -> ModelRecord:
    """Figures of the light model alone."""
    return model(figures={"light": light}, layers=[])


def test_one_model_has_a_tile_for_each_fact() -> None:
    assert tiles(model()) == {
        "weights on disk": "80.0 MB, 32% of 250.0 MB",
        "rise of perplexity, text from elsewhere": "+20.0% ± 3.0%",
        "rise of perplexity, held-out text": "+10.0% ± 1.0%",
        "worst layer": "model.layers.2.mlp.down_proj, output error 0.60%",
    }


def test_what_was_not_measured_has_no_tile() -> None:
    assert tiles(measured(weight_bytes=8e7)) == {"weights on disk": "80.0 MB"}
    assert tiles(measured(rise=-0.05)) == {"rise of perplexity, held-out text": "-5.0%"}
    assert tiles(model(figures=None, layers=None)) == {}


def test_several_models_have_a_row_each_and_say_what_is_missing() -> None:
    html = summary([model("first"), measured(rise=0.25, rise_error=0.125)])
    found = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    assert re.findall(r"<th>(.*?)</th>", html) == [
        *("model", "weights", "rise, elsewhere", "rise, held-out text", "worst layer")
    ]
    assert found[1][:4] == ["first", "80.0 MB, 32% of 250.0 MB", "+20.0% ± 3.0%", "+10.0% ± 1.0%"]
    missing = "not measured"
    assert found[2] == ["light", missing, missing, "+25.0% ± 12.5%", missing]
    assert "<dt>" not in html


def test_worst_layers_have_the_largest_errors() -> None:
    facts = {"layers": layers(blocks=3)}
    found = worst_layers(facts, 3)
    assert [each["name"].removeprefix("model.layers.") for each in found] == [
        "2.mlp.down_proj",
        "1.mlp.down_proj",
        "2.self_attn.q_proj",
    ]
    assert len(worst_layers(facts, 100)) == 6  # the embedding has no error


@pytest.mark.parametrize("found", [None, "many", [], [{"name": "a", "relative_error": None}]])
def test_a_record_without_errors_has_no_worst_layer(found: Any) -> None:
    assert worst_layers({"layers": found}, 3) == []
    assert "worst layer" not in tiles(model(layers=found))


def test_names_are_escaped() -> None:
    hostile = model(HOSTILE, layers=[{"name": HOSTILE, "relative_error": 0.5}])
    assert "&lt;script&gt;, output error 50.00%" in summary([hostile])
    for html in (summary([hostile]), summary([hostile, hostile])):
        assert HOSTILE not in html
