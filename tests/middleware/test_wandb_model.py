"""What W&B receives of a model, by a run that notes it: the table of all tried, and artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from birdbone.contexts.cost import Cost
from birdbone.contexts.saved import Saved
from birdbone.contexts.steps import Step
from birdbone.middleware.wandb_model import log_model, log_tried


class Run:
    """Notes what is logged."""

    def __init__(self, *, offline: bool = False) -> None:
        self.offline = offline
        self.logged: list[dict[str, Any]] = []
        self.made: list[Any] = []
        self.used: list[Any] = []

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def log_artifact(self, artifact: Any) -> None:
        self.made.append(artifact)

    def use_artifact(self, artifact: Any) -> None:
        self.used.append(artifact)


@pytest.fixture(autouse=True)
def own_folders(quiet_wandb: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B copies the files of an artifact to its own folders first."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "w"))


def step(link: str, **metrics: Any) -> Step:
    return Step(link, {}, Cost(2.5, 1, "process"), metrics)


def test_waves_are_logged_once_when_all_of_them_are_done() -> None:
    run: Any = Run()
    history = [step("load"), step("wave", wave=1, rise=0.5)]
    assert log_tried(run, history, 0) == 0
    assert run.logged == []
    history += [step("wave", wave=2), step("waves")]
    assert log_tried(run, history, 0) == 2
    assert log_tried(run, [*history, step("heal")], 2) == 2
    ((_, table),) = (each for logged in run.logged for each in logged.items())
    name, rise, seconds = (table.columns.index(each) for each in ("name", "rise", "seconds"))
    rows = [(row[name], row[rise], row[seconds]) for row in table.data]
    assert rows == [("wave 1", 0.5, 2.5), ("wave 2", None, 2.5)]


def test_the_size_of_a_candidate_is_the_predicted_one() -> None:
    run: Any = Run()
    log_tried(run, [step("candidate", candidate="int4", predicted_bytes=7), step("select")], 0)
    table = run.logged[0]["tried"]
    assert [row[table.columns.index("bytes")] for row in table.data] == [7]


def logged(path: Path, source: str, *, files: bool = False, offline: bool = False) -> Any:
    """The run after a model saved at ``path`` was logged."""
    run: Any = Run(offline=offline)
    log_model(run, Saved(path, 5, {"light": {"rise": 0.25}}, {}), source, files=files)
    return run


@pytest.mark.parametrize("files", [False, True])
def test_the_records_of_a_gguf_file_are_beside_it(tmp_path: Path, files: bool) -> None:
    path = tmp_path / "light (4 bits).gguf"
    path.write_bytes(b"GGUF")
    records = tmp_path / f"{path.name}.birdbone"
    records.mkdir()
    for name in ("birdbone.json", "report.html", "notes.txt"):
        (records / name).write_text(name)
    run = logged(path, "", files=files)
    (artifact,) = run.made
    assert artifact.name == "light--4-bits-.gguf"  # W&B refuses other characters
    assert artifact.metadata == {"source": "", "rise": 0.25}
    assert set(artifact.manifest.entries) == (
        {"birdbone.json", "report.html"} | ({path.name} if files else set())
    )
    assert [list(each) for each in run.logged] == [["report"]]
    assert run.used == []


def test_files_in_folders_keep_their_paths(tmp_path: Path) -> None:
    (tmp_path / "light" / "more").mkdir(parents=True)
    for name in ("birdbone.json", "model.safetensors", "more/code.py"):
        (tmp_path / "light" / name).write_text(name)
    run = logged(tmp_path / "light", "", files=True)
    names = {"birdbone.json", "model.safetensors", "more/code.py"}
    assert set(run.made[0].manifest.entries) == names
    assert run.logged == []  # no page


def test_the_original_is_a_reference_to_the_hub(tmp_path: Path) -> None:
    (used,) = logged(tmp_path, "owner/name").used
    assert (used.name, used.type, used.metadata) == (
        "owner-name",
        "model",
        {"source": "owner/name"},
    )
    (entry,) = used.manifest.entries.values()
    assert entry.ref == "https://huggingface.co/owner/name"


@pytest.mark.parametrize("source", ["model.gguf", "folder/model"])
def test_a_local_original_is_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "folder" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (used,) = logged(tmp_path / "folder", source).used
    assert used.metadata == {"source": source}
    assert not used.manifest.entries


def test_an_offline_run_names_no_original(tmp_path: Path) -> None:
    run = logged(tmp_path, "owner/name", offline=True)
    assert run.used == []
    assert len(run.made) == 1


def test_what_was_not_saved_by_birdbone_is_not_logged() -> None:
    run: Any = Run()
    log_model(run, object(), "owner/name", files=True)
    assert (run.logged, run.made, run.used) == ([], [], [])
