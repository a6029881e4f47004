"""What commands are asked about: saved folders and a run's folder, made once, never changed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tiny import tiny_checkpoint
from tiny_contexts import calibrated
from tiny_folders import quantized, written
from tiny_gguf import gguf_checkpoint

from birdbone.checkpoints import Checkpoint
from birdbone.engine import Chain, run
from birdbone.formats.gguf_writer import write_gguf
from birdbone.journal import RunFolder
from birdbone.links import profile, prune, quantize, score

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


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: profile, score, prune and quantize, and the last two again at another sparsity."""
    path = tmp_path_factory.mktemp("runs") / "light"
    for sparsity in (0.5, 0.25):
        thinned = prune(method="magnitude", sparsity=sparsity)
        chain = Chain(profile(), score(), thinned, quantize(method="rtn", group_size=32))
        with RunFolder(path) as store:
            asyncio.run(run(chain, calibrated(tiny_checkpoint()), store=store))
    return path
