"""The page: what it shows, that it needs nothing else, and that a browser opens it."""

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from recorded import bench, record, worst_window

from birdbone.errors import DataError
from birdbone.reports.html_report.page import report_page
from birdbone.reports.html_report.records import ModelRecord, model_record

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HEADINGS = (
    "Size and quality",
    "Cost",
    "Layers",
    "Healing",
    "Generated text",
    "Where the models differ most",
    "Speed and memory",
    "Links",
    "Provenance",
)


def model(name: str = "light", **more: object) -> ModelRecord:
    """A model with this record."""
    return model_record(name, record(bench=bench(), **more))


@cache
def whole_page() -> str:
    """The page of that model."""
    return report_page([model()])


def headings(page: str) -> list[str]:
    """The second-level headings in order."""
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_every_part_of_the_record_has_a_section() -> None:
    assert headings(whole_page()) == list(HEADINGS)


def test_sections_without_content_are_left_out() -> None:
    bare = ModelRecord("light", {"steps": record()["steps"][:1]})
    assert headings(report_page([bare])) == ["Cost", "Links"]


def test_costs_on_both_texts_and_the_worst_layer_are_named() -> None:
    page = whole_page()
    assert "<td>rise over dense, elsewhere</td><td>–</td><td>20.0% ± 3.0%</td>" in page
    worst = page.index("Layers with the largest error")
    assert page.index("model.layers.2.mlp.down_proj", worst) < page.index(
        "model.layers.1.mlp.down_proj", worst
    )


def test_the_worst_layer_and_the_cost_elsewhere_stand_before_everything_else() -> None:
    page = whole_page()
    top = page[page.index("<h1>") : page.index("<h2>")]
    assert "<dt>rise of perplexity, text from elsewhere</dt><dd>+20.0% ± 3.0%</dd>" in top
    assert "<dd>model.layers.2.mlp.down_proj, output error 0.60%</dd>" in top
    assert "<dd>80.0 MB, 32% of 250.0 MB</dd>" in top


def test_several_models_have_a_row_each_at_the_top() -> None:
    page = report_page([model("small"), model("smaller")])
    top = page[page.index("<h1>") : page.index("<h2>")]
    assert top.count("+20.0% ± 3.0%") == 2


def test_the_text_after_which_the_models_part_is_marked_in_both() -> None:
    page = whole_page()
    assert "<p> sat on <mark>a mat</mark></p>" in page
    assert "<p> sat on <mark>the dog</mark></p>" in page
    assert "text from elsewhere</h4><p>The cat</p>" in page


def test_why_there_are_no_continuations_is_said() -> None:
    assert "No tokenizer." in report_page([model(samples=[], samples_missing="No tokenizer.")])


def test_the_worst_windows_are_shown_around_their_worst_token() -> None:
    page = whole_page()
    assert "It was a dark and<mark> stormy</mark> night" in page
    assert "window 3: KL 0.123 nats/token, perplexity -5.0%, saved model" in page


def test_a_worst_window_of_a_text_that_may_not_be_kept_has_figures_alone() -> None:
    entry = {k: v for k, v in worst_window().items() if k not in ("before", "token", "after")}
    page = report_page([model(samples=[], worst_windows={"heldout": [entry]})])
    assert "window 3: KL 0.123" in page
    assert "<mark>" not in page


def test_speeds_by_runtime_are_those_of_the_benchmark() -> None:
    page = whole_page()
    assert "<td>light.gguf</td><td>llama.cpp</td><td>80.0 MB</td><td>512.2</td>" in page


def test_a_map_of_widths_is_left_out_where_nothing_was_narrowed() -> None:
    layers = [{**each, "width": 1.0} for each in record()["layers"]]
    assert "<h3>Width</h3>" in whole_page()
    assert "<h3>Width</h3>" not in report_page([model(layers=layers)])
    assert "<h3>Sensitivity</h3>" in whole_page()


def test_bits_that_are_the_same_everywhere_are_a_sentence() -> None:
    page = whole_page()
    assert "All linear layers: 4.5 bits per weight, scales included." in page
    mixed = record()["layers"]
    mixed[-1]["bits_per_weight"] = 8.5
    assert "All linear layers" not in report_page([model(layers=mixed)])


