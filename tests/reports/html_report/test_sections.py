"""The sections of a report about one model: figures, tables and marks, all of it escaped."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from recorded import bench, candidate, layers, record, step

from birdbone.reports.html_report import sections
from birdbone.reports.html_report.records import ModelRecord, model_record

HOSTILE = "<script>alert('&')</script>"


def model(name: str = "light", **more: Any) -> ModelRecord:
    return model_record(name, record(**more))


def rows(html: str) -> list[list[str]]:
    """The cells of every row of data."""
    found = re.findall(r"<tr>(.*?)</tr>", html)
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in found]
    return [row for row in cells if row]


def test_the_headline_has_figures_of_both_models() -> None:
    html = sections.headline(model())
    assert html.startswith("<p>Made from someone/a-model.</p>")
    found = {row[0]: row[1:] for row in rows(html)}
    assert found["weights on disk"] == ["250.0 MB", "80.0 MB"]
    assert found["rise over dense, elsewhere"] == ["–", "20.0% ± 3.0%"]
    assert '<p class="remark">A remark about &lt;text&gt;.</p>' in html
    assert "in a fresh process" in html


def test_a_record_without_figures_says_so() -> None:
    said = "<p>No saved model: the run recorded no figures.</p>"
    assert sections.headline(model(figures=None)) == said
    assert sections.headline(model(figures={})) == said
    assert "<p>Made from an unnamed model.</p>" in sections.headline(model(source=""))


def test_the_frontier_names_what_was_not_used() -> None:
    more = [*record()["steps"], candidate("int3 <g64>", 70_000_000, 0.4, kept=False)]
    html = sections.size_and_quality([model(steps=more)])
    assert "<p>Evaluated and not used: int3 &lt;g64&gt;, wave 2.</p>" in html
    assert html.count("<svg") == 1


def test_one_point_is_no_frontier() -> None:
    alone = {"steps": [], "figures": {"light": {"weight_bytes": 8e7, "rise": 0.1}}}
    assert sections.size_and_quality([model_record("a", alone)]) == ""
    assert sections.size_and_quality([]) == ""


def test_used_points_alone_need_no_sentence() -> None:
    assert "not used" not in sections.size_and_quality([model(steps=[])])


def test_the_worst_layers_come_first_and_eight_at_most() -> None:
    html = sections.layers(model(layers=layers(blocks=6)))
    found = rows(html)
    assert len(found) == 8
    assert found[0] == ["model.layers.5.mlp.down_proj", "1.20%", "int4 in groups of 32"]
    errors = [float(row[1].rstrip("%")) for row in found]
    assert errors == sorted(errors, reverse=True)
    assert html.count("<svg") == 3  # errors, sensitivity, and width; bits are the same everywhere


def test_without_errors_bits_alone_are_drawn() -> None:
    bare = [{k: v for k, v in each.items() if k != "relative_error"} for each in layers()]
    html = sections.layers(model(layers=bare))
    assert html.count("<svg") == 2
    assert "largest error" not in html


@pytest.mark.parametrize("found", [None, [], "many", [{"name": "model.norm"}]])
def test_a_record_without_layers_has_no_section(found: Any) -> None:
    assert sections.layers(model(layers=found)) == ""


def test_errors_of_zero_are_drawn_on_a_plain_scale() -> None:
    """A logarithm of zero would not be."""
    exact = layers()
    exact[1]["relative_error"] = 0.0
    assert sections.layers(model(layers=exact)).count("<svg") == 3


def test_losses_of_each_healing_are_drawn() -> None:
    losses = {"training_loss": [2.0, 1.0], "rank": 4, "heldout_loss": []}
    more = [step("heal", metrics=losses), step("heal", metrics=losses), step("heal")]
    html = sections.healing(model(steps=[*more, step("prune", metrics=losses)]))
    assert html.count("<svg") == 2
    assert "training loss" in html
    assert "heldout loss" not in html
    assert sections.healing(model(steps=[step("prune")])) == ""


def test_links_have_time_memory_and_settings() -> None:
    more = [
        step("load", 30.0, settings={"model": HOSTILE}),
        step("prune", within="waves"),
        step("heal", 5400.0, peak_bytes=None, settings={"rank": 8, "bits": None}),
    ]
    html = sections.links(model(steps=more))
    escaped = "model=&quot;&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;&quot;"
    assert rows(html) == [
        ["load", "30.0 s", "500.0 MB", escaped],
        ["heal", "1.5 h", "–", "rank=8, bits=None"],
    ]
    assert html.count("<svg") == 1


def test_speed_has_a_row_for_each_runtime_and_how_it_was_measured() -> None:
    html = sections.speed(model(bench=bench()))
    speeds = ["80.0 MB", "512.2", "20.5", "900.0 MB"]
    assert rows(html) == [
        ["light", "transformers", *speeds],
        ["light.gguf", "llama.cpp", *speeds],
        ["rounds", "3"],
        ["speed", "128 tokens read"],
    ]
    assert sections.speed(model()) == ""


def test_provenance_has_texts_machine_versions_and_checksums() -> None:
    html = sections.provenance(model())
    assert re.findall(r"<h3>(.*?)</h3>", html) == [
        "Texts",
        "Measured on",
        "Versions",
        "Checksums of the models",
        "Files",
    ]
    assert rows(html) == [
        ["heldout", "a book", "4 × 512 tokens"],
        ["device", "x86_64"],
        ["elsewhere windows", "4 of 512 tokens"],
        ["bird-bone", "9.9.9"],
        ["torch", "2.13.0"],
        ["original", "d0" * 32],
        ["light", "c1" * 32],
        ["hash chain", "b2" * 32],
        ["model.safetensors", "80.0 MB", "ab" * 32],
    ]


def test_parts_of_provenance_without_content_are_left_out() -> None:
    without = dict.fromkeys(("measured_on", "dense", "checkpoint", "chain", "birdbone"))
    html = sections.provenance(model(texts={}, files=[], **without))
    assert re.findall(r"<h3>(.*?)</h3>", html) == ["Versions"]


def test_nothing_of_a_record_becomes_markup() -> None:
    hostile = model(
        source=HOSTILE,
        remarks=[HOSTILE],
        versions={HOSTILE: HOSTILE},
        bench=bench() | {"measured_on": {HOSTILE: HOSTILE}},
        layers=[{**each, "kind": HOSTILE} for each in layers()],
    )
    for section in (sections.headline, sections.layers, sections.speed, sections.provenance):
        assert "<script" not in section(hostile)


def test_without_matplotlib_a_sentence_stands_for_the_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    html = sections.links(model())
    said = "plots need matplotlib; run pip install &#x27;birdbone[plot]&#x27;"
    assert f'<p class="remark">{said}</p>' in html
    assert rows(html)
