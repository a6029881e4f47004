"""Proof of a saved GGUF file: checksums, sizes, and the score llama.cpp computes.

The record beside the file holds the score of the values it stores, computed in memory when it was
saved; llama.cpp, in a fresh process, must reproduce that score. It returns probabilities and no
logits, so single logits are not compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import MissingExtraError, ModelError, ProofError
from ..models.blocks.announcing import Announce
from ..models.evaluation.fresh_process import Probe
from ..models.evaluation.proof import Check, Proof, check_score, read_papers
from ..models.evaluation.record import Record
from ..models.reading.gguf_header import read_header
from ..models.reading.sources import find_model
from ..models.writing.publishing import files_of, records_of
from .llama_cpp import require_llama_cpp, run_llama_cpp

# Timing is not part of the proof; these are the fewest tokens that show that decoding works.
_PROBE = Probe(None, torch.float32, prefill_tokens=8, decode_tokens=8, repeats=1)


async def prove_gguf(saved: Path, *, announce: Announce = lambda label, done, total: None) -> Proof:
    """Check everything that was saved with a GGUF file, and run it if llama.cpp is installed.

    Without llama.cpp only files and sizes are checked, and the model is not proven.

    Args:
        saved: a folder with one GGUF file and its records, or a GGUF file whose records are in the
            folder beside it.

    Raises:
        ModelError: there is no GGUF file, or several.
    """
    with _as_folder(saved) as folder:
        return replace(await _prove_folder(folder, announce), folder=saved)


@contextmanager
def _as_folder(saved: Path) -> Iterator[Path]:
    """Yield a folder with the file and its records, laid out as when they were saved."""
    if not saved.is_file():
        yield saved
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / saved.name).symlink_to(saved.resolve())
        for name, path in files_of(records_of(saved)).items():
            if "/" not in name and name != saved.name:
                (folder / name).symlink_to(path.resolve())
        yield folder


async def _prove_folder(folder: Path, announce: Announce) -> Proof:
    source = find_model(str(folder))
    papers = read_papers(folder)
    try:
        require_llama_cpp()
    except MissingExtraError as error:
        return papers.with_checks([Check("opens", None, str(error))])
    record = papers.record
    tokens = None if record is None else [window.tokens for window in record.windows]
    announce("file opened by llama.cpp in a fresh process", 0, None)
    try:
        vocabulary = len(read_header(source).fields["tokenizer.ggml.tokens"].data)
        path = (folder / str(source.gguf)).resolve()
        found = await run_llama_cpp(path, tokens, _PROBE, vocabulary, announce)
    except (ProofError, ModelError, KeyError) as error:
        return papers.with_checks([Check("opens", False, str(error))])
    return papers.with_checks(_opened(found, record), environment=found["environment"])


def _opened(found: dict[str, Any], record: Record | None) -> Iterator[Check]:
    runtime = found["environment"]["llama.cpp"]
    yield Check("opens", True, f"llama.cpp ({runtime}), without birdbone: it reads and decodes")
    if record is not None:
        yield check_score(record, found["nll"])
