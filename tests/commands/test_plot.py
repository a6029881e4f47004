"""``birdbone plot``: waves and saved models in one picture, from any of their records."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import birdbone, refused
from recorded import record, step, wave
from typer.testing import Result

from birdbone.commands.plot import _steps_of_run
from birdbone.contexts.flow import Empty
from birdbone.engine import Chain, link, run
from birdbone.journal import RunFolder


def document(path: Path, **more: Any) -> Path:
    """What `birdbone run --json` prints: here with two waves."""
    path.write_text(json.dumps({**record(), **more}))
    return path


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_picture(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"curve.{suffix}"
    drawn = birdbone("plot", document(tmp_path / "run.json"), "--out", out)
    assert drawn.exit_code == 0, drawn.stderr
    assert drawn.stdout == ""
    assert drawn.stderr == f"{out}: perplexity against bytes\n"
    start = out.read_bytes()[:8]
    assert start.startswith(b"\x89PNG") if suffix == "png" else b"<?xml" in start


def test_a_saved_folder_and_its_document_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "light").mkdir()
    document(tmp_path / "light" / "birdbone.json")
    pictures = []
    for place, path in enumerate((tmp_path / "light", tmp_path / "light" / "birdbone.json")):
        out = tmp_path / f"{place}.svg"
        assert birdbone("plot", path, "--out", out).exit_code == 0
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1]


def test_the_records_beside_a_file(tmp_path: Path) -> None:
    """Those of light.gguf are in light.gguf.birdbone."""
    (tmp_path / "light.gguf").write_bytes(b"GGUF")
    (tmp_path / "light.gguf.birdbone").mkdir()
    document(tmp_path / "light.gguf.birdbone" / "birdbone.json")
    drawn = birdbone("plot", tmp_path / "light.gguf", "--out", tmp_path / "curve.svg")
    assert drawn.exit_code == 0, drawn.stderr


def test_a_size_that_was_not_recorded(tmp_path: Path) -> None:
    words = refused(
        "plot", document(tmp_path / "run.json"), "--out", tmp_path / "c.svg", "--of", "flops"
    )
    assert "flops" in words
    assert not (tmp_path / "c.svg").exists()
    assert "is not one of" in refused("plot", "x", "--out", "c.svg", "--of", "weight", code=2)


@link
async def waves(ctx: Empty, *, number: int) -> dict[str, Any]:
    """Leaves what the link waves leaves in the history: here as metrics only."""
    return {"made": number}


@link
async def save(ctx: Empty, *, size: int) -> dict[str, Any]:
    """Leaves what the link save leaves in the history: here a size alone."""
    return {"metrics": {"weight_bytes": size}}


@link
async def other(ctx: Empty) -> dict[str, Any]:
    return {}


def test_a_run_folder_without_waves(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as store:
        asyncio.run(run(Chain(other()), store=store))
    words = refused("plot", tmp_path / "run", "--out", tmp_path / "curve.svg")
    assert (
        "has no finished link 'waves' or 'save', so there is nothing to plot; let the run finish"
        in words
    )


def test_a_run_folder_with_one_wave_too_few(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as store:
        asyncio.run(run(Chain(waves(number=1)), store=store))
    words = refused("plot", tmp_path / "run", "--out", tmp_path / "curve.svg")
    assert "0 waves were evaluated, and a plot needs at least 2" in words


def test_the_figures_are_of_the_last_run_not_of_the_step_made_last(tmp_path: Path) -> None:
    """A run that takes its steps up again uses one that was made before others."""
    for sizes in ((3,), (7, 3)):
        with RunFolder(tmp_path / "run") as store:
            asyncio.run(run(Chain(*(save(size=size) for size in sizes)), store=store))
    _, figures = _steps_of_run(tmp_path / "run")
    assert figures == {"light": {"weight_bytes": 3}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (
            b"{}",
            "is not the record of a run (KeyError: 'steps'); give a folder that birdbone saved",
        ),
        (b"[", "is not the record of a run (JSONDecodeError"),
        (b"[1]", "is not the record of a run (TypeError"),
        (b"\xff\xfe\x00", "is not the record of a run (UnicodeDecodeError"),
        (b"[" * 100_000, "is not the record of a run (RecursionError"),
        (b'{"steps": 3}', "the steps are not those of a run"),
        (b'{"steps": [{"link": "wave"}]}', "the steps are not those of a run"),
        (b'{"steps": []}', "0 waves were evaluated, and a plot needs at least 2"),
    ],
)
def test_what_is_no_record(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    assert message in refused("plot", path, "--out", tmp_path / "curve.svg")
    assert not (tmp_path / "curve.svg").exists()


def test_one_wave_is_no_curve(tmp_path: Path) -> None:
    steps = [wave(1, kept=True, rise=0.05)]
    path = document(tmp_path / "run.json", steps=steps, figures={})
    assert "1 waves were evaluated" in refused("plot", path, "--out", tmp_path / "curve.svg")


def test_another_suffix(tmp_path: Path) -> None:
    words = refused("plot", document(tmp_path / "run.json"), "--out", tmp_path / "curve.pdf")
    assert "does not end in .png or .svg; give a file name that does" in words


def draw(*args: object) -> Result:
    return birdbone("plot", *args)


def saved(tmp_path: Path, name: str, **more: Any) -> Path:
    """A folder with a record."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "birdbone.json").write_text(json.dumps(record(**more)))
    return folder


