"""Text sampled from the model as a source: `self`, and `default`, which holds it."""

from typing import Any

import pytest
from tiny import tiny_checkpoint

from birdbone.checkpoints import Checkpoint
from birdbone.engine import run
from birdbone.errors import SettingError
from birdbone.links import calibrate
from birdbone.links.calibrating.own_text import NAME, tokens_to_sample, windows_to_sample
from birdbone.links.calibrating.sources import PartSources

SIZES = {"windows": 4, "healing_windows": 4, "heldout_windows": 2, "elsewhere_windows": 2}
CHECKPOINT = tiny_checkpoint()


async def _texts(checkpoint: Checkpoint = CHECKPOINT, **settings: Any) -> dict[str, Any]:
    ctx = {"checkpoint": checkpoint, "dense": checkpoint}
    return dict(await run(calibrate(**{**SIZES, "length": 32, **settings}), ctx))


def _foretold(checkpoint: Checkpoint = CHECKPOINT, **settings: Any) -> Any:
    asked = calibrate(**{**SIZES, "length": 32, **settings})
    assert asked.factory.hooks.forecast is not None
    return asked.factory.hooks.forecast(
        {"checkpoint": checkpoint, "dense": checkpoint}, asked.settings
    )


async def test_self_fills_every_window_and_is_the_same_for_a_seed() -> None:
    first = await _texts(data="self")
    assert [first[part].num_windows for part in ("calibration", "healing", "heldout")] == [4, 4, 2]
    assert first["calibration"].text == f"{NAME}, calibration"
    again, other = await _texts(data="self"), await _texts(data="self", seed=1)
    assert again["calibration"].digest == first["calibration"].digest
    assert other["calibration"].digest != first["calibration"].digest
    # The forecast reads no model, and names the windows as the run does.
    forecast = _foretold(data="self")
    for part in ("calibration", "healing", "heldout", "elsewhere"):
        assert forecast.adds[part].num_windows == first[part].num_windows
        assert forecast.adds[part].text == first[part].text
    assert forecast.texts[0].tokens >= 10 * 32


async def test_text_is_sampled_from_the_original_model() -> None:
    other = tiny_checkpoint(seed=1)
    ctx = {"checkpoint": other, "dense": CHECKPOINT}
    after = await run(calibrate(**SIZES, length=32, data="self"), ctx)
    assert after["calibration"].digest == (await _texts(data="self"))["calibration"].digest


def test_default_is_a_mixture_and_is_judged_on_what_it_does_not_hold() -> None:
    sources = PartSources.parse("default", None, None)
    assert [each.place for each in sources.data] == ["self", "pydoc", "stdlib"]
    assert sum(each.weight for each in sources.data) == pytest.approx(1)
    assert [each.place for each in sources.elsewhere] == ["readmes"]
    assert [each.place for each in sources.all] == ["pydoc", "stdlib", "readmes"]
    assert sources.samples
    assert not PartSources.parse("pydoc", None, None).samples


def test_default_beside_another_text_keeps_its_weight() -> None:
    sources = PartSources.parse(("notes.txt:3", "default"), None, None)
    weights = {each.place: each.weight for each in sources.data}
    assert weights.pop("notes.txt") == 3
    assert sum(weights.values()) == pytest.approx(1)


def test_each_part_has_as_much_sampled_as_it_needs() -> None:
    data = PartSources.parse(("self:1", "pydoc:3"), None, None).data
    limits = {"calibration": 8, "healing": 4, "heldout": 2}
    # A quarter of each part, rounded up, with a margin of a tenth and a window.
    windows = windows_to_sample(data, limits)
    assert windows == pytest.approx({"calibration": 3.2, "healing": 2.1, "heldout": 2.1})
    assert tokens_to_sample(windows, 100) == 740
    without = windows_to_sample(PartSources.parse("pydoc", None, None).data, limits)
    assert tokens_to_sample(without, 100) == 0


async def test_parts_of_unequal_size_are_all_filled() -> None:
    sizes = {"windows": 24, "healing_windows": 1, "heldout_windows": 3}
    found = await _texts(data="self", **sizes)
    counts = {part: found[part].num_windows for part in ("calibration", "healing", "heldout")}
    assert counts == {"calibration": 24, "healing": 1, "heldout": 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": ("default", "stdlib")}, r"'default' holds 'stdlib' already; leave 'stdlib' out"),
        ({"data": "self?rows=3"}, r"'self' takes a weight and no other option"),
        ({"heldout_data": "self"}, r"heldout_data='self': text sampled from the model is for data"),
        ({"elsewhere": "default"}, r"elsewhere='default': .* name a text that no model generated"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(settings: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        _foretold(**settings)


def test_memory_and_work_are_those_of_sampling() -> None:
    sampled, read = _foretold(data="self"), _foretold(data="pydoc")
    assert sampled.memory_bytes > 2 * CHECKPOINT.num_parameters
    assert sampled.decoded_tokens > 0
    assert (read.memory_bytes, read.decoded_tokens) == (0, 0)
