"""A chain with other settings: what is replaced, what stays, and what follows the change."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest

from birdbone.engine import Chain, Link, link, run
from birdbone.engine.rebuilding import links_with_settings, rebuilt
from birdbone.errors import SettingError


class Nothing(TypedDict):
    pass


class Counted(TypedDict):
    count: int


@link
async def count(ctx: Nothing, *, to: int = 1) -> Counted:
    return {"count": to}


@link
async def fail(ctx: Nothing, *, how: str = "badly") -> Nothing:
    raise ValueError(how)


@link
async def again(ctx: Nothing, *, body: Chain) -> Nothing:
    return {}


async def plain(ctx: Any) -> Any:
    return ctx


def to_seven(each: Link[Any]) -> dict[str, Any]:
    return {"to": 7} if each.__name__ == "count" else {}


def test_settings_change_at_every_depth_and_the_input_keeps_its_own() -> None:
    chain = Chain(count(), Chain(plain, count(to=2)), again(body=Chain(count(to=3))))
    changed = rebuilt(chain, to_seven)
    found = [each.settings.to for each in links_with_settings(changed) if "count" in each.adds]
    assert found == [7, 7, 7]
    before = [each.settings.to for each in links_with_settings(chain) if "count" in each.adds]
    assert before == [1, 2, 3]


def test_links_without_changes_stay_the_same_objects() -> None:
    chain = Chain(fail(), plain, again(body=Chain(fail())))
    changed = rebuilt(chain, to_seven)
    assert all(one is other for one, other in zip(chain.links, changed.links, strict=True))


def test_links_are_asked_in_running_order() -> None:
    asked = []

    def note(each: Link[Any]) -> dict[str, Any]:
        asked.append(each.settings.to if each.__name__ == "count" else each.__name__)
        return {}

    rebuilt(
        Chain(count(to=1), Chain(count(to=2)), again(body=Chain(count(to=3))), count(to=4)), note
    )
    assert asked == [1, 2, "again", 3, 4]


def test_a_bad_setting_is_refused() -> None:
    with pytest.raises(SettingError, match="count has no setting 'too'"):
        rebuilt(Chain(count()), lambda each: {"too": 1})
    with pytest.raises(SettingError, match="to"):
        rebuilt(Chain(count()), lambda each: {"to": "many"})


async def test_routes_and_middleware_follow_the_changed_link() -> None:
    class Watch:
        def __init__(self) -> None:
            self.seen: list[str] = []

        async def before(self, step: Any, ctx: Any, notes: Any) -> None:
            self.seen.append(str(step.settings.how))

    broken, watch = fail(), Watch()
    chain = Chain(broken)
    chain.connect(broken, count(to=5), lambda ctx: True)
    chain.use(watch, on_link=broken, position="before")
    changed = rebuilt(chain, lambda each: {"how": "well"} if each.__name__ == "fail" else {})
    result = await run(changed, {})
    assert result["count"] == 5
    assert watch.seen == ["well"]
