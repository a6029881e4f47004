"""A table for notebooks."""

from birdbone.contexts.html import html_table


def test_cells_are_escaped() -> None:
    assert html_table(("a",), [("<b>&",)]) == (
        "<table><tr><th>a</th></tr><tr><td>&lt;b&gt;&amp;</td></tr></table>"
    )
