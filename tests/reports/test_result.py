import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from birdbone.checkpoints import Quantized
from birdbone.contexts.cost import Cost
from birdbone.contexts.saved import Saved
from birdbone.contexts.steps import Step
from birdbone.reports.result import (
    Row,
    figure_rows,
    is_on_a_grid,
    remarks,
    result_document,
    result_report,
    step_rows,
)

DENSE = {
    "weight_bytes": 270e6,
    "parameters": 1000.0,
    "nonzero": 1000.0,
    "perplexity": 20.0,
    "elsewhere_perplexity": 30.0,
}
LIGHT = {
    "weight_bytes": 110_500_000.0,
    "parameters": 1000.0,
    "nonzero": 700.0,
    "perplexity": 21.5,
    "perplexity_error": 0.25,
    "rise": 0.075,
    "agreement": 0.875,
    "elsewhere_perplexity": 33.0,
    "elsewhere_rise": 0.1,
    "elsewhere_rise_error": 0.01,
}
FIGURES = {"dense": DENSE, "light": LIGHT}


def step(link: str, seconds: float = 30.0) -> Step:
    return Step(link, {}, Cost(seconds, 1, "process"))


def result(*links: str, source: str = "some/model") -> dict[str, object]:
    saved = Saved(Path("light"), 5, FIGURES, {"text": "words", "device": "x86_64"})
    history = tuple(step(link) for link in links)
    return {"saved": saved, "history": history, "dense": SimpleNamespace(source=source)}


def read(renderable: object) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_waves_have_a_table_of_their_own_and_their_links_no_minutes_twice() -> None:
    figures = {f"{name}_left": 0.9 for name in ("parameters", "bytes", "flops")}
    metrics = {"wave": 1, "kept": True, "reason": "held", "perplexity": 21.0, **figures}
    metrics |= {"parameters": 9, "bytes": 36, "flops": 18}
    inner = Step("prune", {}, Cost(60.0, 1, "process"), within="waves")
    wave = Step(
        "wave", {"share": 0.1, "healing": 1}, Cost(90.0, 1, "process"), metrics, "id", "waves"
    )
    found = result("load", "waves")
    history = (step("load"), inner, wave, step("waves", 120.0))
    text = read(result_report({**found, "history": history}))
    assert "Waves, evaluated in memory on held-out text" in text
    assert "90.0%" in text
    assert step_rows(history) == [
        ("load", "30.0 s"),
        ("waves", "2.0 min"),
        ("all links", "2.5 min"),
    ]


def test_figures_stand_dense_beside_light_with_their_units_and_errors() -> None:
    assert figure_rows(FIGURES) == [
        Row("weights on disk", "270.0 MB", "110.5 MB"),
        Row("parameters", "1,000", "1,000"),
        Row("of which not zero", "1,000", "700"),
        Row("perplexity, held-out text", "20.000", "21.500 ± 0.250"),
        Row("perplexity, elsewhere", "30.000", "33.000"),
        Row("rise over dense, held-out text", "–", "7.5%"),
        Row("rise over dense, elsewhere", "–", "10.0% ± 1.0%"),
        Row("top-1 agreement, held-out text", "–", "87.5%"),
    ]


def test_a_figure_nobody_measured_has_no_row() -> None:
    assert [row.label for row in figure_rows({"light": {"parameters": 3.0}})] == ["parameters"]


def test_every_link_has_its_time_a_repeated_one_twice() -> None:
    rows = step_rows([step("validate", 60), step("prune", 30), step("validate", 90)])
    assert rows == [
        ("validate", "1.0 min"),
        ("prune", "30.0 s"),
        ("validate", "1.5 min"),
        ("all links", "3.0 min"),
    ]


def test_zeros_in_dense_tensors_are_called_a_mask() -> None:
    [remark] = remarks(FIGURES, [step("prune")], "some/model")
    assert remark.startswith("30.0% of the parameters are zero")
    assert "neither the size on disk nor the speed" in remark


def test_zeros_that_rounding_made_are_not_called_a_mask() -> None:
    assert remarks(FIGURES, [step("quantize")], "some/model") == []


def test_zeros_that_rounding_made_after_neurons_went_are_not_called_a_mask() -> None:
    hollowed = Step("prune", {}, Cost(1.0, 1, "process"), {"parameters_after": 9})
    assert remarks(FIGURES, [hollowed, step("quantize")], "some/model") == []
    [remark] = remarks(FIGURES, [hollowed, step("prune"), step("quantize")], "some/model")
    assert "They are a mask" in remark


def test_codes_that_came_with_the_model_are_not_called_a_mask() -> None:
    assert remarks(FIGURES, [step("save")], "some/model", has_codes=True) == []
    assert len(remarks(FIGURES, [step("save")], "some/model")) == 1
    codes = Quantized(torch.ones(1, 8, dtype=torch.int8), torch.ones(1, 1), bits=4)
    found = {**result("save"), "checkpoint": SimpleNamespace(refs={"a": codes})}
    assert "They are a mask" not in read(result_report(found))
    assert "They are a mask" in read(result_report(result("save")))


def test_a_side_that_was_not_measured_has_no_column() -> None:
    saved = Saved(Path("light"), 5, {"light": LIGHT}, {})
    words = read(result_report({**result("save"), "saved": saved}))
    assert "light" in words
    assert "dense ┃" not in words
    assert "30.0 s" in words


def test_a_model_without_zeros_gets_no_remark_on_masks() -> None:
    assert remarks({"light": DENSE}, [step("prune")], "some/model") == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("package/Smol-135M.Q4_1.gguf", True),
        ("smol-q4_0.gguf", True),
        ("smol.Q4_K_M.gguf", False),
        ("smol.Q8_0.gguf", False),
        ("owner/model", False),
    ],
)
def test_a_source_on_a_4_bit_grid_is_known_by_its_name(source: str, expected: bool) -> None:
    assert is_on_a_grid(source) is expected


def test_the_grid_is_remarked_on_only_beside_quantisation_figures() -> None:
    light = {"light": DENSE}
    assert remarks(light, [step("prune")], "m.Q4_1.gguf") == []
    [remark] = remarks(light, [step("quantize")], "m.Q4_1.gguf")
    assert "never quantised" in remark


def test_the_report_says_what_was_measured_and_where() -> None:
    text = read(result_report(result("load", "prune")))
    for expected in ("21.500 ± 0.250", "30.0 s", "x86_64", "a mask", "Saved in light"):
        assert expected in text


def test_without_a_saved_folder_no_figure_is_shown() -> None:
    text = read(result_report({"history": (step("load"),)}))
    assert "nothing was saved and measured" in text
    assert "perplexity" not in text


def test_the_document_is_json_even_where_a_figure_is_not_a_number() -> None:
    found = result("load")
    odd = Step("validate", {}, Cost(1.0, 1, "process"), {"rise": math.nan})
    document = result_document({**found, "history": (odd,)})
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["steps"][0]["metrics"] == {"rise": None}
    assert document["figures"]["light"]["perplexity"] == 21.5
    assert document["path"] == "light"
