"""Processes forked from a preloaded interpreter are like fresh ones, and end with their callers."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from birdbone.models.evaluation import fresh_process

PATIENCE = 5  # seconds; reached only where a test would otherwise hang
SEEN = """
import json, os, sys
names = {"torch", "birdbone"} & set(sys.modules)
print(json.dumps({"loaded": sorted(names), "folder": os.getcwd(), "words": sys.argv[1:]}))
"""

pytestmark = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="only Linux watches processes by file descriptors"
)


def command(tmp_path: Path, launcher: str, script: str = "from transformers import x") -> list[str]:
    (tmp_path / "launcher.py").write_text(launcher)
    (tmp_path / "script.py").write_text(script)
    return [*fresh_process.interpreter(), "launcher.py", "script.py"]


def seen(tmp_path: Path, **options: Any) -> dict[str, Any]:
    """What a program sees that prints it."""
    words = command(tmp_path, SEEN, **options.pop("files", {}))
    done = subprocess.run([*words, "a b"], stdout=subprocess.PIPE, cwd=tmp_path, **options)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def environment() -> dict[str, str]:
    """That of the server; tests before this one may have changed that of this process."""
    fresh_process.interpreter()  # starts it, unless another test did
    children = psutil.Process().children()
    return next(each.environ() for each in children if "serve" in each.cmdline())


def test_libraries_are_loaded_and_birdbone_is_not(tmp_path: Path) -> None:
    found = seen(tmp_path, env=environment())
    assert found == {"loaded": ["torch"], "folder": str(tmp_path), "words": ["script.py", "a b"]}


def test_in_another_environment_an_interpreter_is_started(tmp_path: Path) -> None:
    found = seen(tmp_path, env={**environment(), "OTHER": "1"})
    assert found == {"loaded": [], "folder": str(tmp_path), "words": ["script.py", "a b"]}


def test_a_script_without_transformers_gets_an_interpreter(tmp_path: Path) -> None:
    found = seen(tmp_path, files={"script": "import json"}, env=environment())
    assert found["loaded"] == []


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import sys; sys.exit(3)", 3),
        ("raise ValueError", 1),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
    ],
)
def test_it_ends_as_the_program_does(code: str, status: int, tmp_path: Path) -> None:
    words = command(tmp_path, code)
    assert subprocess.run(words, cwd=tmp_path, stderr=subprocess.DEVNULL).returncode == status


def test_it_is_killed_with_its_caller(tmp_path: Path) -> None:
    words = command(
        tmp_path, "import os, select; print(os.getpid(), flush=True); select.select([], [], [])"
    )
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        forked = os.pidfd_open(int(caller.stdout.readline()))
        caller.kill()
        ended, _, _ = select.select([forked], [], [], PATIENCE)
    os.close(forked)
    assert ended
