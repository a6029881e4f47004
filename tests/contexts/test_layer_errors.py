"""Errors of layers as figures of a step."""

import pytest

from birdbone.contexts.layer_errors import error_metrics


def test_the_mean_and_the_worst_are_named() -> None:
    found = error_metrics({"a": 0.1, "b": 0.3})
    assert found["mean_relative_error"] == pytest.approx(0.2)
    assert (found["worst_layer"], found["worst_relative_error"]) == ("b", 0.3)
    assert found["relative_errors"] == {"a": 0.1, "b": 0.3}


def test_no_errors_are_no_figures() -> None:
    assert error_metrics({}) == {}
