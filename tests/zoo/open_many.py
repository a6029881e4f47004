"""Standalone script: answer several requests of `run_folder` in one fresh process.

It runs by path in an isolated interpreter, like `run_folder` itself, whose very code it calls: no
line of birdbone is imported, which `run_folder` checks before and after it opens a folder. What the
folders share is the interpreter and the imported transformers.

    python -I open_many.py run_folder.py request.json request.json …
"""

from __future__ import annotations

import runpy
import sys


def main(script: str, requests: list[str]) -> None:
    """Answer every request; each result goes to the file that its request names."""
    answer = runpy.run_path(script)["main"]
    for request in requests:
        answer(request)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
