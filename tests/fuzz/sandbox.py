"""A command of birdbone on hostile input, in this process, and what it may not do meanwhile.

It may end well or with a refusal: exit code 1 or 2 and a message. It may not let any other error
out, write outside the output folder and the temporary one, start a program, unpickle, or run a line
of Python that lies beside the input. Writes from Python are seen by an audit hook; all others by
comparing the files that are there before and after.
"""

from __future__ import annotations

import builtins
import io
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.main import get_command

from birdbone.cli import app

attempts: Counter[str] = Counter()
"""Hostile inputs tried so far in this process, by kind."""

CANARY = "birdbone_canary"
CODE = f"import builtins\nbuiltins.{CANARY} = True\n"
CODE_FILES = ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py")

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# What changes a folder: the event, and where in its arguments the path and its base stand.
_CHANGING = {"os.mkdir": (0, 2), "os.remove": (0, 1), "os.rmdir": (0, 1), "os.rename": (1, 3)}
_STARTING = (
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pickle.find_class",
    "subprocess.Popen",
)
_HARMLESS = (os.devnull, "/proc/self/clear_refs")  # the latter sets the peak of memory back
_ENDINGS = (0, 1, 2)


@dataclass(frozen=True)
class Ending:
    """How a command ended, and what it said."""

    exit_code: Any
    stdout: str
    stderr: str
    error: BaseException | None


class Sandbox:
    """Folders for one kind of hostile input; commands run in ``here``.

    Attributes:
        kind: what inputs are counted under.
        given: where the input lies.
        out: what may be written, with names that begin like it beside it.
    """

    def __init__(self, root: Path, kind: str) -> None:
        self.kind = kind
        self.root = root.resolve()
        self.given, self.here = self.root / "given", self.root / "here"
        self.allowed, self.aside = self.root / "allowed", self.root / "aside"
        self.out = self.allowed / "out"
        for folder in (self.given, self.here, self.allowed, self.aside):
            folder.mkdir(parents=True)
        (self.root / "diary.txt").write_text("mine")
        self._command = get_command(app)
        self._seen: list[str] = []
        self._watching = False
        sys.addaudithook(self._audit)

    def attempt(self, *args: object) -> Ending:
        """Run a command; anything it may not do fails the test."""
        attempts[self.kind] += 1
        before = self._listing()
        with self._watched():
            result = self._run([str(arg) for arg in args])
        _check(result)
        assert self._listing() == before
        assert not hasattr(builtins, CANARY)
        assert not self._seen, list(self._seen)
        return result

    def fresh_output(self) -> None:
        """Let go of what commands before have written."""
        shutil.rmtree(self.allowed)
        self.allowed.mkdir()

    def _run(self, args: list[str]) -> Ending:
        """As the shell would: strict UTF-8 on stdout, and on stderr what can be shown of it."""
        out, err = io.BytesIO(), io.BytesIO()
        stdout = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
        stderr = io.TextIOWrapper(err, "utf-8", errors="backslashreplace", write_through=True)
        code, fault = None, None
        with redirect_stdout(stdout), redirect_stderr(stderr):
            try:
                self._command.main(args, prog_name="birdbone")
            except SystemExit as ended:
                code = ended.code
            except BaseException as error:  # noqa: BLE001 - whatever gets out is looked for
                fault = error
        return Ending(code, out.getvalue().decode(), err.getvalue().decode(), fault)

    def _listing(self) -> dict[str, int]:
        """Every file that may not change, with its size."""
        return {
            str(path): path.lstat().st_size if not path.is_dir() else -1
            for folder in (self.root, self.given, self.here)
            for path in folder.iterdir()
        }

    @contextmanager
    def _watched(self) -> Iterator[None]:
        kept = os.getcwd(), tempfile.tempdir, sys.dont_write_bytecode
        os.chdir(self.here)
        tempfile.tempdir, sys.dont_write_bytecode = str(self.aside), True
        self._seen.clear()
        self._watching = True
        try:
            yield
        finally:
            self._watching = False
            os.chdir(kept[0])
            tempfile.tempdir, sys.dont_write_bytecode = kept[1:]

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Called by Python for each thing it does; a hook cannot be taken away again."""
        if self._watching and self._forbidden(event, args):
            self._seen.append(f"{event} {args}")

    def _forbidden(self, event: str, args: tuple[Any, ...]) -> bool:
        if event == "open":
            return bool((args[2] or 0) & _WRITING) and not self._may_write(args[0])
        if event in _CHANGING:
            return not self._may_write(*(args[place] for place in _CHANGING[event]))
        return event in _STARTING or (event == "exec" and self._lies_here(args[0]))

    def _lies_here(self, code: object) -> bool:
        return str(getattr(code, "co_filename", "")).startswith(str(self.root))

    def _may_write(self, path: object, folder: int = -1) -> bool:
        """``folder`` is a descriptor that a relative path begins at, or -1."""
        if not isinstance(path, str | bytes | os.PathLike):
            return True  # a descriptor, opened before
        base = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else self.here
        full = os.path.normpath(os.path.join(base, os.fsdecode(path)))
        return full in _HARMLESS or full.startswith((str(self.allowed), str(self.aside)))


def _check(ending: Ending) -> None:
    if ending.error is not None:
        shown = "".join(traceback.format_exception(ending.error))
        raise AssertionError(f"a traceback reached the user:\n{shown}")
    assert ending.exit_code in _ENDINGS
    told = ending.stderr + ending.stdout
    assert "Traceback" not in told
    if ending.exit_code:
        assert told.strip()
