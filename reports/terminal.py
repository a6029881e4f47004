"""Output of the command line: results on stdout; messages on stderr, one line each."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console, RenderableType
from rich.text import Text

_OURS = Path(__file__).resolve().parents[1]
_INSTALLED = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib"))
_CHATTER = ("accelerate", "bitsandbytes", "compressed_tensors", "huggingface_hub", "peft", "torch")
_TECHNICAL = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)


def show(renderable: RenderableType) -> None:
    """Write a result to stdout."""
    Console().print(renderable)


def say(kind: str, message: str, *, style: str = "") -> None:
    """Write a message to stderr, after its kind, without wrapping."""
    line = Text.assemble((f"{kind}: ", style), message)
    Console(stderr=True).print(line, soft_wrap=True)


def escape_unprintable() -> None:
    """Let stdout escape characters that its encoding lacks, as stderr does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def warnings_as_notes(*, as_json: bool = False) -> Iterator[None]:
    """Print warnings of birdbone and of the user's code as one line each; drop other libraries'.

    Args:
        as_json: write ``{"event": "note", "text": …}``, beside log lines that are JSON too.
    """

    def note(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, _TECHNICAL) or _is_of_another_library(filename):
            return
        text = " ".join(str(message).split())
        if as_json:
            sys.stderr.write(json.dumps({"event": "note", "text": text}) + "\n")
        else:
            say("note", text, style="yellow")

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = note
        yield


def _is_of_another_library(filename: str) -> bool:
    path = Path(filename).resolve()
    site = next((folder for folder in _INSTALLED if path.is_relative_to(folder)), None)
    if site is None:
        return False
    # The environment of a checkout may be inside our folder; when installed, we are inside it.
    return not (_OURS.is_relative_to(site) and path.is_relative_to(_OURS))


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence progress bars and log lines of other libraries, except for errors."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # read when tokenizers is imported
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from huggingface_hub.utils.tqdm import enable_progress_bars as enable_hub_bars
    from transformers.utils import logging as transformers_logging

    with ExitStack() as stack:
        for name in _CHATTER:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        stack.callback(transformers_logging.set_verbosity, transformers_logging.get_verbosity())
        transformers_logging.set_verbosity_error()
        if transformers_logging.is_progress_bar_enabled():
            stack.callback(transformers_logging.enable_progress_bar)
            transformers_logging.disable_progress_bar()
        if not are_progress_bars_disabled():
            stack.callback(enable_hub_bars)
            disable_progress_bars()
        yield
