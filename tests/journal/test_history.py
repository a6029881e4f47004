"""The steps of a run folder as a document, in types of JSON."""

from __future__ import annotations

import json
from pathlib import Path

from birdbone.journal import Journal, RunFolder
from birdbone.journal.history import history_document


def test_every_step_has_its_record_and_what_it_added(journal: Journal) -> None:
    found = history_document(journal)
    assert json.loads(json.dumps(found)) == found
    assert [(step["number"], step["link"], step["added"]) for step in found["steps"]] == [
        (1, "begin", ["seed"]),
        (2, "make", ["checkpoint"]),
        (3, "grow", ["sizes"]),
        (4, "grow", ["sizes"]),
    ]
    for step, kept in zip(found["steps"], journal.steps(), strict=True):
        assert step.items() >= kept.step.as_dict().items()


def test_steps_of_the_last_run_are_marked(journal: Journal) -> None:
    found = history_document(journal)["steps"]
    assert [step["in_last_run"] for step in found] == [True, True, False, True]


def test_without_a_last_run_none_is_marked(journal: Journal) -> None:
    (journal.path / "last.json").unlink()
    found = history_document(journal)["steps"]
    assert [step["in_last_run"] for step in found] == [False] * 4


def test_bytes_are_those_of_all_files(journal: Journal) -> None:
    found = history_document(journal)
    assert found["folder"] == str(journal.path)
    files = [path for path in journal.path.rglob("*") if path.is_file()]
    assert found["bytes"] == sum(len(path.read_bytes()) for path in files)


def test_links_with_work_in_progress_are_counted(journal: Journal) -> None:
    assert history_document(journal)["in_progress"] == 0
    for key, name in (("a", "progress.json"), ("b", "progress.json"), ("c", "x.safetensors")):
        (journal.path / "unfinished" / key).mkdir(parents=True)
        (journal.path / "unfinished" / key / name).write_bytes(b"{}")
    assert history_document(journal)["in_progress"] == 2


def test_an_empty_folder_has_a_document(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").close()
    found = history_document(Journal(tmp_path / "run"))
    assert (found["steps"], found["in_progress"]) == ([], 0)
    assert found["bytes"] > 0
