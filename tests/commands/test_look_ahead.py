"""The estimate of a run: refused, printed, or passed over where a run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from birdbone.chains.preflight import look as looking
from birdbone.commands.look_ahead import look_ahead, tell_after, tell_ahead
from birdbone.contexts.forecast import Expected, Preflight, Speed
from birdbone.engine import Chain
from birdbone.errors import ResourceError, SettingError

SPEED = Speed(*([1.0] * 8), window=512)
FOUND = Preflight((Expected("load", {}, 90.0, 10**9, 0),), SPEED, 10**10, 0.1)
CAREFUL = Preflight(FOUND.links, SPEED, 10**10, 0.1, cautions=("the machine is busy",))


@pytest.fixture
def estimate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that sets what the look ahead finds, or that it refuses; collects the memory."""

    def give(found: Preflight | Exception) -> list[int | None]:
        asked: list[int | None] = []

        def preflight(chain: Chain, *, device_bytes: int | None = None) -> Preflight:
            asked.append(device_bytes)
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(looking, "preflight", preflight)
        return asked

    give(FOUND)
    return give


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "steps").write_text("")
    return tmp_path / "run"


def looked(run_folder: Path | None = None, **how: Any) -> Preflight | None:
    return look_ahead(Chain(), run_folder, **{"dry_run": False, "quiet": False, **how})


def test_one_line_before_a_run(estimate: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert looked() is FOUND
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("birdbone: expected: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("how", [{"quiet": True}, {"dry_run": True}])
def test_no_line(how: Any, estimate: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run prints the whole table instead."""
    estimate(CAREFUL)
    assert looked(**how) is CAREFUL
    assert capsys.readouterr() == ("", "")


def test_cautions_are_notes(estimate: Any, capsys: pytest.CaptureFixture[str]) -> None:
    estimate(CAREFUL)
    looked()
    assert "note: the machine is busy\n" in capsys.readouterr().err


def test_a_run_that_goes_on(estimate: Any, begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert looked(begun) is FOUND
    assert f"steps of this run that {begun} holds are replayed" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize("made", [False, True])
def test_a_new_folder(
    made: bool, estimate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty one is new too; neither is made or changed."""
    folder = tmp_path / "run"
    if made:
        folder.mkdir()
    looked(folder)
    assert "replayed" not in capsys.readouterr().err
    assert folder.exists() == made


def test_what_does_not_fit_is_refused(estimate: Any, tmp_path: Path) -> None:
    estimate(ResourceError("16 GB are needed"))
    for folder in (None, tmp_path / "new"):
        with pytest.raises(ResourceError, match="16 GB are needed"):
            looked(folder)


def test_of_a_run_that_goes_on_it_is_a_note(
    estimate: Any, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The link that does not fit may have run already."""
    estimate(ResourceError("16 GB are needed"))
    assert looked(begun, quiet=True) is None
    words = " ".join(capsys.readouterr().err.split())
    assert words == (
        f"note: 16 GB are needed; steps kept in {begun} are replayed and may not need it"
    )
    with pytest.raises(ResourceError):
        looked(begun, dry_run=True)


def test_a_dry_run_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    tell_ahead(FOUND, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert [each["link"] for each in document["links"]] == ["load"]
    assert document["seconds"] == 90.0
    tell_ahead(FOUND, as_json=False)
    assert "load" in capsys.readouterr().out


@pytest.mark.parametrize("found", [FOUND, None])
def test_a_result_without_a_model(
    found: Preflight | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing was saved; without an estimate there is nothing to compare either."""
    tell_after(found, {"history": ()}, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["steps"] == document["estimates"] == []
    tell_after(found, {"history": ()}, as_json=False)
    assert "nothing was saved and measured" in capsys.readouterr().out


def test_memory_of_another_device(estimate: Any) -> None:
    """A size in words, for a dry run alone."""
    asked = estimate(FOUND)
    looked(dry_run=True, device_memory="80GB")
    looked(dry_run=True)
    assert asked == [80_000_000_000, None]
    for how in ({"dry_run": True, "device_memory": "much"}, {"device_memory": "80GB"}):
        with pytest.raises(SettingError, match="--device-memory"):
            looked(**how)
    assert len(asked) == 2
