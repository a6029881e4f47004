"""What a file system refuses becomes an error that names the folder and the fix."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from birdbone.errors import ResourceError, RunFolderError
from birdbone.journal.write_errors import writing_in


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError(errno.ENOSPC, "no space"), ResourceError, "disk of run folder '/run' is full"),
        (OSError(errno.EDQUOT, "quota"), ResourceError, "birdbone gc"),
        (SafetensorError("I/O error: (os error 28)"), ResourceError, "is full"),
        (PermissionError(errno.EACCES, "denied"), RunFolderError, "make it writable"),
        (SafetensorError("header too large"), RunFolderError, "cannot be written"),
    ],
)
def test_each_refusal_has_its_fix(error: Exception, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught, writing_in(Path("/run")):
        raise error
    assert caught.value.__cause__ is error


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(KeyError), writing_in(Path("/run")):
        raise KeyError("mistake")
