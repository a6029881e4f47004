"""What export and bench are asked about: saved folders, made once and never changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_folders import quantized, written
from tiny_gguf import gguf_checkpoint

from birdbone.checkpoints import Checkpoint
from birdbone.formats.gguf_writer import write_gguf

WORDS = "the bone is thin where no load is carried and thick where it is "


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return gguf_checkpoint("llama")


@pytest.fixture(scope="session")
def folders(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense folder, one with codes, a folder of one GGUF file, and a text."""
    place = tmp_path_factory.mktemp("folders")
    written(checkpoint, place / "dense")
    written(quantized(checkpoint), place / "packed")
    (place / "gguf").mkdir()
    write_gguf(checkpoint, place / "gguf" / "model.gguf", kind="f32")
    (place / "text.txt").write_text("\n\n".join(f"{WORDS * 6}{n}" for n in range(30)))
    return place
