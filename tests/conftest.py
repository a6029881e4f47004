"""What holds for every test: no network, and nothing decided by how many cores there are."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# Read once, when huggingface_hub and tokenizers are imported, so set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from hypothesis import settings

# `pytest tests/fuzz --hypothesis-profile=hostile`: many inputs, other ones each time.
settings.register_profile(
    "hostile", settings.get_profile("ci"), max_examples=5000, derandomize=False
)


@pytest.fixture(scope="session", autouse=True)
def preloaded() -> Iterator[None]:
    """Start fresh processes from an interpreter that has imported transformers already."""
    from birdbone.models.evaluation import fresh_process

    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:

        @cache
        def interpreter() -> Sequence[str]:
            program, name = str(Path(__file__).with_name("preloaded.py")), f"birdbone-{os.getpid()}"
            server = subprocess.Popen(
                [sys.executable, "-I", program, "serve", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.enter_context(server)
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            return sys.executable, "-I", program, "run", name

        if hasattr(os, "pidfd_open"):
            patch.setattr(fresh_process, "interpreter", interpreter)
        yield


@pytest.fixture
def on_three(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], Any]], list[Any]]:
    """Calls a function on three ranks, with the rank; returns the results in their order."""
    from rank_threads import ranks_in_threads

    return ranks_in_threads(monkeypatch, 3)


@pytest.fixture(autouse=True)
def other_libraries_keep_their_logging() -> Iterator[None]:
    """Fail a test that changes what transformers shows: tests after it would see the change."""
    before = _transformers_logging()
    yield
    if before is not None:
        assert _transformers_logging() == before


@pytest.fixture(autouse=True)
def modules_keep_their_weights() -> Iterator[None]:
    """Fail a test after which models would be built on the meta device."""
    yield
    if "torch" in sys.modules:
        from torch.nn import Module

        assert Module.register_parameter.__module__ == "torch.nn.modules.module"


def _transformers_logging() -> tuple[bool, int] | None:
    """Whether transformers shows progress bars, and its verbosity; None before its import."""
    if "transformers" not in sys.modules:
        return None
    from transformers.utils import logging

    return logging.is_progress_bar_enabled(), logging.get_verbosity()


@pytest.fixture
def quiet_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B without messages, with nothing left of the tests before, or for the tests after."""
    from offline_wandb import close_wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    close_wandb()
    yield
    close_wandb()


@pytest.fixture
def made_up_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The link allocate measures speeds on a machine of which they are known."""
    from made_up_machine import made_up_speeds

    module = importlib.import_module("birdbone.links.allocate")
    monkeypatch.setattr(module, "running_speeds", made_up_speeds)
    monkeypatch.setattr(module, "require_llama_cpp", lambda: None)


@pytest.fixture(autouse=True)
def float32_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results do not depend on what the processor multiplies faster."""
    from birdbone.models.blocks import products

    monkeypatch.setattr(products, "has_fast_bfloat16", lambda: False)
