"""The table of a saved model in a notebook."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from birdbone.contexts.saved import Saved


def table(figures: Mapping[str, Mapping[str, float]], path: str = "light") -> str:
    return Saved(Path(path), 10**9, figures, {})._repr_html_()


def test_both_sides() -> None:
    text = table({"dense": {"weight_bytes": 2e9}, "light": {"weight_bytes": 1e9, "mean_kl": 0.25}})
    assert "<tr><th>light</th><th>dense</th><th>light</th></tr>" in text
    assert "<tr><td>mean_kl</td><td></td><td>0.25</td></tr>" in text


def test_a_figure_of_one_side_leaves_the_other_empty() -> None:
    text = table({"dense": {"parameters": 10.0}, "light": {"rise": 0.5}})
    assert "<tr><td>parameters</td><td>10</td><td></td></tr>" in text
    assert "<tr><td>rise</td><td></td><td>0.5</td></tr>" in text


def test_rows_are_in_the_order_measured() -> None:
    """Those of the first side, then those that only the second has; each once."""
    text = table({"dense": {"b": 1.0, "a": 2.0}, "light": {"c": 3.0, "b": 4.0}})
    assert [text.index(f"<td>{name}</td>") for name in "bac"] == sorted(
        text.index(f"<td>{name}</td>") for name in "bac"
    )
    assert text.count("<td>b</td>") == 1


def test_large_and_small_values_can_be_read() -> None:
    text = table({"light": {"weight_bytes": 123_456.0, "mean_kl": 0.000123456789}})
    assert "<td>123,456</td>" in text
    assert "<td>0.000123457</td>" in text


def test_values_that_are_not_finite() -> None:
    text = table({"light": {"rise": math.nan, "perplexity": math.inf}})
    assert "<td>nan</td>" in text
    assert "<td>inf</td>" in text


def test_a_run_without_comparison_has_one_column() -> None:
    assert table({"light": {"rise": 0.1}}).startswith(
        "<table><tr><th>light</th><th>light</th></tr>"
    )


def test_a_path_is_no_markup() -> None:
    text = table({"light": {"rise": 0.1}}, path="a<b>&c")
    assert "a&lt;b&gt;&amp;c" in text
