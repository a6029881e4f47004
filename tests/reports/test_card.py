"""The card says what was done, what it costs, and what zeros are worth."""

from dataclasses import replace
from typing import Any

import pytest
from tiny import tiny_checkpoint

from birdbone.contexts.cost import Cost
from birdbone.contexts.steps import Step
from birdbone.reports.card import model_card
from birdbone.reports.provenance import library_version, without_paths

FIGURES = {
    "dense": {
        "weight_bytes": 2000.0,
        "parameters": 1000.0,
        "nonzero": 1000.0,
        "perplexity": 10.0,
        "elsewhere_perplexity": 25.0,
    },
    "light": {
        "weight_bytes": 2000.0,
        "parameters": 1000.0,
        "nonzero": 700.0,
        "perplexity": 11.25,
        "perplexity_error": 0.5,
        "rise": 0.125,
        "agreement": 0.875,
        "elsewhere_perplexity": 40.0,
        "elsewhere_rise": 0.6,
    },
}


def card(**more: Any) -> str:
    """The card of a model with three tenths of its weights masked."""
    step = Step("prune", {"sparsity": 0.3, "path": "/secret/place"}, Cost(2.0, 1, "process"))
    values: dict[str, Any] = {
        "name": "light",
        "checkpoint": tiny_checkpoint(),
        "weight_format": "dense",
        "history": (step,),
        "figures": FIGURES,
        "measured_on": {"text": "tiny words", "dtype": "float32"},
    }
    return model_card(**{**values, **more})


def test_the_table_holds_dense_beside_light() -> None:
    text = card()
    assert "| perplexity, held-out text | 10.000 | 11.250 ± 0.500 |" in text
    assert "| perplexity, elsewhere | 25.000 | 40.000 |" in text
    assert "| rise over dense, elsewhere |  | 60.0% |" in text
    assert "Calibration text is narrow: perplexity rose by 12.50% on held-out text" in text
    assert "| weight files, bytes | 2,000 | 2,000 |" in text
    assert "| top-1 agreement, held-out text |  | 87.5% |" in text
    assert "mean KL" not in text
    assert "text: tiny words; dtype: float32" in text


def test_waves_are_told_one_by_one_and_their_links_as_one_step() -> None:
    figures = {f"{name}_left": 0.9 for name in ("parameters", "bytes", "flops")}
    metrics = {"wave": 1, "kept": False, "reason": "perplexity rose", "perplexity": 21.0, **figures}
    metrics |= {"parameters": 9, "bytes": 36, "flops": 18}
    cost = Cost(90.0, 1, "process")
    inner = Step("validate", {}, cost, within="waves")
    wave = Step("wave", {"share": 0.1, "healing": 1}, cost, metrics, "id", "waves")
    text = card(history=(inner, wave, Step("waves", {"step": 0.1}, cost)))
    assert "## How it was made\n\n1. `waves(step=0.1)`, 90.0 s\n\nThe waves, evaluated" in text
    assert "| reverted: perplexity rose |" in text
    assert "The waves, evaluated" not in card()


def test_a_mask_is_called_a_mask() -> None:
    assert "30.0% of the parameters are zero" in card()
    assert "are stored and multiplied" in card()
    assert "rounding" not in card()
    assert "rounding to few bits" in card(weight_format="packed")
    assert "neither the size on disk nor the speed" in card()


def test_what_is_gone_is_not_called_a_mask() -> None:
    gone = {**FIGURES["light"], "parameters": 700.0, "nonzero": 700.0}
    text = card(figures={**FIGURES, "light": gone})
    assert "there is no mask" in text
    assert "are stored and multiplied" not in text


def test_steps_stand_with_their_settings_and_no_paths() -> None:
    assert "1. `prune(sparsity=0.3, path='place')`, 2.0 s" in card()
    assert "secret" not in card()


@pytest.mark.parametrize(
    ("weight_format", "needed"),
    [("packed", "`compressed-tensors` is installed"), ("nf4", "`bitsandbytes` is installed")],
)
def test_loading_says_what_must_be_installed(weight_format: str, needed: str) -> None:
    assert needed not in card()
    assert needed in card(weight_format=weight_format)


def test_without_a_dense_model_there_is_one_column() -> None:
    text = card(figures={"light": FIGURES["light"]})
    assert "| | light |" in text
    assert "| perplexity, held-out text | 11.250 ± 0.500 |" in text


def test_a_hub_model_is_named_as_the_base() -> None:
    assert "base_model: tiny/llama\n" in card()


def test_figures_of_a_model_off_a_4_bit_file_say_what_flatters_them() -> None:
    from_gguf = replace(tiny_checkpoint(), source="tiny/tiny.Q4_1.gguf")
    assert "4-bit blocks of 32" in card(checkpoint=from_gguf)
    assert "4-bit grid" not in card()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/home/me/model", "model"),
        ("~/model", "model"),
        ("C:\\Users\\me\\model", "model"),
        ("out/light", "out/light"),
        ("tiny/llama", "tiny/llama"),
        (["/a/b", {"c": "/d/e"}], ["b", {"c": "e"}]),
        (3, 3),
    ],
)
def test_paths_of_the_machine_are_cut_to_their_last_part(given: Any, expected: Any) -> None:
    assert without_paths(given) == expected


def test_a_library_that_is_not_there_is_said_so() -> None:
    assert library_version("no-such-distribution-at-all") == "not installed"


def test_an_adapter_beside_the_weights_is_told_of_and_that_figures_are_without_it() -> None:
    plain = tiny_checkpoint()
    beside = replace(plain, files={**plain.files, "adapter/adapter_config.json": b"{}"})
    assert "figures above were measured" in card(checkpoint=beside)
    assert "adapter" not in card(checkpoint=plain)
