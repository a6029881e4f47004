"""What holds for every test: no network, and nothing decided by how many cores there are."""

import os
import sys
from collections.abc import Iterator

import pytest

# Read once, when huggingface_hub and tokenizers are imported, so set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from hypothesis import settings

# `pytest tests/fuzz --hypothesis-profile=hostile`: many inputs, other ones each time.
settings.register_profile(
    "hostile", settings.get_profile("ci"), max_examples=5000, derandomize=False
)


@pytest.fixture(autouse=True)
def other_libraries_keep_their_logging() -> Iterator[None]:
    """Fail a test that changes what transformers shows: tests after it would see the change."""
    before = _transformers_logging()
    yield
    if before is not None:
        assert _transformers_logging() == before


def _transformers_logging() -> tuple[bool, int] | None:
    """Whether transformers shows progress bars, and its verbosity; None before its import."""
    if "transformers" not in sys.modules:
        return None
    from transformers.utils import logging

    return logging.is_progress_bar_enabled(), logging.get_verbosity()
