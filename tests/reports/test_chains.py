import json
from io import StringIO

from rich.console import Console

from birdbone.chains import CHAINS, waves
from birdbone.engine import Chain
from birdbone.links import load, prune, quantize, save, validate
from birdbone.reports.chains import chain_markdown, chain_page, chains_report, each_link, save_links


def nested(*, model: str, out: str) -> Chain:
    """Do little.

    And slowly.
    """
    return Chain(load(model=model), Chain(quantize(bits=8)), save(path=out))


def test_a_page_lists_links_of_nested_chains_and_what_differs_from_the_defaults() -> None:
    page = chain_page("little", nested)
    assert page.summary == "Do little."
    assert [each["link"] for each in page.links] == ["load", "quantize", "save"]
    assert page.links[1]["settings"] == {"bits": 8}


def waving(*, model: str, out: str) -> Chain:
    """Come back."""
    body = Chain(prune(method="wanda"), Chain(validate()))
    return Chain(load(model=model), waves(body=body, step=0.05), save(path=out))


def test_the_body_of_waves_is_shown_within_it() -> None:
    page = chain_page("waving", waving)
    assert [each["link"] for each in page.links] == ["load", "waves", "save"]
    lines = ["  - waves:", "      step: 0.05", "      body:", "        - prune: {method: wanda}"]
    assert "\n".join([*lines, "        - validate", "  - save"]) in chain_markdown(page)
    assert json.loads(json.dumps(page.as_dict()))["links"][1]["settings"]["step"] == 0.05
    row = StringIO()
    Console(file=row, width=100).print(chains_report([page]))
    assert "load, waves(prune, validate), save" in row.getvalue()
    chain = waving(model="m", out="o")
    names = [each.__name__ for each in each_link(chain)]
    assert names == ["load", "waves", "prune", "validate", "save"]


def test_markdown_shows_the_chain_as_a_recipe_lists_it() -> None:
    assert "  - load\n  - quantize: {bits: 8}\n  - save\n```" in chain_markdown(
        chain_page("little", nested)
    )


def test_every_predefined_chain_has_a_page_json_can_hold() -> None:
    for name, make in CHAINS.items():
        page = chain_page(name, make)
        assert page.summary
        assert json.loads(json.dumps(page.as_dict()))["links"][0]["link"] == "load"


def test_the_links_that_save_are_found_wherever_they_are() -> None:
    chain = Chain(Chain(save(path="a")), save(path="b"))
    assert [each.settings.path for each in save_links(chain)] == ["a", "b"]
    assert len(list(each_link(chain))) == 2
