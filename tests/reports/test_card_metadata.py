"""The metadata of a card."""

from dataclasses import replace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCardData
from tiny import tiny_checkpoint

from birdbone.contexts.cost import Cost
from birdbone.contexts.steps import Step
from birdbone.models.reading.folder_files import CARRIED_CARD
from birdbone.reports.card_metadata import card_metadata

FIGURES = {"light": {"perplexity": 12.34567, "elsewhere_perplexity": 20.0}}
MEASURED = {
    "text": "pydoc, heldout",
    "windows": "8 of 512 tokens",
    "elsewhere": "readmes, elsewhere",
    "elsewhere_windows": "4 of 512 tokens",
}


def metadata(links: tuple[str, ...] = ("load", "quantize"), **more: Any) -> dict[str, Any]:
    """The block read by YAML."""
    whole: dict[str, Any] = {
        "name": "light",
        "checkpoint": tiny_checkpoint(),
        "history": [Step(link, {}, Cost(1.0, None, "process")) for link in links],
        "figures": FIGURES,
        "measured_on": MEASURED,
        **more,
    }
    text = card_metadata(**whole)
    assert text.startswith("---\n")
    assert text.endswith("\n---")
    found: dict[str, Any] = yaml.safe_load(text.strip("-"))
    return found


@pytest.mark.parametrize(
    ("links", "relation"),
    [
        (("load", "prune", "quantize"), "quantized"),
        (("load", "prune"), "finetune"),
        (("load", "heal"), "finetune"),
        (("load",), None),
    ],
)
def test_the_relation_to_the_base_follows_from_the_links(
    links: tuple[str, ...], relation: str | None
) -> None:
    found = metadata(links)
    assert found["base_model"] == "tiny/llama"
    assert found.get("base_model_relation") == relation


def test_a_source_outside_the_hub_is_no_base() -> None:
    found = metadata(checkpoint=replace(tiny_checkpoint(), source="model.gguf"))
    assert "base_model" not in found
    assert "base_model_relation" not in found


def test_the_perplexity_on_each_text_is_a_result() -> None:
    (index,) = metadata()["model-index"]
    held, elsewhere = index["results"]
    assert held["dataset"]["name"] == "pydoc, heldout"
    assert held["metrics"][0]["value"] == 12.3457
    assert elsewhere["metrics"][0]["name"] == "perplexity, 4 of 512 tokens"


def test_without_figures_there_are_no_results() -> None:
    assert "model-index" not in metadata(figures={"light": {"weight_bytes": 1.0}})


def test_the_hub_s_own_reader_takes_it() -> None:
    found = metadata()
    card = ModelCardData(**{**found, "model_name": "light"})
    assert card.to_dict()["base_model_relation"] == "quantized"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (b"---\nlicense: other\nlicense_name: x\nlicense_link: LICENSE\n---\nText", "other"),
        (b"---\nlicense:\n- mit\n---\n", ["mit"]),
        (b"---\nlicense: [\n---\n", None),
        (b"---\n- license\n---\n", None),
        (b"license: mit\n---\nlicense: mit\n---\n", None),
    ],
)
def test_the_licence_is_that_of_the_source(card: bytes, expected: object) -> None:
    checkpoint = tiny_checkpoint()
    files = {**checkpoint.files, CARRIED_CARD: card}
    found = metadata(checkpoint=replace(checkpoint, files=files))
    assert found.get("license") == expected
