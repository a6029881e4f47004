"""The saved state of an unfinished link: the last complete one, or none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from birdbone.checkpoints import Quantized
from birdbone.errors import RunFolderError
from birdbone.journal.work_in_progress import WorkInProgress


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def work(tmp_path: Path, lines: list[str]) -> WorkInProgress:
    return WorkInProgress(tmp_path / "work", lines.append)


def objects(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "work" / "objects").glob("*/*"))


def test_nothing_was_saved(work: WorkInProgress, lines: list[str]) -> None:
    assert work.load() is None
    assert not lines


def test_the_last_state_comes_back_and_no_other_is_kept(
    work: WorkInProgress, tmp_path: Path
) -> None:
    shared = torch.ones(2)
    work.save({"a": shared, "b": torch.zeros(3)}, {"block": 1})
    work.save({"a": shared, "c": torch.full((2,), 5.0)}, {"block": 2})
    tensors, facts = work.load() or ({}, {})
    assert facts == {"block": 2}
    assert {name: each.tolist() for name, each in tensors.items()} == {
        "a": [1.0, 1.0],
        "c": [5.0, 5.0],
    }
    assert len(objects(tmp_path)) == 2


def test_a_failed_save_leaves_the_state_before(work: WorkInProgress) -> None:
    work.save({"a": torch.ones(1)}, {"block": 1})
    with pytest.raises(RunFolderError, match="facts hold a value JSON cannot represent"):
        work.save({"a": torch.zeros(1)}, {"block": object()})
    tensors, facts = work.load() or ({}, {})
    assert (tensors["a"].tolist(), facts) == ([1.0], {"block": 1})


def test_a_damaged_state_is_deleted(work: WorkInProgress, lines: list[str], tmp_path: Path) -> None:
    work.save({"a": torch.ones(1)}, {})
    (path,) = objects(tmp_path)
    path.write_bytes(b"damage")
    assert work.load() is None
    assert "starts over" in lines[0]
    assert not (tmp_path / "work").exists()


def codes() -> Quantized:
    return Quantized(torch.ones(2, 4, dtype=torch.int8), torch.full((2, 2), 0.5), bits=4)


def test_a_kept_tensor_is_on_disk_and_lasts_once_it_is_saved(
    work: WorkInProgress, tmp_path: Path, lines: list[str]
) -> None:
    made = codes()
    kept = work.keep(made)
    assert type(kept).__name__ == "StoredCodes"
    assert kept.digest == made.digest
    work.save({"a": kept, "b": torch.ones(1)}, {})
    again = WorkInProgress(tmp_path / "work", lines.append)
    tensors, _ = again.load() or ({}, {})
    assert isinstance(tensors["a"], Quantized)
    assert tensors["a"].codes.equal(made.codes)
    assert tensors["b"].tolist() == [1.0]
    again.save({"a": tensors["a"]}, {})
    assert len(objects(tmp_path)) == 1


def test_a_damaged_kept_tensor_starts_the_link_over(
    work: WorkInProgress, tmp_path: Path, lines: list[str]
) -> None:
    work.save({"a": work.keep(codes())}, {})
    (path,) = objects(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert WorkInProgress(tmp_path / "work", lines.append).load() is None
    assert "work in progress is damaged and starts over" in lines[0]
