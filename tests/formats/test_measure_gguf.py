"""The parts of the program that need no llama.cpp; the rest runs in test_llama_cpp.py."""

from __future__ import annotations

import math

import pytest

from birdbone.formats import measure_gguf


def test_perplexity_is_over_windows() -> None:
    found = measure_gguf._perplexity([[1.0, 3.0], [4.0, 4.0]])
    assert found["perplexity"] == pytest.approx(math.exp(3.0))
    # Means of 2 and 4 nats: a standard error of 1, by the delta method.
    assert found["perplexity_error"] == pytest.approx(math.exp(3.0))
    assert measure_gguf._perplexity([[1.0]]) == {"perplexity": pytest.approx(math.e)}


def test_a_prompt_fits_the_context_and_the_vocabulary() -> None:
    request = {"prefill_tokens": 4, "vocabulary": 10}
    assert measure_gguf._prompt([[1, 2], [3, 14, 5]], request, 100) == [1, 2, 3, 4]
    assert measure_gguf._prompt([[1, 2], [3, 4]], request, 3) == [1, 2, 3]
    assert measure_gguf._prompt([], request, 100) == [0, 1, 2, 3]