def texts(picture: Path) -> list[str]:
    """The words in a picture, top left to bottom right."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture.read_text())


def axis(words: list[str], unit: str) -> list[float]:
    """The numbers along the horizontal axis, in the order drawn."""
    return [float(each) for each in words[: words.index(unit)] if re.fullmatch(r"[\d.]+", each)]


def test_the_saved_model_is_drawn_beside_its_waves(tmp_path: Path) -> None:
    picture = tmp_path / "a.svg"
    done = draw(saved(tmp_path, "light"), "--out", picture)
    assert done.exit_code == 0, done.output
    words = texts(picture)
    assert {"saved, held-out text", "saved, elsewhere"} <= set(words)
    assert {"1", "saved"} <= set(words)
    assert "original" not in words  # wave 0 or the waves themselves start there


def test_sizes_rise_to_the_right(tmp_path: Path) -> None:
    picture = tmp_path / "a.svg"
    draw(saved(tmp_path, "light"), "--out", picture)
    marked = axis(texts(picture), "weights, MB")
    assert len(marked) > 2
    assert marked == sorted(marked)


def test_several_models_are_drawn_side_by_side_without_waves(tmp_path: Path) -> None:
    picture = tmp_path / "a.svg"
    alone = [step("load"), step("quantize")]
    folders = [saved(tmp_path, name, steps=alone) for name in ("four-bits", "three-bits")]
    done = draw(*folders, "--out", picture)
    assert done.exit_code == 0, done.output
    words = texts(picture)
    assert {"four-bits", "three-bits", "original"} <= set(words)
    assert "saved, three-bits, elsewhere" in words
    assert "Rise of perplexity against size" in words
    assert "perplexity against bytes" in done.output


def test_a_model_without_a_rise_is_left_out_with_a_note(tmp_path: Path) -> None:
    """As `birdbone export` records it, which does not measure the original."""
    picture = tmp_path / "a.svg"
    exported = saved(tmp_path, "exported", steps=[step("load")], figures={"light": {"bytes": 1}})
    done = draw(saved(tmp_path, "light"), exported, "--out", picture)
    assert done.exit_code == 0, done.output
    assert f"note: '{exported}' is left out: its record has no rise" in done.stderr
    assert "light' is left out" not in done.stderr


def test_a_picture_needs_figures_or_waves(tmp_path: Path) -> None:
    bare = saved(tmp_path, "bare", steps=[step("load")], figures={})
    done = draw(bare, "--out", tmp_path / "a.svg")
    assert done.exit_code == 1
    assert "0 waves were evaluated" in done.output


@pytest.mark.parametrize("figures", [{"light": 5}, {"light": {"rise": "much"}}, 5])
def test_figures_of_another_form_are_refused(tmp_path: Path, figures: Any) -> None:
    done = draw(saved(tmp_path, "light", figures=figures), "--out", tmp_path / "a.svg")
    assert done.exit_code == 1
    assert "is not the record of a run" in done.output


def test_what_a_run_printed_is_drawn_as_the_folder_it_saved(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(record()))
    for path, picture in ((saved(tmp_path, "light"), "a.svg"), (tmp_path / "run.json", "b.svg")):
        assert draw(path, "--out", tmp_path / picture).exit_code == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
