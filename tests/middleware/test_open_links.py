from __future__ import annotations

from birdbone.chains import waves
from birdbone.contexts.cost import Cost
from birdbone.contexts.steps import Step
from birdbone.engine import Chain, run
from birdbone.links import prune, validate
from birdbone.middleware.open_links import (
    OpenLinks,
    logged_metrics,
    newest_step,
    of_run,
    settings_of,
)


def test_links_close_by_identity_the_newest_first():
    links = OpenLinks()
    first, second = object(), object()
    for value, link in enumerate((first, second, first)):
        links.open(link, value)
    assert [links.close(first), list(links)] == [2, [0, 1]]
    assert [links.close(first), links.close(second), len(links)] == [0, 1, 0]


def test_a_link_never_opened_closes_to_nothing():
    links = OpenLinks()
    links.open("other", 1)
    assert links.close("never") is None
    assert len(links) == 1


def test_what_is_kept_of_a_run_is_one_per_object_and_run():
    owner, other, notes = object(), object(), {}
    kept = of_run(owner, notes, OpenLinks)
    assert of_run(owner, notes, OpenLinks) is kept
    assert of_run(other, notes, OpenLinks) is not kept
    assert of_run(owner, {}, OpenLinks) is not kept


async def test_the_newest_step_is_only_the_links_own(links):
    add, inner = links.add(), Chain(links.add(), name="add")
    result = await run(add)
    assert newest_step(add, {}, result) is result["history"][-1]
    assert newest_step(add, result, result) is None
    assert newest_step(inner, {}, result) is None
    assert newest_step(links.plain, {}, result) is None
    assert newest_step(links.large(), {}, result) is None
    assert newest_step(add, {}, None) is None


def test_figures_of_each_layer_are_not_logged():
    metrics = {"loss": 0.5, "losses": [1.0, 0.5], "note": None, "errors": {"layer": 0.1}}
    step = Step("prune", {}, Cost(1.0, None, "process"), metrics=metrics)
    assert logged_metrics(step) == {"loss": 0.5, "losses": [1.0, 0.5], "note": None}


def test_settings_that_are_chains_are_spelled_out():
    body = Chain(prune(method="wanda"), Chain(validate(), name="judge"))
    found = settings_of(waves(body=body))["body"]
    assert found[0]["prune"]["method"] == "wanda"
    assert found[1]["name"] == "judge"
    assert settings_of(validate()) == dict(validate().settings)
