"""Program that runs a script in a fresh interpreter, where nothing of this package is loaded.

    python -I standalone.py SCRIPT request.json …

The script defines ``answer``, a function from a request to its result. Each request is a JSON file.
Its result, or the error as ``{"error": …}``, goes to the file that the request names as ``result``.
``memory_limit`` in a request, if it is not null, is how many bytes the script may take beyond what
is in use once its imports are done. Several requests share the interpreter and those imports.
"""

from __future__ import annotations

import json
import resource
import runpy
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def main(script: str, requests: Sequence[str]) -> None:
    """Answer every request file with the function ``answer`` of the script."""
    answer: Answer = runpy.run_path(script)["answer"]
    for request in requests:
        _reply(answer, Path(request))


def _reply(answer: Answer, path: Path) -> None:
    """Write the result of one request, or the error that ended it, to the file it names."""
    request = json.loads(path.read_text(encoding="utf-8"))
    try:
        _limit_memory(request.get("memory_limit"))
        _check_alone()
        _silence()
        result = answer(request)
        _check_alone()
    except Exception as error:  # noqa: BLE001 - handed to the caller, who raises it
        result = {"error": f"{type(error).__name__}: {error}"}
    Path(request["result"]).write_text(json.dumps(result), encoding="utf-8")


def _limit_memory(allowed: int | None) -> None:
    """Take no more memory than allowed beyond what is in use by now, where Linux enforces it."""
    if allowed is None or not _STATUS.exists():
        return
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = used + allowed
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def _check_alone() -> None:
    if "birdbone" in sys.modules:
        raise RuntimeError("birdbone is loaded here, so this process proves nothing")


def _silence() -> None:
    """Hide warnings, and the log and progress bars of transformers: only the result is read."""
    warnings.simplefilter("ignore")
    transformers = sys.modules.get("transformers")
    if transformers is not None:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
