"""A verdict as figures of a step, and one without values."""

from __future__ import annotations

import math
from dataclasses import replace

from tiny import tiny_checkpoint, tiny_windows
from tiny_verdicts import verdict_on

from birdbone.contexts.verdict import Perplexity, Verdict
from birdbone.links.validating.metrics import metrics, outlined_verdict

HELD, PAPER = tiny_windows(3, text="the book"), tiny_windows(2, 8, seed=1, text="the paper")


def verdict(rise: float, elsewhere: float | None = None) -> Verdict:
    one = verdict_on(HELD, 20.0, "light")
    held = replace(one.heldout, rise=rise, light=Perplexity(20 * (1 + rise), 2.0, 45), mean_kl=0.3)
    if elsewhere is None:
        return replace(one, heldout=held)
    other = replace(verdict_on(PAPER, 30.0, "light").heldout, rise=elsewhere, rise_error=0.01)
    return replace(one, heldout=held, elsewhere=other)


def test_one_text() -> None:
    found = metrics(verdict(0.1))
    assert (found["dense_perplexity"], found["perplexity"]) == (20.0, 22.0)
    assert (found["perplexity_error"], found["rise"], found["mean_kl"]) == (2.0, 0.1, 0.3)
    assert (found["tokens"], found["texts"]) == (45, 1)
    assert (found["worse_rise"], found["worse_text"]) == (0.1, "the book")
    assert not any(name.startswith("elsewhere_") for name in found)


def test_both_texts_have_the_same_figures() -> None:
    found = metrics(verdict(0.1, 0.15))
    common = {"texts", "worse_rise", "worse_text"}
    names = {name for name in found if not name.startswith("elsewhere_")} - common
    assert {name.removeprefix("elsewhere_") for name in found} - common == names
    assert (found["rise"], found["elsewhere_rise"], found["texts"]) == (0.1, 0.15, 2)
    assert (found["worse_rise"], found["worse_text"]) == (0.15, "the paper")


def test_the_worse_is_named_whichever_it_is() -> None:
    assert metrics(verdict(0.3, 0.2))["worse_text"] == "the book"


def test_a_remark_only_where_there_is_one() -> None:
    assert "remark" not in metrics(verdict(0.1, 0.15))
    assert metrics(verdict(0.1, 0.9))["remark"].startswith("calibration text is narrow")


def test_nan_is_not_hidden() -> None:
    found = metrics(verdict(0.1, math.nan))
    assert math.isnan(found["worse_rise"])
    assert math.isnan(found["elsewhere_rise"])


def test_an_outline_has_shapes_and_no_values() -> None:
    found = outlined_verdict(tiny_checkpoint(), {"heldout": HELD, "elsewhere": PAPER})
    hidden = found["reference"].hidden
    assert {name: tuple(each.shape) for name, each in hidden.items()} == {
        "heldout": (3, 16, 32),
        "elsewhere": (2, 8, 32),
    }
    assert {each.device.type for each in hidden.values()} == {"meta"}
    judged = found["verdict"].texts
    assert [(each.text, each.num_windows, each.window) for each in judged.values()] == [
        ("the book", 3, 16),
        ("the paper", 2, 8),
    ]
    assert all(math.isnan(each.rise) for each in judged.values())


def test_an_outline_of_one_text() -> None:
    found = outlined_verdict(tiny_checkpoint(), {"heldout": HELD})
    assert found["verdict"].elsewhere is None
    # The number of predicted tokens is not known to be less than that of all.
    assert found["verdict"].heldout.light.num_tokens == HELD.num_tokens
