"""`birdbone report`."""

import json
from pathlib import Path

from recorded import record
from typer.testing import CliRunner

from birdbone.cli import app


def saved(tmp_path: Path) -> Path:
    """A folder with a record."""
    folder = tmp_path / "light"
    folder.mkdir()
    (folder / "birdbone.json").write_text(json.dumps(record()))
    return folder


def test_a_page_is_written(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(saved(tmp_path)), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text().startswith("<!doctype html>")


def test_another_suffix_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "page.pdf"
    done = CliRunner().invoke(app, ["report", str(saved(tmp_path)), "--out", str(out)])
    assert done.exit_code == 1
    assert "does not end in .html" in done.output
    assert not out.exists()


def test_a_file_that_cannot_be_written_is_refused_before_the_records_are_read(
    tmp_path: Path,
) -> None:
    out = tmp_path / "none" / "page.html"
    done = CliRunner().invoke(app, ["report", str(tmp_path / "light"), "--out", str(out)])
    assert done.exit_code == 1
    assert "cannot be written: there is no folder" in done.output


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "p.html")])
    assert done.exit_code == 1
    assert "has no birdbone.json" in done.output
