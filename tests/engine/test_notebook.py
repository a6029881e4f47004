from typing import Any, TypedDict

from birdbone.engine import Chain, link


class Bone(TypedDict):
    bone: int


class Light(TypedDict):
    light: int


@link
async def thin(ctx: Bone, *, how: str = "gently") -> Light:
    return {"light": 1}


async def plain(ctx: Any) -> Any:
    return ctx


def test_a_notebook_shows_links_with_settings_and_keys() -> None:
    shown = Chain(thin(how="<b>"), Chain(plain, name="inner"), name="all")._repr_html_()
    assert "<caption>all</caption>" in shown
    assert "<td>thin(how=&#x27;&lt;b&gt;&#x27;)</td><td>bone</td><td>light</td>" in shown
    assert shown.index("<td>inner</td>") < shown.index("plain</td>")
