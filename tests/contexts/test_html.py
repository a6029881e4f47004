from pathlib import Path

from birdbone.contexts.html import html_table
from birdbone.contexts.saved import Saved


def test_cells_are_escaped() -> None:
    assert html_table(("a",), [("<b>&",)]) == (
        "<table><tr><th>a</th></tr><tr><td>&lt;b&gt;&amp;</td></tr></table>"
    )


def test_a_saved_model_is_shown_with_both_sides() -> None:
    figures = {"dense": {"weight_bytes": 2e9}, "light": {"weight_bytes": 1e9, "mean_kl": 0.25}}
    text = Saved(Path("light"), 10**9, figures, {})._repr_html_()
    assert "<tr><th>light</th><th>dense</th><th>light</th></tr>" in text
    assert "<tr><td>mean_kl</td><td></td><td>0.25</td></tr>" in text
