"""Results of tasks in a run folder: kept, found again, and never believed when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_tasks import task_result

from birdbone.journal import RunFolder
from birdbone.journal.evaluations import KeptEvaluations


@pytest.fixture
def lines() -> list[str]:
    return []


def test_a_result_is_found_by_the_next_process(tmp_path: Path, lines: list[str]) -> None:
    result = task_result([1, 0])
    with RunFolder(tmp_path / "run", tell=lines.append) as folder:
        kept = KeptEvaluations(folder)
        assert kept.find("key") is None
        kept.keep("key", result)
        assert kept.find("key") == result
    with RunFolder(tmp_path / "run", tell=lines.append) as folder:
        assert KeptEvaluations(folder).find("key") == result
        assert KeptEvaluations(folder).find("other") is None
    assert not lines


def test_a_damaged_result_is_told_and_not_used(tmp_path: Path, lines: list[str]) -> None:
    with RunFolder(tmp_path / "run", tell=lines.append) as folder:
        KeptEvaluations(folder).keep("key", task_result([1, 0]))
        (path,) = (tmp_path / "run" / "evaluations").iterdir()
        path.write_bytes(path.read_bytes().replace(b"sample 1", b"sample 2"))
        assert KeptEvaluations(folder).find("key") is None
    (line,) = lines
    assert "evaluated again: its kept result is damaged (its checksum" in line


def test_without_a_folder_results_last_as_long_as_the_process() -> None:
    kept = KeptEvaluations(None)
    kept.keep("key", task_result([1]))
    assert kept.find("key") == task_result([1])
    assert KeptEvaluations(None).find("key") is None
