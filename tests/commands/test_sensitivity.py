"""``birdbone sensitivity``: the linears that lose most by fewer bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import birdbone, document, refused

from birdbone.commands import sensitivity as command

SMALL = ("--windows", 2, "--length", 16)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, so that the model is measured once."""
    return tmp_path_factory.mktemp("sensitivity") / "run"


@pytest.fixture
def args(folders: Path, kept: Path) -> tuple[object, ...]:
    text = ("--data", folders / "text.txt")
    return ("sensitivity", folders / "dense", *SMALL, *text, "--run", kept)


def test_the_worst_first(args: Any) -> None:
    found = document(*args, "--bits", 3)
    assert found["ranked_at_bits"] == 3
    assert len(found["linears"]) == 21
    losses = [min(g["loss"] for g in e["grids"] if g["bits"] == 3) for e in found["linears"]]
    assert losses == sorted(losses, reverse=True)
    bits = {grid["bits"] for grid in found["linears"][0]["grids"]}
    assert bits == {2, 3, 4, 6, 8}


def test_as_many_as_asked_for(args: Any) -> None:
    names = [each["name"] for each in document(*args, "--bits", 3)["linears"]]
    shown = birdbone(*args, "--bits", 3, "--top", 2).stdout
    assert [name for name in names if name in shown] == names[:2]


def test_plot(args: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shown = birdbone(*args, "--bits", 3, "--plot", tmp_path / "a.svg").stdout
    assert "worst at 3 bits first" in shown
    words = (tmp_path / "a.svg").read_text()
    assert "rise of the loss at 3 bits, nats" in words
    assert "mlp.down_proj" in words


def test_a_plot_that_cannot_be_written_is_refused_before_work(folders: Path) -> None:
    words = refused("sensitivity", folders / "none", "--plot", "a.pdf")
    assert "'a.pdf' does not end in .png or .svg" in words


def test_bits_that_are_not_usual(args: Any) -> None:
    found = document(*args, "--bits", 5)
    assert {grid["bits"] for grid in found["linears"][0]["grids"]} == {2, 3, 4, 5, 6, 8}


def test_a_dry_run(folders: Path) -> None:
    text = ("--data", folders / "text.txt")
    found = birdbone("sensitivity", folders / "dense", *SMALL, *text, "--dry-run", "--json")
    assert found.exit_code == 0, found.output
    links = [each["link"] for each in json.loads(found.stdout)["links"]]
    assert links == ["load", "calibrate", "sensitivity"]


def test_options_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    chains = []
    monkeypatch.setattr(
        command, "execute", lambda assemble, how, *, tell: chains.append(assemble())
    )
    birdbone("sensitivity", "mine", "--device", "cpu", "--data", "a", "--data", "b", "--bits", 7)
    birdbone("sensitivity", "mine")
    load, calibrate, sensitivity = (each.settings for each in chains[0].links)
    assert (load.model, load.device, calibrate.data) == ("mine", "cpu", ("a", "b"))
    assert sensitivity.bits == (2, 3, 4, 6, 7, 8)
    assert (chains[1].links[0].settings.device, chains[1].links[1].settings.data) == (
        "auto",
        "default",
    )


@pytest.mark.parametrize(
    "options", [("--bits", 1), ("--bits", 9), ("--top", 0), ("--windows", 0), ("--length", 1)]
)
def test_out_of_range(options: tuple[object, ...]) -> None:
    words = refused("sensitivity", "mine", *options, code=2)
    assert f"Invalid value for '{options[0]}'" in words


def test_no_such_model(tmp_path: Path) -> None:
    assert "not found" in refused("sensitivity", tmp_path / "none", "--quiet")
