"""What the figures of a saved folder leave open about other text."""

import pytest

from birdbone.reports.both_texts import ONE_TEXT, text_remarks


def figures(**light: float) -> dict[str, dict[str, float]]:
    return {"light": {"perplexity": 12.0, **light}}


def test_without_text_nothing_is_remarked_and_one_text_is_reported_as_one() -> None:
    assert text_remarks({"light": {"parameters": 3.0}}) == []
    assert text_remarks(figures()) == [ONE_TEXT]


@pytest.mark.parametrize(
    ("rises", "words"),
    [
        ((0.10, 0.29), None),
        ((0.10, 0.31), "Calibration text is narrow: perplexity rose by 10.00% on held-out text"),
        ((0.31, 0.10), "The cost depends on the text: perplexity rose by 31.00%"),
        ((-0.01, 0.02), "Calibration text is narrow"),
    ],
)
def test_rises_that_differ_by_more_than_twice_the_smaller_are_remarked_on(
    rises: tuple[float, float], words: str | None
) -> None:
    found = text_remarks(figures(rise=rises[0], elsewhere_perplexity=9.0, elsewhere_rise=rises[1]))
    if words is None:
        assert found == []
    else:
        [remark] = found
        assert remark.startswith(words)


def test_a_difference_within_noise_is_not_remarked_on() -> None:
    light = {"rise": 0.0, "rise_error": 0.01, "elsewhere_perplexity": 9.0, "elsewhere_rise": 0.03}
    assert text_remarks(figures(**light, elsewhere_rise_error=0.02)) == []
    assert len(text_remarks(figures(**light, elsewhere_rise_error=0.001))) == 1


def test_a_rise_that_was_not_measured_is_not_compared() -> None:
    assert text_remarks(figures(elsewhere_perplexity=9.0)) == []
