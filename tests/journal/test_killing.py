"""SIGKILL at the end of every link, at any step of writing, at any time: the bytes are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from birdbone.journal import Journal

TESTS = Path(__file__).parents[1]
KINDS = ["boundaries-0", "events-1"]
MORE = [*(f"events-{seed}" for seed in range(2, 7)), *(f"times-{seed}" for seed in range(4))]


def killed(folder: Path, kinds: list[str]) -> dict[str, Any]:
    """What the program of that name tells."""
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, TESTS / "journal" / "killing.py", folder, *kinds],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(found: dict[str, Any], kind: str, folder: Path, *, least: int) -> None:
    """It was killed so often and still ended as an unbroken run does, leaving nothing half done."""
    assert found[kind]["kills"] >= least
    assert found[kind]["found"] == found["unbroken"]
    assert len(found["unbroken"]["tensors"]) > 20
    assert not list((folder / kind).glob("unfinished/*"))
    assert len(Journal(folder / kind).steps()) == 7


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("killed")
    return folder, killed(folder, KINDS)


@pytest.mark.parametrize(("kind", "least"), list(zip(KINDS, (7, 5), strict=True)))
def test_a_killed_run_ends_in_the_same_bytes(
    kind: str, least: int, outcomes: tuple[Path, dict[str, Any]]
) -> None:
    folder, found = outcomes
    check(found, kind, folder, least=least)


@pytest.mark.slow
def test_runs_killed_at_many_other_moments_do_too(tmp_path: Path) -> None:
    found = killed(tmp_path, MORE)
    for kind in MORE:
        check(found, kind, tmp_path, least=3)
