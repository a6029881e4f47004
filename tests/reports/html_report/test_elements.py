"""Tables, remarks and plots as HTML: what they contain, and that all of it is escaped."""

from __future__ import annotations

from typing import Any

import pytest

from birdbone.errors import MissingExtraError
from birdbone.reports.html_report.elements import listed, mapping, pairs, plotted, remark, table

HOSTILE = "<script>alert('&')</script>"
ESCAPED = "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;"


def test_a_table_has_a_head_and_a_row_each() -> None:
    assert table(("name", "size"), [["a", "1"], ["b", "2"]]) == (
        '<div class="wide"><table><tr><th>name</th><th>size</th></tr>'
        "<tr><td>a</td><td>1</td></tr><tr><td>b</td><td>2</td></tr></table></div>"
    )


def test_a_table_without_rows_is_empty() -> None:
    """Rows may be a generator, which is empty only once it was read."""
    assert table(("name",), []) == ""
    assert table(("name",), (row for row in [])) == ""


def test_columns_of_numbers_have_a_class_for_the_style() -> None:
    assert '<table class="numbers">' in table(("name",), [["a"]], numbers=True)
    assert "class" not in table(("name",), [["a"]]).removeprefix('<div class="wide">')


def test_cells_and_heads_are_escaped() -> None:
    html = table((HOSTILE,), [[HOSTILE]])
    assert f"<th>{ESCAPED}</th>" in html
    assert f"<td>{ESCAPED}</td>" in html
    assert remark(HOSTILE) == f'<p class="remark">{ESCAPED}</p>'


def test_pairs_have_names_in_words_and_no_head() -> None:
    html = pairs({"peak_of_run": 5, HOSTILE: None})
    assert "<tr><td>peak of run</td><td>5</td></tr>" in html
    assert f"<tr><td>{ESCAPED}</td><td>None</td></tr>" in html
    assert "<th>" not in html
    assert pairs({}) == ""


def test_a_plot_is_a_figure() -> None:
    assert plotted(lambda: "<svg></svg>") == "<figure><svg></svg></figure>"


def test_how_to_install_stands_for_a_plot_that_cannot_be_drawn() -> None:
    def missing() -> str:
        raise MissingExtraError("plots need <this>; install it")

    assert plotted(missing) == '<p class="remark">plots need &lt;this&gt;; install it</p>'


def test_other_errors_of_a_plot_are_not_hidden() -> None:
    def broken() -> str:
        raise ValueError("no values")

    with pytest.raises(ValueError, match="no values"):
        plotted(broken)


@pytest.mark.parametrize("found", [None, "many", 5, {"a": 1}])
def test_what_is_no_list_is_an_empty_one(found: Any) -> None:
    assert listed({"layers": found}, "layers") == []
    assert listed({}, "layers") == []
    assert listed({"layers": [1, 2]}, "layers") == [1, 2]


@pytest.mark.parametrize("found", [None, "many", 5, [1]])
def test_what_is_no_mapping_is_an_empty_one(found: Any) -> None:
    assert mapping({"texts": found}, "texts") == {}
    assert mapping({}, "texts") == {}
    assert mapping({"texts": {"a": 1}}, "texts") == {"a": 1}
