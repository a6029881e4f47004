"""What a report reads of a model."""

import json
from pathlib import Path

import pytest
from recorded import candidate, record, step

from birdbone.errors import DataError
from birdbone.reports.html_report.records import model_record, read_model


def saved(folder: Path, content: object) -> Path:
    """A folder with this record."""
    folder.mkdir()
    (folder / "birdbone.json").write_text(json.dumps(content))
    return folder


def test_points_are_the_original_every_judged_wave_and_the_saved_model() -> None:
    points = model_record("light", record()).points()
    held = [point for point in points if point.text == "heldout"]
    assert [point.name for point in held] == ["original", "wave 1", "wave 2", "light"]
    assert [point.num_bytes for point in held] == [2.5e8, 2e8, 1e8, 8e7]
    assert [point.kept for point in held] == [True, True, False, True]
    assert held[-1].rise == 0.1
    elsewhere = [point for point in points if point.text == "elsewhere"]
    assert (elsewhere[-1].rise, elsewhere[-1].error) == (0.2, 0.03)


def test_candidates_that_were_not_kept_are_points() -> None:
    steps = [
        candidate("allocated", 80_000_000, 0.1, kept=True),
        candidate("uniform int4", 79_000_000, 0.3, kept=False),
    ]
    points = model_record("light", record(steps=steps)).points()
    elsewhere = [point for point in points if point.text == "elsewhere"]
    assert [point.name for point in elsewhere] == ["original", "uniform int4", "light"]
    assert (elsewhere[1].num_bytes, elsewhere[1].rise, elsewhere[1].kept) == (79e6, 0.3, False)


def test_a_run_without_figures_has_points_of_its_waves_alone() -> None:
    points = model_record("run", {"steps": record()["steps"]}).points()
    assert {point.name for point in points} == {"wave 1", "wave 2"}


def test_links_inside_a_link_are_not_steps_of_the_chain() -> None:
    steps = model_record("light", record()).steps()
    assert [each["link"] for each in steps] == ["load", "waves", "heal", "quantize"]


def test_a_saved_folder_is_read_by_its_record(tmp_path: Path) -> None:
    model = read_model(saved(tmp_path / "light", record()))
    assert model.name == "light"
    assert model.figures("light")["rise"] == 0.1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "not a JSON object"),
        ({}, "has no list of steps"),
        ({"steps": [step("wave")]}, "the steps are not those of a run"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_model(saved(tmp_path / "light", content))


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no birdbone\.json that can be read .*saved"):
        read_model(tmp_path)
    with pytest.raises(DataError, match=r"'.*none' does not exist"):
        read_model(tmp_path / "none")
