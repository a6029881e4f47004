"""An order of links that would fail late is refused by name where the chain is composed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import pytest

from birdbone.chains import bird_bone, build, configure, load_recipe, waves
from birdbone.contexts.flow import Changed, WithModel
from birdbone.engine import Chain, link
from birdbone.errors import ChainError
from birdbone.links import heal, load, prune, quantize, validate


def of_neurons(multiple: int | None) -> Any:
    return waves(body=Chain(prune(pattern="neurons", multiple=multiple), validate()))


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_for_every_heal_are_refused_where_one_follows_quantize(method: str) -> None:
    chain = bird_bone(model="m", out="o")
    mend = f"set heal#1.method={method} for those before it"
    with pytest.raises(ChainError, match=rf"heal\(method='{method}'\) after quantize .*; {mend}"):
        configure(chain, {"heal.method": method})
    changed = configure(chain, {"heal#1.method": method})
    assert changed.links[4].settings.body.links[1].settings.method == method
    assert changed.links[6].settings.method == "blocks"
    assert configure(chain, {"heal.method": "full"}).links[6].settings.method == "full"


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (lambda: Chain(quantize(), prune()), "prune after quantize .* put it before quantize"),
        (
            lambda: Chain(quantize(), heal(method="lora")),
            r"heal\(method='lora'\) .*, or put it before quantize",
        ),
        (
            lambda: Chain(quantize(symmetric=False), heal()),
            "values off their grid; leave quantize.symmetric at its default",
        ),
        (
            lambda: Chain(Chain(quantize()), waves(body=Chain(prune(), validate()))),
            "prune after quantize",
        ),
        (lambda: Chain(load(model="m"), Chain(Chain(quantize(), prune()))), "prune after quantize"),
        (lambda: Chain(load(model="m"), quantize(), validate(), prune()), "prune after quantize"),
    ],
)
def test_what_would_store_codes_as_floats_is_refused(chain: Any, message: str) -> None:
    with pytest.raises(ChainError, match=message):
        chain()


def test_a_link_added_later_is_refused_too() -> None:
    chain = Chain(quantize())
    with pytest.raises(ChainError, match="prune after quantize"):
        chain.add_link(prune())
    assert len(chain.links) == 1


class Judged(TypedDict):
    judged: bool


async def anything(ctx: Any) -> Any:
    return ctx


@link
async def restore(ctx: WithModel) -> Changed:
    return {"checkpoint": ctx["dense"]}


@pytest.mark.parametrize("between", [lambda: load(model="m"), lambda: anything, restore])
def test_what_may_put_another_model_there_begins_anew(between: Any) -> None:
    first = load(model="m")
    Chain(first, quantize(), between(), prune())
    Chain(first, quantize(symmetric=False), between(), heal())
    Chain(first, of_neurons(2), between(), quantize())


def test_links_of_another_house_are_not_taken_for_ours_by_their_names() -> None:
    @link
    async def quantize(ctx: WithModel) -> Judged:
        return {"judged": True}

    Chain(quantize(), prune(), quantize(), heal(method="lora"))


def test_a_setting_that_breaks_the_order_is_refused_in_the_same_words() -> None:
    with pytest.raises(ChainError) as composed:
        Chain(quantize(symmetric=False), heal())
    with pytest.raises(ChainError) as configured:
        configure(Chain(quantize(), heal()), {"quantize.symmetric": False})
    assert str(configured.value) == str(composed.value)


@pytest.mark.parametrize(
    ("multiple", "group_size", "mend"),
    [
        (32, 64, "prune.multiple=64"),
        (None, 128, "prune.multiple=128"),
        (48, 32, "prune.multiple=96"),
    ],
)
def test_neurons_that_leave_no_whole_groups_are_refused(
    multiple: int | None, group_size: int, mend: str
) -> None:
    with pytest.raises(ChainError, match=rf"groups of {group_size} of quantize .* set {mend},"):
        Chain(of_neurons(multiple), quantize(group_size=group_size))
    with pytest.raises(ChainError, match=rf"groups of {group_size} of quantize .* set {mend},"):
        configure(
            Chain(of_neurons(None), quantize()),
            {"quantize.group_size": group_size, "prune.multiple": multiple},
        )


@pytest.mark.parametrize(
    "chain",
    [
        lambda: Chain(of_neurons(None), quantize()),
        lambda: Chain(prune(pattern="neurons", sparsity=0.5), quantize(group_size=128)),
        lambda: Chain(of_neurons(128), quantize(group_size=128)),
        lambda: Chain(of_neurons(2), quantize(group_size="auto")),
        lambda: Chain(of_neurons(2), quantize(group_size=None)),
        lambda: Chain(of_neurons(2), quantize(method="nf4")),
        lambda: Chain(of_neurons(2), quantize(grid="q4_0")),
        lambda: Chain(prune(pattern="layers", multiple=2), quantize(group_size=128)),
        lambda: Chain(heal(), quantize(symmetric=False), validate()),
        lambda: Chain(quantize(symmetric=False, method="llm.int8"), heal()),
    ],
)
def test_what_goes_together_passes(chain: Any) -> None:
    chain()


def test_before_quantize_everything_goes() -> None:
    Chain(prune(), heal(method="lora"), quantize(), heal(method="full"), validate())


def test_a_recipe_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "late.yaml"
    path.write_text("links: [load: {model: m}, quantize, prune]")
    with pytest.raises(ChainError, match=r"late\.yaml': prune after quantize"):
        build(load_recipe(path))