def test_versions_and_checksums_of_models_and_files_are_there() -> None:
    page = whole_page()
    for value in ("9.9.9", "2.13.0", "d0" * 32, "c1" * 32, "b2" * 32, "ab" * 32):
        assert f"<td>{value}</td>" in page


def test_what_was_not_used_is_said() -> None:
    assert "Evaluated and not used: wave 2." in whole_page()


def test_several_models_stand_side_by_side() -> None:
    page = report_page([model("small"), model("smaller")])
    assert page.count("<h2>Size and quality</h2>") == 1
    assert page.count("<h2>Layers</h2>") == 2
    assert '<a href="#m1">smaller</a>' in page


def test_names_and_texts_cannot_break_the_page() -> None:
    hostile = "<script>alert(1)</script>"
    facts = record(
        source=hostile,
        samples=[dict.fromkeys(("origin", "prompt", "dense", "light"), hostile)],
        samples_missing=hostile,
        worst_windows={hostile: [worst_window(before=hostile, token=hostile)]},
    )
    facts["layers"][1]["name"] = f"model.layers.0.{hostile}"
    page = report_page([model_record(hostile, facts)])
    assert "<script" not in page
    assert "A remark about &lt;text&gt;." in page


def test_the_page_asks_for_no_other_file() -> None:
    page = whole_page()
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page)
    assert "url(http" not in page
    assert "@import" not in page


def test_equal_records_give_equal_pages() -> None:
    assert report_page([model()]) == whole_page()


def test_without_matplotlib_the_tables_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = report_page([model()])
    assert "pip install &#x27;birdbone[plot]&#x27;" in page
    assert "<svg" not in page
    assert headings(page) == list(HEADINGS)


FRAME = """<body style="margin: 0"><iframe src="report.html" width="WIDTH" height="900"
style="border: 0" onload="tell(this.contentDocument)"></iframe><script>
function tell(page) {
  const style = page.defaultView.getComputedStyle(page.body);
  const shown = [...page.querySelectorAll("dd, mark, svg, table")];
  const unseen = shown.filter(each => !each.getBoundingClientRect().width);
  console.log("seen " + [page.documentElement.scrollWidth, unseen.length].join(" ") + " "
    + [style.color, style.backgroundColor].join(" ").replace(/[^0-9 ]+/g, " "));
}
</script></body>"""


def brightness(red: str, green: str, blue: str) -> float:
    """Between 0 and 255, as an eye weighs the colours."""
    return 0.299 * int(red) + 0.587 * int(green) + 0.114 * int(blue)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1280, "dark")])
def test_a_browser_opens_it_without_a_complaint(tmp_path: Path, width: int, scheme: str) -> None:
    """In a frame, since a window cannot be as narrow as a phone; the page itself runs no script."""
    assert CHROMIUM is not None
    (tmp_path / "report.html").write_text(whole_page())
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            "--allow-file-access-from-files",
            f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={max(width, 500)},900",
            "--hide-scrollbars",
            f"--screenshot={tmp_path / 'page.png'}",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    said = re.findall(r'CONSOLE.*?"(.*?)"', done.stderr)
    assert len(said) == 1, said  # nothing but what the frame says
    wide, without_width, *colours = said[0].removeprefix("seen ").split()
    assert int(wide) <= width
    assert without_width == "0"
    text, back = brightness(*colours[:3]), brightness(*colours[3:6])
    assert (back - text > 200) if scheme == "light" else (text - back > 150)
    assert (tmp_path / "page.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "facts",
    [
        {"steps": [{"link": "load"}]},
        {"steps": [5]},
        {"steps": [], "figures": {"dense": {"weight_bytes": "many"}, "light": {"rise": "much"}}},
        {"steps": [], "files": {"model.safetensors": 5}},
        {"steps": [], "samples": ["text"]},
    ],
)
def test_a_record_of_another_form_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"the record of 'light' is not one that birdbone wrote \("):
        report_page([ModelRecord("light", facts)])
