"""Options and ``--set`` as settings of a chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from birdbone.chains import CHAINS
from birdbone.commands.changes import configured
from birdbone.engine import Chain
from birdbone.engine.rebuilding import links_with_settings
from birdbone.errors import SettingError
from birdbone.links import load, profile


def changed(name: str, *assignments: str, force: bool = False, **options: Any) -> Chain:
    chain = CHAINS[name](model="m", out=str(options.pop("out", "somewhere/new")))
    given = {option.replace("_", "-"): value for option, value in options.items()}
    return configured(chain, assignments, given, force=force)


def values(chain: Chain, link: str, setting: str) -> list[Any]:
    return [
        getattr(each.settings, setting)
        for each in links_with_settings(chain)
        if each.__name__ == link
    ]


@pytest.mark.parametrize(
    ("chain", "option", "value", "setting"),
    [
        ("bird-bone", "target", 0.5, "waves.target"),
        ("bird-bone", "stop_loss", 0.4, "waves.stop_loss"),
        ("one-shot", "bits", 3, "quantize.bits"),
        ("one-shot", "elsewhere", ("a", "b"), "calibrate.elsewhere"),
        ("fit", "ratio", 0.25, "allocate.ratio"),
        ("fit", "average_bits", 3.5, "allocate.bits"),
        ("fit", "rise", 0.05, "allocate.rise"),
        ("quantize-only", "keep_unused", False, "load.keep_unused"),
        ("quantize-only", "device", "cpu", "load.device"),
        ("quantize-only", "activations", "host", "load.activations"),
    ],
)
def test_an_option_stands_for_a_setting(chain: str, option: str, value: Any, setting: str) -> None:
    link, name = setting.split(".")
    assert set(values(changed(chain, **{option: value}), link, name)) == {value}


def test_options_reach_every_link_of_the_name() -> None:
    """Those in the body of waves too."""
    found = values(changed("bird-bone", time="30min"), "heal", "time")
    assert len(found) == 2
    assert len(set(found)) == 1
    assert found[0] is not None


def test_bytes_are_read() -> None:
    assert values(changed("fit", bytes="80MB"), "allocate", "bytes") == [80_000_000]


def test_what_is_not_given_changes_nothing() -> None:
    plain = CHAINS["bird-bone"](model="m", out="somewhere/new")
    found = configured(plain, [], {"bits": None, "target": None}, force=False)
    assert repr(found) == repr(plain)


def test_assignments() -> None:
    found = changed("bird-bone", "heal.epochs=1", "heal#2.epochs=5", "calibrate.data=[a, b]")
    assert values(found, "heal", "epochs") == [1, 5]
    assert values(found, "calibrate", "data") == [("a", "b")]


@pytest.mark.parametrize(
    ("assignments", "options", "message"),
    [
        (("quantize.bits=8",), {"bits": 4}, r"quantize\.bits is set twice; set it once"),
        (("heal.epochs=1", "heal.epochs=2"), {}, r"heal\.epochs is set twice"),
        (("save.force=true",), {"force": True}, r"save\.force is set twice"),
        (("bits",), {}, "'bits' sets nothing; write link.setting=value"),
        (("heal.epoch=1",), {}, "heal has no setting 'epoch'; did you mean 'epochs'?"),
        ((), {"bits": 99}, r"quantize\(bits=99\): .* less than or equal to 8"),
    ],
)
def test_refused(assignments: Any, options: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        changed("bird-bone", *assignments, **options)


@pytest.mark.parametrize(
    ("chain", "option", "link"),
    [
        ("one-shot", "target", "waves"),
        ("one-shot", "time", "heal"),
        ("quantize-only", "ratio", "allocate"),
    ],
)
def test_a_chain_without_that_link(chain: str, option: str, link: str) -> None:
    message = (
        rf"--{option} sets {link}\..*, but chain '{chain}' has no {link}; use bird-bone, or a "
        rf"recipe that contains {link}"
    )
    with pytest.raises(SettingError, match=message):
        changed(chain, **{option: 0.5})


def test_the_output_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SettingError, match="was not made by birdbone; give another, or force"):
        changed("one-shot", out=tmp_path)
    found = changed("one-shot", out=tmp_path, force=True)
    assert values(found, "save", "force") == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_made_where_it_will_be(tmp_path: Path) -> None:
    """A dry run leaves no trace."""
    changed("one-shot", out=tmp_path / "deep" / "light")
    assert list(tmp_path.iterdir()) == []


def test_force_without_an_output() -> None:
    chain = Chain(load(model="m"), profile(), name="mine")
    with pytest.raises(
        SettingError, match=r"chain 'mine' has no save, so save\.force sets nothing"
    ):
        configured(chain, [], {}, force=True)
