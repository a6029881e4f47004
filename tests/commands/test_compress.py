"""``birdbone compress``: the chain bird-bone with a preset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import birdbone, refused

from birdbone.commands import compress as command
from birdbone.engine import Chain
from birdbone.engine.rebuilding import links_with_settings


@pytest.fixture
def assembled(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The chain that would be run, and how."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(
        command, "execute", lambda assemble, how: found.update(chain=assemble(), how=how)
    )
    return found


def values(chain: Chain, address: str) -> list[Any]:
    link, setting = address.split(".")
    return [
        getattr(each.settings, setting)
        for each in links_with_settings(chain)
        if each.__name__ == link
    ]


def test_the_time_of_each_preset(folders: Path, tmp_path: Path) -> None:
    """The estimate that is printed before a run."""
    seconds = {}
    for preset in ("fast", "balanced", "best"):
        options = ("--out", tmp_path / "light", "--preset", preset, "--dry-run", "--json")
        found = birdbone("compress", folders / "dense", *options, "--set", "calibrate.length=64")
        assert found.exit_code == 0, found.output
        seconds[preset] = json.loads(found.stdout)["seconds"]
    assert seconds["fast"] > 0
    assert seconds["balanced"] < seconds["best"]
    assert not (tmp_path / "light").exists()


def test_options_are_settings(assembled: Any, tmp_path: Path) -> None:
    more = ("--target", 0.6, "--stop-loss", 0.2, "--bits", 3, "--time", "30min", "--data", "a")
    birdbone("compress", "mine", "--out", tmp_path / "light", *more, "--elsewhere", "b")
    chain = assembled["chain"]
    assert values(chain, "waves.target") == [0.6]
    assert values(chain, "waves.stop_loss") == [0.2]
    assert values(chain, "quantize.bits") == [3]
    assert values(chain, "calibrate.data") == ["a"]
    assert values(chain, "calibrate.elsewhere") == ["b"]
    # Both healings: in each wave, and at the end.
    assert len({*values(chain, "heal.time")}) == 1
    assert values(chain, "heal.time")[0] is not None


@pytest.mark.parametrize(
    ("preset", "target", "epochs"),
    [("fast", 0.9, [1, 1]), ("balanced", 0.85, [1, None]), ("best", None, [2, 2])],
)
def test_presets(
    preset: str, target: float | None, epochs: list[int | None], assembled: Any, tmp_path: Path
) -> None:
    birdbone("compress", "mine", "--out", tmp_path / "light", "--preset", preset)
    assert values(assembled["chain"], "waves.target") == [target]
    assert values(assembled["chain"], "heal.epochs") == epochs


def test_a_target_is_stronger_than_the_preset(assembled: Any, tmp_path: Path) -> None:
    birdbone("compress", "mine", "--out", tmp_path / "light", "--preset", "best", "--target", 0.7)
    assert values(assembled["chain"], "waves.target") == [0.7]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target", "1.5"), "waves(target=1.5): Input should be less than 1"),
        (("--stop-loss", "0"), "waves(stop_loss=0.0): Input should be greater than 0"),
        (("--time", "soon"), "'soon' is no duration; write it like 90s, 30min or 2h"),
        (("--set", "prune.sparsity=0.3"), "waves sets the sparsity of every wave"),
        (("--set", "fit.bits=3"), "chain 'bird-bone' has no link 'fit'"),
    ],
)
def test_refused_before_work(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    assert words in refused("compress", "mine", "--out", tmp_path / "light", *options)
    assert list(tmp_path.iterdir()) == []
